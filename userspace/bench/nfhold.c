/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a user would build instead: packets held in NFQUEUE until a second host has a copy of each. Written as well as
 * its users would write it: whole GSO packets (NFQA_CFG_F_GSO), many packets a wake-up (recvmmsg), one gathered write
 * to the link without copying, cumulative answers, one batched verdict, optional polling.
 *
 *     prl-nfhold rules ADDRESS [output]             TCP to ADDRESS into queue 0 (and TCP from it into queue 1)
 *     prl-nfhold rules ADDRESS silent               drops TCP from ADDRESS: a shadow's output
 *     prl-nfhold primary LINK-ADDRESS PORT [output] [poll]
 *     prl-nfhold secondary LINK-ADDRESS PORT [poll] [feed]
 *
 * The secondary keeps the copies in a ring of RING_BYTES, as a log. With "feed" it gives them to its own stack instead, by a
 * TUN device with a virtio-net header, and a shadow socket takes them.
 *
 * The rules are entered by the classic setsockopt (linux/netfilter_ipv4/ip_tables.h), table "raw", because the NFQUEUE
 * target of x_tables is in more kernels than nftables' queue expression, and no tool is needed. IPv4 only.
 *
 * This does less than prl: without "feed" there is nothing to go on with after a failure; with it, no loss on the way into
 * the shadow is noticed, the peer's window is not that of both sides, and nothing decides who may speak.
 */
#define _GNU_SOURCE /* recvmmsg */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_ether.h>
#include <linux/if_tun.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_queue.h>
#include <linux/netfilter/xt_NFQUEUE.h>
#include <linux/netfilter_ipv4/ip_tables.h>
#include <linux/netlink.h>
#include <linux/virtio_net.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define QUEUES 2 /* input, output */
#define BATCH 32 /* packets of one wake-up */
#define PACKET_BYTES (66 << 10)
#define RING_BYTES (64u << 20)
#define RX_BYTES (4u << 20)
#define QUEUE_PACKETS 16384
#define POLL_NS 200000ll /* as prld's adaptive polling */

static void die(const char *what)
{
    fprintf(stderr, "prl-nfhold: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ll + now.tv_nsec;
}

/* ---- rules ---- */

struct rule {
    struct ipt_entry entry;
    union {
        struct {
            struct xt_entry_target head;
            struct xt_NFQ_info info;
        } queue;
        struct xt_standard_target verdict;
    } target;
} __attribute__((aligned(8)));

enum place { INPUT_RULE, INPUT_POLICY, OUTPUT_RULE, OUTPUT_POLICY, RULES };

struct table {
    struct ipt_replace head;
    struct rule rule[RULES];
    struct ipt_entry end;
    struct xt_error_target error;
};

static void set_queue(struct rule *rule, uint16_t queue)
{
    rule->entry.ip.proto = IPPROTO_TCP;
    memset(&rule->target, 0, sizeof(rule->target));
    rule->target.queue.head.u.target_size =
        XT_ALIGN(sizeof(rule->target.queue.head)) + XT_ALIGN(sizeof(struct xt_NFQ_info));
    strcpy(rule->target.queue.head.u.user.name, "NFQUEUE");
    rule->target.queue.info.queuenum = queue;
}

static void set_verdict(struct rule *rule, int verdict)
{
    rule->target.verdict.verdict = -verdict - 1;
}

/* One size for all, so that an offset is an index. */
static void enter_rules(const char *address, bool output, bool silent)
{
    const uint32_t size = sizeof(struct rule), end = sizeof(struct ipt_entry) + sizeof(struct xt_error_target);
    struct table table = {.head = {.name = "raw", .num_entries = RULES + 1, .size = RULES * size + end}};
    struct xt_counters counters[RULES + 1];
    struct ipt_getinfo info = {.name = "raw"};
    socklen_t length = sizeof(info);
    int fd = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);

    if (fd < 0 || getsockopt(fd, IPPROTO_IP, IPT_SO_GET_INFO, &info, &length) < 0)
        die("table raw");
    table.head.valid_hooks = info.valid_hooks;
    table.head.num_counters = info.num_entries;
    table.head.counters = counters;
    table.head.hook_entry[NF_INET_PRE_ROUTING] = INPUT_RULE * size;
    table.head.underflow[NF_INET_PRE_ROUTING] = INPUT_POLICY * size;
    table.head.hook_entry[NF_INET_LOCAL_OUT] = OUTPUT_RULE * size;
    table.head.underflow[NF_INET_LOCAL_OUT] = OUTPUT_POLICY * size;
    for (int i = 0; i < RULES; i++) {
        table.rule[i].entry.target_offset = offsetof(struct rule, target);
        table.rule[i].entry.next_offset = (uint16_t)size;
        table.rule[i].target.verdict.target.u.target_size = sizeof(struct xt_standard_target);
        set_verdict(&table.rule[i], NF_ACCEPT);
    }
    if (silent)
        set_verdict(&table.rule[OUTPUT_RULE], NF_DROP);
    else
        set_queue(&table.rule[INPUT_RULE], 0);
    inet_pton(AF_INET, address, &table.rule[INPUT_RULE].entry.ip.dst);
    memset(&table.rule[INPUT_RULE].entry.ip.dmsk, 0xff, sizeof(struct in_addr));
    if (output)
        set_queue(&table.rule[OUTPUT_RULE], 1);
    table.rule[OUTPUT_RULE].entry.ip.proto = IPPROTO_TCP;
    inet_pton(AF_INET, address, &table.rule[OUTPUT_RULE].entry.ip.src);
    memset(&table.rule[OUTPUT_RULE].entry.ip.smsk, 0xff, sizeof(struct in_addr));
    table.end.target_offset = sizeof(table.end);
    table.end.next_offset = (uint16_t)end;
    table.error.target.u.target_size = sizeof(table.error);
    strcpy(table.error.target.u.user.name, XT_ERROR_TARGET);
    strcpy(table.error.errorname, XT_ERROR_TARGET);
    if (setsockopt(fd, IPPROTO_IP, IPT_SO_SET_REPLACE, &table, sizeof(table)) < 0)
        die("rules");
    close(fd);
}

/* ---- the queue's netlink ---- */

struct request {
    struct nlmsghdr head;
    struct nfgenmsg gen;
    struct nlattr attr;
    uint8_t value[12];
};

static int netlink_open(void)
{
    struct sockaddr_nl own = {.nl_family = AF_NETLINK};
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_NETFILTER);
    int bytes = 64 << 20, one = 1;

    if (fd < 0 || bind(fd, (struct sockaddr *)&own, sizeof(own)) < 0)
        die("netlink");
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes));
    setsockopt(fd, SOL_NETLINK, NETLINK_NO_ENOBUFS, &one, sizeof(one));
    return fd;
}

static void ask(int fd, uint16_t queue, uint16_t type, uint16_t attr, const void *value, uint16_t bytes)
{
    struct request request = {
        .head = {.nlmsg_type = (uint16_t)(NFNL_SUBSYS_QUEUE << 8 | type), .nlmsg_flags = NLM_F_REQUEST},
        .gen = {.nfgen_family = AF_UNSPEC, .version = NFNETLINK_V0, .res_id = htons(queue)},
        .attr = {.nla_type = attr, .nla_len = (uint16_t)(NLA_HDRLEN + bytes)},
    };

    memcpy(request.value, value, bytes);
    request.head.nlmsg_len = (uint32_t)(offsetof(struct request, value) + NLA_ALIGN(bytes));
    if (send(fd, &request, request.head.nlmsg_len, 0) < 0)
        die("netlink request");
}

static void ask_flags(int fd, uint16_t queue)
{
    struct {
        struct nlmsghdr head;
        struct nfgenmsg gen;
        struct nlattr mask_attr;
        uint32_t mask;
        struct nlattr flags_attr;
        uint32_t flags;
    } request = {
        .head = {.nlmsg_len = sizeof(request),
                 .nlmsg_type = NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_CONFIG,
                 .nlmsg_flags = NLM_F_REQUEST},
        .gen = {.nfgen_family = AF_UNSPEC, .version = NFNETLINK_V0, .res_id = htons(queue)},
        .mask_attr = {.nla_type = NFQA_CFG_MASK, .nla_len = NLA_HDRLEN + 4},
        .mask = htonl(NFQA_CFG_F_GSO),
        .flags_attr = {.nla_type = NFQA_CFG_FLAGS, .nla_len = NLA_HDRLEN + 4},
        .flags = htonl(NFQA_CFG_F_GSO),
    };

    if (send(fd, &request, sizeof(request), 0) < 0)
        die("netlink flags");
}

static void bind_queue(int fd, uint16_t queue)
{
    struct nfqnl_msg_config_cmd command = {.command = NFQNL_CFG_CMD_BIND, .pf = htons(AF_INET)};
    struct nfqnl_msg_config_params params = {.copy_range = htonl(0xffff), .copy_mode = NFQNL_COPY_PACKET};
    uint32_t length = htonl(QUEUE_PACKETS);

    ask(fd, queue, NFQNL_MSG_CONFIG, NFQA_CFG_CMD, &command, sizeof(command));
    ask(fd, queue, NFQNL_MSG_CONFIG, NFQA_CFG_PARAMS, &params, sizeof(params));
    ask(fd, queue, NFQNL_MSG_CONFIG, NFQA_CFG_QUEUE_MAXLEN, &length, sizeof(length));
    ask_flags(fd, queue);
}

/* Everything up to `id` goes on its way. */
static void accept_up_to(int fd, uint16_t queue, uint32_t id)
{
    struct nfqnl_msg_verdict_hdr verdict = {.verdict = htonl(NF_ACCEPT), .id = htonl(id)};

    ask(fd, queue, NFQNL_MSG_VERDICT_BATCH, NFQA_VERDICT_HDR, &verdict, sizeof(verdict));
}

/* ---- the link ---- */

struct frame { /* before each copy; bytes = 0 in an answer */
    uint32_t queue, id, bytes;
};

/* As prld's own link: nothing on it is delayed or paced. Before it is connected or listens. */
static void link_tune(int fd)
{
    const char cubic[] = "cubic";
    int one = 1;

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, cubic, sizeof(cubic) - 1);
}

static int link_connect(const char *address, uint16_t port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    inet_pton(AF_INET, address, &to.sin_addr);
    link_tune(fd);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0)
        die("link");
    return fd;
}

static int link_accept(const char *address, uint16_t port)
{
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_port = htons(port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1, taken;

    inet_pton(AF_INET, address, &own.sin_addr);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    link_tune(fd);
    if (fd < 0 || bind(fd, (struct sockaddr *)&own, sizeof(own)) < 0 || listen(fd, 1) < 0)
        die("link");
    printf("ready\n");
    fflush(stdout);
    taken = accept(fd, NULL, NULL);
    if (taken < 0)
        die("link");
    close(fd);
    return taken;
}

static void write_whole(int fd, struct iovec *piece, int pieces)
{
    while (pieces) {
        ssize_t sent = writev(fd, piece, pieces);

        if (sent < 0)
            die("link write");
        for (; pieces && (size_t)sent >= piece->iov_len; pieces--, piece++)
            sent -= (ssize_t)piece->iov_len;
        if (pieces) {
            piece->iov_base = (uint8_t *)piece->iov_base + sent;
            piece->iov_len -= (size_t)sent;
        }
    }
}

/* ---- primary ---- */

static uint8_t packet[BATCH][PACKET_BYTES];
static struct frame frame[BATCH];

/* The packet in one netlink message; false when it is none. */
static bool parse(uint8_t *data, uint32_t bytes, struct frame *found, struct iovec *payload)
{
    struct nlmsghdr *head = (struct nlmsghdr *)data;
    uint32_t at = NLMSG_LENGTH(sizeof(struct nfgenmsg));
    bool known = false;

    if (bytes < at || head->nlmsg_type != (NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_PACKET))
        return false;
    found->queue = ntohs(((struct nfgenmsg *)NLMSG_DATA(head))->res_id);
    while (at + NLA_HDRLEN <= head->nlmsg_len) {
        struct nlattr *attr = (struct nlattr *)(data + at);

        if (attr->nla_len < NLA_HDRLEN)
            return false;
        if (attr->nla_type == NFQA_PACKET_HDR) {
            found->id = ntohl(((struct nfqnl_msg_packet_hdr *)(attr + 1))->packet_id);
            known = true;
        } else if (attr->nla_type == NFQA_PAYLOAD) {
            payload->iov_base = attr + 1;
            payload->iov_len = attr->nla_len - NLA_HDRLEN;
        }
        at += NLA_ALIGN(attr->nla_len);
    }
    found->bytes = (uint32_t)payload->iov_len;
    return known && payload->iov_len;
}

static bool take_packets(int netlink, int link)
{
    static struct mmsghdr message[BATCH];
    static struct iovec space[BATCH];
    struct iovec piece[2 * BATCH];
    int got, pieces = 0;

    for (int i = 0; i < BATCH; i++) {
        space[i] = (struct iovec){.iov_base = packet[i], .iov_len = PACKET_BYTES};
        message[i].msg_hdr = (struct msghdr){.msg_iov = &space[i], .msg_iovlen = 1};
    }
    got = recvmmsg(netlink, message, BATCH, MSG_DONTWAIT, NULL);
    for (int i = 0; i < got; i++) {
        if (!parse(packet[i], message[i].msg_len, &frame[i], &piece[pieces + 1]))
            continue;
        piece[pieces] = (struct iovec){.iov_base = &frame[i], .iov_len = sizeof(frame[i])};
        pieces += 2;
    }
    if (pieces)
        write_whole(link, piece, pieces);
    return pieces > 0;
}

static bool take_answers(int netlink, int link)
{
    static uint8_t rest[sizeof(struct frame)];
    static uint32_t have;
    static uint8_t data[BATCH * sizeof(struct frame)];
    uint32_t newest[QUEUES];
    bool known[QUEUES] = {false};
    ssize_t got = recv(link, data, sizeof(data) - sizeof(rest), MSG_DONTWAIT);

    if (got == 0)
        exit(0);
    if (got < 0)
        return false;
    for (ssize_t i = 0; i < got; i++) {
        rest[have++] = data[i];
        if (have == sizeof(rest)) {
            struct frame answer;

            memcpy(&answer, rest, sizeof(answer));
            newest[answer.queue % QUEUES] = answer.id;
            known[answer.queue % QUEUES] = true;
            have = 0;
        }
    }
    for (uint16_t queue = 0; queue < QUEUES; queue++)
        if (known[queue])
            accept_up_to(netlink, queue, newest[queue]);
    return true;
}

static void primary(int link, bool output, bool polling)
{
    int netlink = netlink_open();
    int64_t until = 0;

    bind_queue(netlink, 0);
    if (output)
        bind_queue(netlink, 1);
    printf("ready\n");
    fflush(stdout);
    for (;;) {
        struct pollfd set[2] = {{.fd = netlink, .events = POLLIN}, {.fd = link, .events = POLLIN}};
        bool worked = take_answers(netlink, link);

        worked |= take_packets(netlink, link);
        if (worked && polling)
            until = now_ns() + POLL_NS;
        if (worked)
            continue;
        if (polling && now_ns() < until)
            sched_yield();
        else
            poll(set, 2, -1);
    }
}

/* ---- secondary ---- */

static uint8_t *ring;
static uint64_t ring_at;
static int tun_fd = -1;

static void open_tun(void)
{
    struct ifreq request = {.ifr_name = "nf0", .ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    tun_fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    if (tun_fd < 0 || ioctl(tun_fd, TUNSETIFF, &request) < 0)
        die("TUN");
    request.ifr_flags = IFF_UP | IFF_NOARP;
    if (ioctl(fd, SIOCSIFFLAGS, &request) < 0)
        die("TUN up");
    close(fd);
}

/* The sender is on this machine and left its checksums to the receiver (NFQA_SKB_CSUMNOTREADY), which skips them. */
static void feed(const uint8_t *data, uint32_t bytes)
{
    uint32_t ip_bytes = (data[0] & 15u) * 4, tcp_bytes = (data[ip_bytes + 12] >> 4) * 4u;
    struct virtio_net_hdr vnet = {
        .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
        .csum_start = (uint16_t)ip_bytes,
        .csum_offset = 16,
        .hdr_len = (uint16_t)(ip_bytes + tcp_bytes),
    };
    struct iovec piece[2] = {
        {.iov_base = &vnet, .iov_len = sizeof(vnet)},
        {.iov_base = (void *)(uintptr_t)data, .iov_len = bytes},
    };

    if (bytes > ETH_DATA_LEN) {
        vnet.gso_type = VIRTIO_NET_HDR_GSO_TCPV4;
        vnet.gso_size = (uint16_t)(ETH_DATA_LEN - ip_bytes - tcp_bytes);
    }
    if (writev(tun_fd, piece, 2) < 0)
        die("TUN write");
}

static void keep(const uint8_t *data, uint32_t bytes)
{
    uint32_t at = (uint32_t)(ring_at % RING_BYTES);
    uint32_t first = RING_BYTES - at < bytes ? RING_BYTES - at : bytes;

    memcpy(ring + at, data, first);
    memcpy(ring, data + first, bytes - first);
    ring_at += bytes;
}

static void secondary(int link, bool polling)
{
    uint8_t *data = malloc(RX_BYTES);
    uint32_t have = 0;
    int64_t until = 0;

    ring = calloc(1, RING_BYTES);
    if (!ring || !data)
        die("memory");
    for (;;) {
        struct pollfd set = {.fd = link, .events = POLLIN};
        ssize_t got = recv(link, data + have, RX_BYTES - have, MSG_DONTWAIT);
        struct frame answer[QUEUES] = {{0}}, head;
        bool owed[QUEUES] = {false};
        uint32_t at = 0;

        if (got == 0)
            return;
        if (got < 0) {
            if (polling && now_ns() < until)
                sched_yield();
            else
                poll(&set, 1, -1);
            continue;
        }
        until = now_ns() + POLL_NS;
        have += (uint32_t)got;
        while (have - at >= sizeof(head)) {
            memcpy(&head, data + at, sizeof(head));
            if (have - at < sizeof(head) + head.bytes)
                break;
            if (tun_fd >= 0)
                feed(data + at + sizeof(head), head.bytes);
            else
                keep(data + at, (uint32_t)sizeof(head) + head.bytes);
            at += (uint32_t)sizeof(head) + head.bytes;
            answer[head.queue % QUEUES] = (struct frame){.queue = head.queue, .id = head.id};
            owed[head.queue % QUEUES] = true;
        }
        memmove(data, data + at, have - at);
        have -= at;
        for (int i = 0; i < QUEUES; i++)
            if (owed[i] && send(link, &answer[i], sizeof(answer[i]), MSG_NOSIGNAL) < 0)
                return;
    }
}

static uint16_t port_of(const char *text)
{
    char *end;
    long value = strtol(text, &end, 10);

    errno = EINVAL;
    if (*end || value < 1 || value > UINT16_MAX)
        die("port");
    return (uint16_t)value;
}

static bool has(int argc, char **argv, const char *word)
{
    for (int i = 2; i < argc; i++)
        if (strcmp(argv[i], word) == 0)
            return true;
    return false;
}

int main(int argc, char **argv)
{
    bool polling = has(argc, argv, "poll"), output = has(argc, argv, "output");

    if (has(argc, argv, "feed"))
        open_tun();

    if (argc >= 3 && strcmp(argv[1], "rules") == 0)
        enter_rules(argv[2], output, has(argc, argv, "silent"));
    else if (argc >= 4 && strcmp(argv[1], "primary") == 0)
        primary(link_connect(argv[2], port_of(argv[3])), output, polling);
    else if (argc >= 4 && strcmp(argv[1], "secondary") == 0)
        secondary(link_accept(argv[2], port_of(argv[3])), polling);
    else
        return fprintf(stderr, "usage: prl-nfhold rules|primary|secondary ADDRESS …\n"), 2;
    return 0;
}
