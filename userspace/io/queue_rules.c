/* SPDX-License-Identifier: BSD-2-Clause */
#include "io/queue_rules.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nf_tables_compat.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/xt_NFQUEUE.h>
#include <linux/netlink.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "io/error.h"
#include "prl_abi.h"

#define PRIORITY_RAW (-300) /* NF_IP_PRI_RAW, which is before NF_IP_PRI_CONNTRACK */
#define NAME_BYTES 16
#define BATCH_BYTES 2048 /* one family's seven messages have some 900 */
#define ANSWER_BYTES 8192

/* Where packets are looked at. What a bridge has shown to netfilter (br_netfilter) passes PREROUTING by afterwards
 * (net/bridge/br_netfilter_hooks.c, ip_sabotage_in); nothing passes LOCAL_IN by. */
static const struct hook {
    const char *chain;
    uint32_t number;
} HOOKS[] = {{"input", NF_INET_PRE_ROUTING}, {"late", NF_INET_LOCAL_IN}};

struct wanted {
    uint16_t number; /* of the queue */
    uint32_t mark;
    bool by_xtables;
};

/* A transaction: one write of several messages, which take effect together or not at all. */
struct batch {
    _Alignas(struct nlmsghdr) uint8_t bytes[BATCH_BYTES];
    uint32_t used;
    uint32_t message; /* where the newest begins */
};

static void begin(struct batch *batch, uint16_t type, uint16_t flags, uint8_t family, uint16_t subsystem)
{
    struct nlmsghdr *head = (void *)(batch->bytes + batch->used);
    struct nfgenmsg *generic = NLMSG_DATA(head);

    batch->message = batch->used;
    *head = (struct nlmsghdr){
        .nlmsg_len = NLMSG_LENGTH(sizeof(*generic)),
        .nlmsg_type = type,
        .nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags),
    };
    *generic = (struct nfgenmsg){.nfgen_family = family, .version = NFNETLINK_V0, .res_id = htons(subsystem)};
    batch->used += NLMSG_SPACE(sizeof(*generic));
}

static void begin_change(struct batch *batch, uint16_t what, uint16_t flags, uint8_t family)
{
    begin(batch, (uint16_t)(NFNL_SUBSYS_NFTABLES << 8 | what), (uint16_t)(NLM_F_CREATE | NLM_F_ACK | flags),
          family, 0);
}

static void set_length(struct batch *batch)
{
    struct nlmsghdr *head = (void *)(batch->bytes + batch->message);

    head->nlmsg_len = batch->used - batch->message;
}

/* Appends an attribute to the newest message; the ones of this file fit. Returns where it is, for close_nest(). */
static uint32_t put(struct batch *batch, uint16_t type, const void *value, size_t bytes)
{
    struct nlattr *attribute = (void *)(batch->bytes + batch->used);
    uint32_t at = batch->used;

    attribute->nla_type = type;
    attribute->nla_len = (uint16_t)(NLA_HDRLEN + bytes);
    if (bytes)
        memcpy((uint8_t *)attribute + NLA_HDRLEN, value, bytes);
    batch->used += (uint32_t)NLA_ALIGN(attribute->nla_len);
    set_length(batch);
    return at;
}

static void put_text(struct batch *batch, uint16_t type, const char *text)
{
    put(batch, type, text, strlen(text) + 1);
}

static void put_number(struct batch *batch, uint16_t type, uint32_t number)
{
    const uint32_t value = htonl(number);

    put(batch, type, &value, sizeof(value));
}

static uint32_t open_nest(struct batch *batch, uint16_t type)
{
    return put(batch, type | NLA_F_NESTED, NULL, 0);
}

static void close_nest(struct batch *batch, uint32_t at)
{
    struct nlattr *nest = (void *)(batch->bytes + at);

    nest->nla_len = (uint16_t)(batch->used - at);
}

/* A register's value, in the byte order of the host. */
static void put_value(struct batch *batch, uint16_t type, uint32_t value)
{
    uint32_t nest = open_nest(batch, type);

    put(batch, NFTA_DATA_VALUE, &value, sizeof(value));
    close_nest(batch, nest);
}

/* Begins one expression of a rule: `ends` are its two nests. */
static void open_expression(struct batch *batch, const char *name, uint32_t ends[2])
{
    ends[0] = open_nest(batch, NFTA_LIST_ELEM);
    put_text(batch, NFTA_EXPR_NAME, name);
    ends[1] = open_nest(batch, NFTA_EXPR_DATA);
}

static void close_expression(struct batch *batch, const uint32_t ends[2])
{
    close_nest(batch, ends[1]);
    close_nest(batch, ends[0]);
}

static void put_mark_is(struct batch *batch, uint32_t mark)
{
    uint32_t ends[2];

    open_expression(batch, "meta", ends);
    put_number(batch, NFTA_META_DREG, NFT_REG_1);
    put_number(batch, NFTA_META_KEY, NFT_META_MARK);
    close_expression(batch, ends);
    open_expression(batch, "bitwise", ends);
    put_number(batch, NFTA_BITWISE_SREG, NFT_REG_1);
    put_number(batch, NFTA_BITWISE_DREG, NFT_REG_1);
    put_number(batch, NFTA_BITWISE_LEN, sizeof(mark));
    put_value(batch, NFTA_BITWISE_MASK, PRL_QUEUE_MASK);
    put_value(batch, NFTA_BITWISE_XOR, 0);
    close_expression(batch, ends);
    open_expression(batch, "cmp", ends);
    put_number(batch, NFTA_CMP_SREG, NFT_REG_1);
    put_number(batch, NFTA_CMP_OP, NFT_CMP_EQ);
    put_value(batch, NFTA_CMP_DATA, mark);
    close_expression(batch, ends);
}

/* Never with a bypass: what finds no queue is dropped. */
static void put_queue(struct batch *batch, uint16_t number, bool by_xtables)
{
    const uint16_t in_order = htons(number), one = htons(1);
    /* as xtables wants it: with the padding of its union */
    const union {
        struct xt_NFQ_info info;
        uint64_t padding;
    } target = {.info = {.queuenum = number}};
    uint32_t ends[2];

    open_expression(batch, by_xtables ? "target" : "queue", ends);
    if (by_xtables) {
        put_text(batch, NFTA_TARGET_NAME, "NFQUEUE");
        put_number(batch, NFTA_TARGET_REV, 0);
        put(batch, NFTA_TARGET_INFO, &target, sizeof(target));
    } else {
        put(batch, NFTA_QUEUE_NUM, &in_order, sizeof(in_order));
        put(batch, NFTA_QUEUE_TOTAL, &one, sizeof(one));
    }
    close_expression(batch, ends);
}

/* What one hook does with such a mark. */
static void put_chain(struct batch *batch, uint8_t family, const char *table, const struct hook *hook,
                      const struct wanted *wanted)
{
    uint32_t nest;

    begin_change(batch, NFT_MSG_NEWCHAIN, NLM_F_EXCL, family);
    put_text(batch, NFTA_CHAIN_TABLE, table);
    put_text(batch, NFTA_CHAIN_NAME, hook->chain);
    nest = open_nest(batch, NFTA_CHAIN_HOOK);
    put_number(batch, NFTA_HOOK_HOOKNUM, hook->number);
    put_number(batch, NFTA_HOOK_PRIORITY, (uint32_t)PRIORITY_RAW);
    close_nest(batch, nest);
    put_text(batch, NFTA_CHAIN_TYPE, "filter");

    begin_change(batch, NFT_MSG_NEWRULE, NLM_F_APPEND, family);
    put_text(batch, NFTA_RULE_TABLE, table);
    put_text(batch, NFTA_RULE_CHAIN, hook->chain);
    nest = open_nest(batch, NFTA_RULE_EXPRESSIONS);
    put_mark_is(batch, wanted->mark);
    put_queue(batch, wanted->number, wanted->by_xtables);
    close_nest(batch, nest);
}

static void put_family(struct batch *batch, uint8_t family, const struct wanted *wanted)
{
    char table[NAME_BYTES];

    snprintf(table, sizeof(table), "prl_queue_%u", (wanted->number - PRL_QUEUE_FIRST) & 0xffu);
    begin_change(batch, NFT_MSG_NEWTABLE, NLM_F_EXCL, family);
    put_text(batch, NFTA_TABLE_NAME, table);
    put_number(batch, NFTA_TABLE_FLAGS, NFT_TABLE_F_OWNER);
    for (size_t i = 0; i < sizeof(HOOKS) / sizeof(HOOKS[0]); i++)
        put_chain(batch, family, table, &HOOKS[i], wanted);
}

/* The answers are here when send() returns: the first that is no success, or -ENODATA when there is none at all. */
static int read_answers(int fd)
{
    _Alignas(struct nlmsghdr) uint8_t answer[ANSWER_BYTES];
    int code = -ENODATA;
    ssize_t got;

    while ((got = recv(fd, answer, sizeof(answer), MSG_DONTWAIT)) > 0) {
        size_t left = (size_t)got;

        for (const struct nlmsghdr *head = (void *)answer; NLMSG_OK(head, left); head = NLMSG_NEXT(head, left)) {
            int error = head->nlmsg_type == NLMSG_ERROR ? ((const struct nlmsgerr *)NLMSG_DATA(head))->error : 0;

            if (code == 0 || code == -ENODATA)
                code = error;
        }
    }
    return code;
}

static int enter_family(int fd, uint8_t family, const struct wanted *wanted)
{
    const struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    struct batch batch = {0};

    begin(&batch, NFNL_MSG_BATCH_BEGIN, 0, AF_UNSPEC, NFNL_SUBSYS_NFTABLES);
    put_family(&batch, family, wanted);
    begin(&batch, NFNL_MSG_BATCH_END, 0, AF_UNSPEC, NFNL_SUBSYS_NFTABLES);
    if (sendto(fd, batch.bytes, batch.used, 0, (const struct sockaddr *)&kernel, sizeof(kernel)) < 0)
        return -errno;
    return read_answers(fd);
}

/* By the expression of nftables' own, or by the target of xtables where the kernel has that alone (nft_compat). */
static int enter(int fd, uint8_t family, uint16_t number, uint32_t mark)
{
    struct wanted wanted = {.number = number, .mark = mark};
    int code = enter_family(fd, family, &wanted);

    if (code == -ENOENT || code == -EOPNOTSUPP) {
        wanted.by_xtables = true;
        code = enter_family(fd, family, &wanted);
    }
    return code;
}

int prl_queue_rules_enter(uint16_t number, uint32_t mark, char *error)
{
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);
    int code = fd < 0 ? -errno : enter(fd, NFPROTO_IPV4, number, mark);

    if (!code) {
        code = enter(fd, NFPROTO_IPV6, number, mark);
        if (code == -EAFNOSUPPORT) /* a kernel without IPv6 has no such input */
            code = 0;
    }
    if (!code)
        return fd;
    if (fd >= 0)
        close(fd);
    snprintf(error, PRL_ERROR_BYTES,
             "nftables refuses the rules for NFQUEUE: %s (it takes nf_tables with nft_queue, or nft_compat with "
             "xt_NFQUEUE)",
             strerror(-code));
    return code;
}
