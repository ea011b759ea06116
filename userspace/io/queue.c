/* SPDX-License-Identifier: BSD-2-Clause */
#define _GNU_SOURCE /* recvmmsg */
#include "io/queue.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_queue.h>
#include <linux/netlink.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "io/error.h"
#include "io/queue_rules.h"
#include "tcp/serial.h"

/* Packets of one look, and frames for the longest of them with what netlink says in front. */
#define SLOTS 32u
#define SLOT_FRAMES 17u
/* Verdicts of one message to the kernel. */
#define VERDICTS 64u
#define SCRATCH_BYTES 512

struct verdict {
    struct nlmsghdr head;
    struct nfgenmsg generic;
    struct nlattr verdict_head;
    struct nfqnl_msg_verdict_hdr verdict;
    struct nlattr mark_head;
    uint32_t mark;
};
_Static_assert(sizeof(struct verdict) == 40, "messages of netlink, one behind the other");

/* A packet and what becomes of it, as long as the kernel has not been told. */
struct settled {
    uint32_t number;
    bool passes;
};

struct prl_queue {
    struct prl_umem *umem;
    int fd, rules_fd;
    uint32_t copy_bytes;
    uint16_t number;
    uint32_t ready; /* slots that have all their frames */
    bool goes_on; /* the newest look filled all of them */
    uint32_t frame[SLOTS][SLOT_FRAMES];
    struct iovec piece[SLOTS][SLOT_FRAMES];
    struct mmsghdr message[SLOTS];
    struct verdict verdict[VERDICTS];
    struct settled *settled; /* [PRL_QUEUE_PACKETS_MAX] */
    uint32_t settled_count;
    bool in_order; /* by their numbers */
    uint64_t dropped; /* read, but not kept */
    uint64_t refused;
};

/* What one message says of a packet. */
struct told {
    uint32_t number, mark;
    uint32_t payload, payload_bytes; /* where in the message */
    const uint8_t *source;           /* MAC address, or NULL */
    uint32_t whole_bytes; /* of a packet that is cut; 0: it is not */
    bool is_uncut;
};

/* ---- requests ---- */

/* One request with one attribute; its answer is awaited. 0 or -errno. */
static int ask(int fd, uint16_t number, uint16_t type, const void *value, uint16_t bytes)
{
    struct {
        struct nlmsghdr head;
        struct nfgenmsg generic;
        struct nlattr attribute;
        uint8_t value[16];
    } request = {
        .head = {.nlmsg_type = NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_CONFIG,
                 .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK},
        .generic = {.version = NFNETLINK_V0, .res_id = htons(number)},
        .attribute = {.nla_type = type, .nla_len = (uint16_t)(NLA_HDRLEN + bytes)},
    };
    struct {
        struct nlmsghdr head;
        struct nlmsgerr result;
        uint8_t rest[SCRATCH_BYTES];
    } answer = {0};

    memcpy(request.value, value, bytes);
    request.head.nlmsg_len = (uint32_t)(offsetof(typeof(request), value) + NLA_ALIGN(bytes));
    if (send(fd, &request, request.head.nlmsg_len, 0) < 0 || recv(fd, &answer, sizeof(answer), 0) < 0)
        return -errno;
    return answer.head.nlmsg_type == NLMSG_ERROR ? answer.result.error : -EPROTO;
}

/* Whole packets (F_GSO); never F_FAIL_OPEN, by which packets would overtake those that wait (I2). */
static int configure(int fd, uint16_t number, uint32_t copy_bytes)
{
    const struct nfqnl_msg_config_params copy = {.copy_range = htonl(copy_bytes), .copy_mode = NFQNL_COPY_PACKET};
    const uint32_t length = htonl(PRL_QUEUE_PACKETS_MAX);
    struct {
        struct nlmsghdr head;
        struct nfgenmsg generic;
        struct nlattr mask_head;
        uint32_t mask;
        struct nlattr flags_head;
        uint32_t flags;
    } request = {
        .head = {.nlmsg_len = sizeof(request),
                 .nlmsg_type = NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_CONFIG,
                 .nlmsg_flags = NLM_F_REQUEST},
        .generic = {.version = NFNETLINK_V0, .res_id = htons(number)},
        .mask_head = {.nla_type = NFQA_CFG_MASK, .nla_len = NLA_HDRLEN + sizeof(uint32_t)},
        .mask = htonl(NFQA_CFG_F_GSO | NFQA_CFG_F_FAIL_OPEN),
        .flags_head = {.nla_type = NFQA_CFG_FLAGS, .nla_len = NLA_HDRLEN + sizeof(uint32_t)},
        .flags = htonl(NFQA_CFG_F_GSO),
    };
    int code = send(fd, &request, sizeof(request), 0) < 0 ? -errno : 0;

    if (!code)
        code = ask(fd, number, NFQA_CFG_QUEUE_MAXLEN, &length, sizeof(length));
    if (!code) /* last: from now on it is fed */
        code = ask(fd, number, NFQA_CFG_PARAMS, &copy, sizeof(copy));
    return code;
}

/* The first number that nobody else has in this network namespace. */
static int take_number(struct prl_queue *queue)
{
    const struct nfqnl_msg_config_cmd bind = {.command = NFQNL_CFG_CMD_BIND};
    int code = -EBUSY;

    for (uint16_t i = 0; i < PRL_QUEUE_COUNT && code == -EBUSY; i++) {
        queue->number = (uint16_t)(PRL_QUEUE_FIRST + i);
        code = ask(queue->fd, queue->number, NFQA_CFG_CMD, &bind, sizeof(bind));
        if (code == -EPERM) /* so the kernel says that it is somebody else's */
            code = -EBUSY;
    }
    return code ? code : configure(queue->fd, queue->number, queue->copy_bytes);
}

static uint32_t mark_of(const struct prl_queue *queue)
{
    return PRL_QUEUE_MARKS | (uint32_t)(queue->number - PRL_QUEUE_FIRST) << PRL_QUEUE_SHIFT;
}

/* Without ENOBUFS: what finds no room is dropped and counted, and the next read goes on. */
static int open_socket(void)
{
    const struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    const int bytes = PRL_QUEUE_UNREAD_BYTES, on = 1;
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);

    if (fd >= 0 && (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes)) < 0 ||
                    setsockopt(fd, SOL_NETLINK, NETLINK_NO_ENOBUFS, &on, sizeof(on)) < 0 ||
                    connect(fd, (const struct sockaddr *)&kernel, sizeof(kernel)) < 0)) {
        int code = -errno;

        close(fd);
        return code;
    }
    return fd < 0 ? -errno : fd;
}

static void prepare_verdicts(struct prl_queue *queue)
{
    for (uint32_t i = 0; i < VERDICTS; i++)
        queue->verdict[i] = (struct verdict){
            .head = {.nlmsg_len = sizeof(struct verdict),
                     .nlmsg_type = NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_VERDICT,
                     .nlmsg_flags = NLM_F_REQUEST},
            .generic = {.version = NFNETLINK_V0, .res_id = htons(queue->number)},
            .verdict_head = {.nla_type = NFQA_VERDICT_HDR,
                             .nla_len = NLA_HDRLEN + sizeof(struct nfqnl_msg_verdict_hdr)},
            .mark_head = {.nla_type = NFQA_MARK, .nla_len = NLA_HDRLEN + sizeof(uint32_t)},
            .mark = htonl(PRL_MARK_RELEASE),
        };
}

struct prl_queue *prl_queue_open(struct prl_umem *umem, uint32_t copy_bytes, uint32_t *mark, char *error)
{
    struct prl_queue *queue = calloc(1, sizeof(*queue));
    int code;

    if (!queue) {
        snprintf(error, PRL_ERROR_BYTES, "no memory for the queue of waiting packets");
        return NULL;
    }
    queue->umem = umem;
    queue->copy_bytes = copy_bytes;
    queue->in_order = true;
    queue->rules_fd = queue->fd = -1;
    queue->settled = calloc(PRL_QUEUE_PACKETS_MAX, sizeof(*queue->settled));
    if (!queue->settled) {
        snprintf(error, PRL_ERROR_BYTES, "no memory for the verdicts of waiting packets");
        prl_queue_close(queue);
        return NULL;
    }
    queue->fd = open_socket();
    code = queue->fd < 0 ? queue->fd : take_number(queue);
    if (code) {
        snprintf(error, PRL_ERROR_BYTES, "NFQUEUE: %s", strerror(-code));
        prl_queue_close(queue);
        return NULL;
    }
    prepare_verdicts(queue);
    for (uint32_t i = 0; i < SLOTS; i++)
        for (uint32_t j = 0; j < SLOT_FRAMES; j++)
            queue->frame[i][j] = PRL_FRAME_NONE;
    *mark = mark_of(queue);
    queue->rules_fd = prl_queue_rules_enter(queue->number, *mark, error);
    if (queue->rules_fd < 0) {
        prl_queue_close(queue);
        return NULL;
    }
    return queue;
}

/* The frames of the slots go with the packet memory, which is closed behind this. */
void prl_queue_close(struct prl_queue *queue)
{
    if (!queue)
        return;
    if (queue->rules_fd >= 0)
        close(queue->rules_fd);
    if (queue->fd >= 0)
        close(queue->fd);
    free(queue->settled);
    free(queue);
}

int prl_queue_fd(const struct prl_queue *queue)
{
    return queue->fd;
}

uint16_t prl_queue_number(const struct prl_queue *queue)
{
    return queue->number;
}

/* A queue and rules that nobody's packets bear the mark of: as prl_queue_open() makes them. */
int prl_queue_probe(char *error)
{
    struct prl_queue probe = {.fd = open_socket(), .rules_fd = -1, .copy_bytes = PRL_QUEUE_WHOLE};
    int code = probe.fd < 0 ? probe.fd : take_number(&probe);

    if (code)
        snprintf(error, PRL_ERROR_BYTES, "NFQUEUE: %s", strerror(-code));
    else
        code = probe.rules_fd = prl_queue_rules_enter(probe.number, mark_of(&probe), error);
    if (probe.rules_fd >= 0)
        close(probe.rules_fd);
    if (probe.fd >= 0)
        close(probe.fd);
    return code < 0 ? code : 0;
}

/* ---- packets ---- */

/* Where a slot's packet is read to: its frames, neighbours in one piece. */
static uint32_t slot_pieces(const struct prl_umem *umem, const uint32_t *frame, struct iovec *piece)
{
    uint32_t pieces = 0;

    for (uint32_t j = 0; j < SLOT_FRAMES; j++) {
        if (j && frame[j] == frame[j - 1] + 1)
            piece[pieces - 1].iov_len += umem->frame_bytes;
        else
            piece[pieces++] = (struct iovec){
                .iov_base = umem->area + (size_t)frame[j] * umem->frame_bytes,
                .iov_len = umem->frame_bytes,
            };
    }
    return pieces;
}

/* Gives slots the frames that the last look has taken, as far as there are any. */
static void prepare_slots(struct prl_queue *queue, uint32_t wanted)
{
    struct prl_umem *umem = queue->umem;

    for (queue->ready = 0; queue->ready < wanted; queue->ready++) {
        uint32_t *frame = queue->frame[queue->ready];
        struct msghdr *head = &queue->message[queue->ready].msg_hdr;

        if (head->msg_iovlen) /* the last look did not come to it */
            continue;
        for (uint32_t j = 0; j < SLOT_FRAMES; j++) {
            if (frame[j] != PRL_FRAME_NONE) /* of the packet before, or of a time when there were too few */
                continue;
            if (!umem->free_count)
                return;
            frame[j] = umem->free[--umem->free_count];
        }
        *head = (struct msghdr){.msg_iov = queue->piece[queue->ready]};
        head->msg_iovlen = slot_pieces(umem, frame, head->msg_iov);
    }
}

/* Reads what is in front of the payload, which comes last and whose end is beyond `have`. false: no packet. */
static bool read_message(struct prl_queue *queue, const uint8_t *bytes, uint32_t have, uint32_t total,
                         struct told *told)
{
    const struct nlmsghdr *head = (const void *)bytes;
    uint32_t at = NLMSG_SPACE(sizeof(struct nfgenmsg));

    *told = (struct told){0};
    if (have < sizeof(*head) || head->nlmsg_type != (NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_PACKET)) {
        queue->refused += have >= sizeof(*head) && head->nlmsg_type == NLMSG_ERROR;
        return false;
    }
    while (at + NLA_HDRLEN <= have) {
        const struct nlattr *attribute = (const void *)(bytes + at);
        const uint8_t *value = bytes + at + NLA_HDRLEN;
        uint32_t length = attribute->nla_len;

        if (length < NLA_HDRLEN || at + length > total)
            return false;
        switch (attribute->nla_type & NLA_TYPE_MASK) {
        case NFQA_PACKET_HDR:
            told->number = ntohl(((const struct nfqnl_msg_packet_hdr *)(const void *)value)->packet_id);
            break;
        case NFQA_MARK:
            told->mark = ntohl(*(const uint32_t *)(const void *)value);
            break;
        case NFQA_HWADDR:
            told->source = ((const struct nfqnl_msg_packet_hw *)(const void *)value)->hw_addr;
            break;
        case NFQA_CAP_LEN:
            told->whole_bytes = ntohl(*(const uint32_t *)(const void *)value);
            break;
        case NFQA_SKB_INFO:
            told->is_uncut = ntohl(*(const uint32_t *)(const void *)value) & NFQA_SKB_GSO;
            break;
        case NFQA_PAYLOAD:
            told->payload = at + NLA_HDRLEN;
            told->payload_bytes = length - NLA_HDRLEN;
            return told->payload_bytes > 0 && told->payload < have;
        default:
            break;
        }
        at += NLA_ALIGN(length);
    }
    return false;
}

/* In place of what netlink had in front of the payload. */
static void write_ethernet(uint8_t *at, const struct told *told, uint8_t version)
{
    struct ethhdr ethernet = {.h_proto = htons(version == 4 ? ETH_P_IP : ETH_P_IPV6)};

    if (told->source)
        memcpy(ethernet.h_source, told->source, ETH_ALEN);
    memcpy(at, &ethernet, sizeof(ethernet));
}

/* What prl_ingress has numbered (docs/mirror.md); 0: nothing. */
static uint32_t mirror_number(const uint8_t *source)
{
    uint32_t number;

    if (!source || source[0] != PRL_MIRROR_MAC_0 || (source[1] & ~PRL_MIRROR_MAC_LIF) != PRL_MIRROR_MAC_1)
        return 0;
    memcpy(&number, source + 2, sizeof(number));
    return ntohl(number);
}

/* Makes the slot's first frames a packet. */
static void take_packet(struct prl_queue *queue, uint32_t slot, const struct told *told,
                        struct prl_received *received)
{
    struct prl_umem *umem = queue->umem;
    uint32_t *frame = queue->frame[slot];
    uint8_t *bytes = queue->piece[slot][0].iov_base;
    uint32_t begin = told->payload - ETH_HLEN, end = told->payload + told->payload_bytes;
    uint32_t used = (end + umem->frame_bytes - 1) / umem->frame_bytes;

    /* It lies where the header is written. Elsewhere than in the queue of headers it is a host's address that looks like one. */
    uint32_t number = queue->copy_bytes < PRL_QUEUE_WHOLE ? mirror_number(told->source) : 0;

    write_ethernet(bytes + begin, told, bytes[told->payload] >> 4);
    for (uint32_t j = 0; j < used; j++) {
        uint32_t from = j * umem->frame_bytes;

        umem->offset[frame[j]] = j ? 0 : begin;
        umem->length[frame[j]] =
            (end - from < umem->frame_bytes ? end - from : umem->frame_bytes) - (j ? 0 : begin);
        umem->next[frame[j]] = j + 1 < used ? frame[j + 1] : PRL_FRAME_NONE;
    }
    *received = (struct prl_received){
        .packet = frame[0],
        .bytes = told->whole_bytes ? told->whole_bytes + ETH_HLEN : end - begin,
        .mirrored = number,
        .queued = told->number,
        .is_cut = told->whole_bytes != 0,
        .is_uncut = told->is_uncut,
        .meta = {.slot = told->mark & PRL_QUEUE_SLOT},
    };
    for (uint32_t j = 0; j < used; j++)
        frame[j] = PRL_FRAME_NONE;
    queue->message[slot].msg_hdr.msg_iovlen = 0;
}

/* The packet memory has no room at all: what comes is not kept, as at an empty fill ring of AF_XDP. */
static void discard(struct prl_queue *queue)
{
    _Alignas(struct nlmsghdr) uint8_t scratch[SCRATCH_BYTES];
    struct told told;
    ssize_t got;

    for (uint32_t i = 0; i < SLOTS; i++) {
        got = recv(queue->fd, scratch, sizeof(scratch), MSG_DONTWAIT | MSG_TRUNC);
        if (got <= 0)
            break;
        if (read_message(queue, scratch, (uint32_t)got < sizeof(scratch) ? (uint32_t)got : sizeof(scratch),
                         (uint32_t)got, &told)) {
            queue->dropped++;
            prl_queue_settle(queue, told.number, false);
        }
    }
}

bool prl_queue_goes_on(const struct prl_queue *queue)
{
    return queue->goes_on;
}

uint32_t prl_queue_receive(struct prl_queue *queue, struct prl_received *received, uint32_t capacity)
{
    uint32_t packets = 0;
    int got;

    queue->goes_on = false;
    prepare_slots(queue, capacity < SLOTS ? capacity : SLOTS);
    if (!queue->ready) {
        discard(queue);
        return 0;
    }
    got = recvmmsg(queue->fd, queue->message, queue->ready, MSG_DONTWAIT, NULL);
    queue->goes_on = got == (int)queue->ready;
    for (int i = 0; i < got; i++) {
        uint32_t total = queue->message[i].msg_len, frame_bytes = queue->umem->frame_bytes;
        struct told told;

        if (!read_message(queue, queue->piece[i][0].iov_base, total < frame_bytes ? total : frame_bytes, total,
                          &told))
            continue;
        if ((told.whole_bytes && queue->copy_bytes == PRL_QUEUE_WHOLE) ||
            !told.number) { /* 0, once in 2^32, means another thing here */
            queue->dropped++;
            prl_queue_settle(queue, told.number, false);
            continue;
        }
        take_packet(queue, (uint32_t)i, &told, &received[packets++]);
    }
    return packets;
}

/* ---- verdicts ---- */

/* One below its children, which are in order, in a heap whose top is the newest. */
static void sift(struct settled *heap, uint32_t at, uint32_t count)
{
    const struct settled moved = heap[at];

    for (uint32_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && prl_serial_lt(heap[child].number, heap[child + 1].number))
            child++;
        if (!prl_serial_lt(moved.number, heap[child].number))
            break;
        heap[at] = heap[child];
    }
    heap[at] = moved;
}

/* In place, for qsort() may want memory. */
static void sort(struct settled *settled, uint32_t count)
{
    for (uint32_t i = count / 2; i-- > 0;)
        sift(settled, i, count);
    for (uint32_t last = count; last-- > 1;) {
        const struct settled newest = settled[0];

        settled[0] = settled[last];
        settled[last] = newest;
        sift(settled, 0, last);
    }
}

/* Linux 6.1 looks for each packet from the oldest on, under a lock that what comes in waits for
 * (net/netfilter/nfnetlink_queue.c, find_dequeue_entry): the oldest go first, whatever order flows were released in. Numbers are
 * given as packets come, so that those of a flow stay in order. */
void prl_queue_flush(struct prl_queue *queue)
{
    if (!queue->in_order)
        sort(queue->settled, queue->settled_count);
    for (uint32_t done = 0; done < queue->settled_count;) {
        uint32_t count = 0;

        for (; count < VERDICTS && done < queue->settled_count; count++, done++)
            queue->verdict[count].verdict = (struct nfqnl_msg_verdict_hdr){
                .verdict = htonl(queue->settled[done].passes ? NF_ACCEPT : NF_DROP),
                .id = htonl(queue->settled[done].number),
            };
        if (send(queue->fd, queue->verdict, count * sizeof(struct verdict), 0) < 0)
            queue->refused += count; /* no memory: they stay until the queue goes, TCP sends again */
    }
    queue->settled_count = 0;
    queue->in_order = true;
}

void prl_queue_settle(struct prl_queue *queue, uint32_t number, bool passes)
{
    if (queue->settled_count == PRL_QUEUE_PACKETS_MAX)
        prl_queue_flush(queue);
    if (queue->settled_count && prl_serial_lt(number, queue->settled[queue->settled_count - 1].number))
        queue->in_order = false;
    queue->settled[queue->settled_count++] = (struct settled){.number = number, .passes = passes};
}

/* ---- counts ---- */

/* The next number of a line; 0 at its end. */
static uint64_t next_number(char **at)
{
    return strtoull(*at, at, 10);
}

/* What the kernel has dropped. */
static uint64_t overflows_of(const struct prl_queue *queue)
{
    /* net/netfilter/nfnetlink_queue.c, seq_show(): number, owner, waiting, mode, range, dropped by either limit */
    FILE *file = fopen("/proc/thread-self/net/netfilter/nfnetlink_queue", "re");
    char line[SCRATCH_BYTES];
    uint64_t overflows = 0;

    while (file && fgets(line, sizeof(line), file)) {
        char *at = line;

        if (next_number(&at) != queue->number)
            continue;
        for (int i = 0; i < 4; i++)
            next_number(&at);
        overflows = next_number(&at);
        overflows += next_number(&at);
    }
    if (file)
        fclose(file);
    return overflows;
}

void prl_queue_count(const struct prl_queue *queue, uint64_t *not_received, uint64_t *refused)
{
    *not_received = queue->dropped + overflows_of(queue);
    *refused = queue->refused;
}
