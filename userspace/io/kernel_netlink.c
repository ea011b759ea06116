/* SPDX-License-Identifier: BSD-2-Clause */
/* What libbpf has no call for: requests to rtnetlink about queueing disciplines and filters. */
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/netlink.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <linux/tc_act/tc_mirred.h>
#include <arpa/inet.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "io/kernel_netlink.h"
#include "io/kernel_private.h"

#define ATTRIBUTES_BYTES 256
#define FILTER_NAME "prl_pick"
#define ANSWER_BYTES 32768 /* of a dump, one message (net/netlink/af_netlink.c, netlink_dump) */

struct request {
    struct nlmsghdr head;
    struct tcmsg tc;
    uint8_t attributes[ATTRIBUTES_BYTES]; /* as many as head.nlmsg_len says */
};

/* To make something, or to put it in the place of what is there. */
static struct request request_of(uint16_t type, uint32_t ifindex)
{
    return (struct request){
        .head = {.nlmsg_len = NLMSG_LENGTH(sizeof(struct tcmsg)),
                 .nlmsg_type = type,
                 .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE},
        .tc = {.tcm_family = AF_UNSPEC, .tcm_ifindex = (int)ifindex},
    };
}

/* Appends an attribute; the ones of this file fit. Returns where its header is, for close_nest(). */
static struct rtattr *put(struct request *request, uint16_t type, const void *value, size_t bytes)
{
    struct rtattr *attribute = (struct rtattr *)(void *)((uint8_t *)request + request->head.nlmsg_len);

    attribute->rta_type = type;
    attribute->rta_len = (uint16_t)RTA_LENGTH(bytes);
    if (bytes)
        memcpy(RTA_DATA(attribute), value, bytes);
    request->head.nlmsg_len += (uint32_t)RTA_SPACE(bytes);
    return attribute;
}

static struct rtattr *open_nest(struct request *request, uint16_t type)
{
    return put(request, type | NLA_F_NESTED, NULL, 0);
}

static void close_nest(const struct request *request, struct rtattr *nest)
{
    nest->rta_len = (uint16_t)((const uint8_t *)request + request->head.nlmsg_len - (const uint8_t *)nest);
}

static int ask(const struct request *request)
{
    struct {
        struct nlmsghdr head;
        struct nlmsgerr result;
        char rest[sizeof(*request) + PRL_ERROR_BYTES]; /* the request again, and the kernel's own words */
    } answer = {0};

    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (fd < 0)
        return -errno;
    int code = 0;
    if (send(fd, request, request->head.nlmsg_len, 0) < 0 || recv(fd, &answer, sizeof(answer), 0) < 0)
        code = -errno;
    else if (answer.head.nlmsg_type == NLMSG_ERROR)
        code = answer.result.error;
    close(fd);
    return code;
}

/*
 * Takes the queueing discipline off the hold TAP. Behind one, a frame that the full TAP drops still counts as sent
 * (net/core/dev.c, __dev_xmit_skb); without, prl_egress learns of it and lets the retransmission be held.
 */
int prl_netlink_remove_queue(uint32_t ifindex)
{
    struct request request = request_of(RTM_NEWQDISC, ifindex);

    request.tc.tcm_parent = TC_H_ROOT;
    put(&request, TCA_KIND, "noqueue", sizeof("noqueue"));
    return ask(&request);
}

int prl_netlink_add_mirror(uint32_t ifindex, uint16_t priority, int program, uint32_t target)
{
    struct request request = request_of(RTM_NEWTFILTER, ifindex);
    const struct tc_mirred to_target = {
        .action = TC_ACT_STOLEN,
        .eaction = TCA_INGRESS_REDIR,
        .ifindex = target,
    };
    struct rtattr *options, *actions, *first, *mirred;

    request.tc.tcm_parent = TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS);
    request.tc.tcm_info = TC_H_MAKE((uint32_t)priority << 16, htons(ETH_P_ALL));
    request.tc.tcm_handle = 1;
    put(&request, TCA_KIND, "bpf", sizeof("bpf"));
    options = open_nest(&request, TCA_OPTIONS);
    put(&request, TCA_BPF_FD, &program, sizeof(program));
    put(&request, TCA_BPF_NAME, FILTER_NAME, sizeof(FILTER_NAME));
    actions = open_nest(&request, TCA_BPF_ACT);
    first = open_nest(&request, 1);
    put(&request, TCA_ACT_KIND, "mirred", sizeof("mirred"));
    mirred = open_nest(&request, TCA_ACT_OPTIONS);
    put(&request, TCA_MIRRED_PARMS, &to_target, sizeof(to_target));
    close_nest(&request, mirred);
    close_nest(&request, first);
    close_nest(&request, actions);
    close_nest(&request, options);
    return ask(&request);
}

/* One filter of a dump; false: the head of its priority, or one that is run only when another sends packets there. */
static bool read_filter(const struct nlmsghdr *head, struct prl_filter *filter)
{
    const struct tcmsg *tc = NLMSG_DATA(head);
    size_t left = head->nlmsg_len - NLMSG_LENGTH(sizeof(*tc));
    const struct rtattr *attribute = (const void *)((const uint8_t *)tc + NLMSG_ALIGN(sizeof(*tc)));
    const struct rtattr *options = NULL;
    uint32_t chain = 0;

    *filter = (struct prl_filter){.handle = tc->tcm_handle, .priority = tc->tcm_info >> 16};
    for (; RTA_OK(attribute, left); attribute = RTA_NEXT(attribute, left)) {
        size_t bytes = RTA_PAYLOAD(attribute);

        if (attribute->rta_type == TCA_KIND)
            memcpy(filter->kind, RTA_DATA(attribute),
                   bytes < sizeof(filter->kind) ? bytes : sizeof(filter->kind) - 1);
        else if (attribute->rta_type == TCA_CHAIN && bytes == sizeof(chain))
            memcpy(&chain, RTA_DATA(attribute), bytes);
        else if ((attribute->rta_type & NLA_TYPE_MASK) == TCA_OPTIONS)
            options = attribute;
    }
    if (options && strcmp(filter->kind, "bpf") == 0) {
        left = RTA_PAYLOAD(options);
        for (attribute = RTA_DATA(options); RTA_OK(attribute, left); attribute = RTA_NEXT(attribute, left))
            if (attribute->rta_type == TCA_BPF_ID && RTA_PAYLOAD(attribute) == sizeof(filter->program))
                memcpy(&filter->program, RTA_DATA(attribute), sizeof(filter->program));
    }
    return filter->handle && chain == 0;
}

int prl_netlink_first_filter(uint32_t ifindex, uint16_t side, struct prl_filter *first)
{
    struct request request = request_of(RTM_GETTFILTER, ifindex);
    _Alignas(struct nlmsghdr) char answer[ANSWER_BYTES];
    int code = 0;
    bool more = true;

    memset(first, 0, sizeof(*first));
    request.head.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
    request.tc.tcm_parent = TC_H_MAKE(TC_H_CLSACT, side);
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (fd < 0)
        return -errno;
    if (send(fd, &request, request.head.nlmsg_len, 0) < 0)
        code = -errno;
    while (!code && more) {
        ssize_t got = recv(fd, answer, sizeof(answer), 0);
        size_t left = got > 0 ? (size_t)got : 0;

        if (got <= 0)
            code = got < 0 ? -errno : -EPIPE;
        for (const struct nlmsghdr *head = (void *)answer; more && NLMSG_OK(head, left);
             head = NLMSG_NEXT(head, left)) {
            if (head->nlmsg_type == NLMSG_ERROR)
                code = ((const struct nlmsgerr *)NLMSG_DATA(head))->error;
            more = head->nlmsg_type == RTM_NEWTFILTER && !read_filter(head, first);
        }
    }
    if (!first->kind[0] || !first->handle)
        memset(first, 0, sizeof(*first));
    close(fd);
    return code;
}
