/* SPDX-License-Identifier: BSD-2-Clause */
#include "tcp/moment.h"

#include <errno.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "tcp/serial.h"

#define REPAIR_ON 1
#define REPAIR_OFF_NO_WINDOW_PROBE (-1)
#define QUEUE_RECV 1
#define QUEUE_SEND 2
#define OPT_USEC_TIMESTAMPS 64 /* TCPI_OPT_USEC_TS, Linux 6.7 */
/* struct tcp_repair_window, in 32-bit words: 5 today, one more is coming, and it must be asked for in its length. */
#define WINDOW_WORDS_MIN 5
#define WINDOW_WORDS_MAX 16
/* Option kinds of TCP_REPAIR_OPTIONS (RFC 9293, RFC 7323, RFC 2018). */
#define KIND_MSS 2
#define KIND_WINDOW_SCALE 3
#define KIND_SACK_PERMITTED 4
#define KIND_TIMESTAMPS 8
/* A clone's timestamp clock must not be behind the original's (PAWS), nor far ahead (RTT). */
#define TSVAL_LEAD_MS 2
#define USER_MSS_MAX 32767 /* most that TCP_MAXSEG accepts (MAX_TCP_WINDOW) */
#define BUFFER_OVERHEAD (64 << 10) /* room beyond what is queued, for the kernel's own structures */
#define BUFFER_MAX ((INT32_MAX / 2) - BUFFER_OVERHEAD) /* the kernel doubles it */
#define APPEND_MAX (64 << 10) /* more at once needs contiguous kernel memory */

/* Both directions return at the first call that fails, and name it. */
#define TRY(name, expression)    \
    do {                         \
        int err_ = (expression); \
                                 \
        if (err_) {              \
            *call = name;        \
            return err_;         \
        }                        \
    } while (0)

static void put32(uint8_t *at, uint32_t value)
{
    value = htonl(value);
    memcpy(at, &value, sizeof(value));
}

static uint32_t get32(const uint8_t *at)
{
    uint32_t value;

    memcpy(&value, at, sizeof(value));
    return ntohl(value);
}

/* The 32-bit fields, where they stand. */
static const uint16_t fields[] = {
    offsetof(struct prl_moment, rcv_seq),      offsetof(struct prl_moment, snd_seq),
    offsetof(struct prl_moment, unread_bytes), offsetof(struct prl_moment, tsval),
    offsetof(struct prl_moment, snd_wl1),      offsetof(struct prl_moment, snd_wnd),
    offsetof(struct prl_moment, max_window),   offsetof(struct prl_moment, rcv_wnd),
    offsetof(struct prl_moment, rcv_wup),      offsetof(struct prl_moment, rcv_edge),
};
#define FIELDS (sizeof(fields) / sizeof(fields[0]))
_Static_assert(FIELDS * 4 + 2 * 8 + 4 == PRL_MOMENT_FIELDS, "fields of the moment");

uint64_t prl_stream_at(uint64_t counted, int64_t offset)
{
    uint64_t at = counted + (uint64_t)offset;

    if (offset < 0 && (uint64_t)-offset > counted)
        return 0;
    return at < PRL_STREAM_MAX ? at : PRL_STREAM_MAX;
}

void prl_moment_encode(const struct prl_moment *moment, uint8_t out[PRL_MOMENT_FIELDS])
{
    const uint64_t wide[] = {moment->in_bytes, moment->out_bytes};
    uint8_t *at = out;

    for (size_t i = 0; i < FIELDS; i++, at += 4) {
        uint32_t value;

        memcpy(&value, (const uint8_t *)moment + fields[i], sizeof(value));
        put32(at, value);
    }
    for (size_t i = 0; i < 2; i++, at += 8) {
        put32(at, (uint32_t)(wide[i] >> 32));
        put32(at + 4, (uint32_t)wide[i]);
    }
    put32(at, moment->mss << 16);
}

int prl_moment_decode(const uint8_t *value, uint32_t bytes, uint32_t before, struct prl_moment *moment)
{
    uint64_t *wide[] = {&moment->in_bytes, &moment->out_bytes};
    const uint8_t *at = value;

    memset(moment, 0, sizeof(*moment));
    moment->state = PRL_TCP_ESTABLISHED;
    if (bytes < PRL_MOMENT_FIELDS || before > PRL_MOMENT_QUEUES_MAX)
        return -EPROTO;
    for (size_t i = 0; i < FIELDS; i++, at += 4) {
        uint32_t field = get32(at);

        memcpy((uint8_t *)moment + fields[i], &field, sizeof(field));
    }
    for (size_t i = 0; i < 2; i++, at += 8)
        *wide[i] = (uint64_t)get32(at) << 32 | get32(at + 4);
    moment->mss = get32(at) >> 16;
    bytes += before - PRL_MOMENT_FIELDS;
    if (moment->unread_bytes > bytes || !moment->mss || moment->in_bytes > PRL_STREAM_MAX ||
        moment->out_bytes > PRL_STREAM_MAX)
        return -EPROTO;
    moment->unacked_bytes = bytes - moment->unread_bytes;
    return 0;
}

/* ---- options ---- */

static int get(int fd, int level, int option, void *value, socklen_t bytes)
{
    return getsockopt(fd, level, option, value, &bytes) < 0 ? -errno : 0;
}

static int set(int fd, int level, int option, int value)
{
    return setsockopt(fd, level, option, &value, sizeof(value)) < 0 ? -errno : 0;
}

static int set_tcp(int fd, int option, uint32_t value)
{
    return set(fd, IPPROTO_TCP, option, (int)value);
}

static int queued(int fd, unsigned long request, uint32_t *bytes)
{
    int found = 0;

    if (ioctl(fd, request, &found) < 0)
        return -errno;
    *bytes = found > 0 ? (uint32_t)found : 0;
    return 0;
}

static int look(int fd, struct tcp_info *info)
{
    memset(info, 0, sizeof(*info));
    return get(fd, IPPROTO_TCP, TCP_INFO, info, sizeof(*info));
}

static void note(const struct tcp_info *info, struct prl_moment_counts *counts)
{
    counts->bytes_received = info->tcpi_bytes_received;
    counts->bytes_acked = info->tcpi_bytes_acked;
    counts->segs_in = info->tcpi_segs_in;
}

int prl_moment_segs_in(int fd, uint32_t *segs_in)
{
    struct tcp_info info;
    int err = look(fd, &info);

    *segs_in = info.tcpi_segs_in;
    return err;
}

/* Words of this kernel's struct tcp_repair_window; the socket is in repair mode. 0 or -errno. */
static int get_window(int fd, uint32_t words[WINDOW_WORDS_MAX], uint32_t *count)
{
    static uint32_t known; /* one kernel for all: whoever finds it out first, finds the same */
    uint32_t first = known ? known : WINDOW_WORDS_MIN, last = known ? known : WINDOW_WORDS_MAX;
    int err = -EINVAL;

    for (*count = first; *count <= last; ++*count) {
        err = get(fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, words, *count * (socklen_t)sizeof(words[0]));
        if (err != -EINVAL)
            break;
    }
    if (!err)
        known = *count;
    return err;
}

/* ---- copying ---- */

/* One that is announced, or kept apart from the data: seen only as a difference, for SIOCINQ stops at the urgent byte,
 * unless it is inline. */
static int refuse_urgent(int fd)
{
    uint32_t up_to_mark = 0, whole = 0;
    int inline_ = 0, err, got;
    uint8_t byte;

    err = get(fd, SOL_SOCKET, SO_OOBINLINE, &inline_, sizeof(inline_));
    if (!err && inline_)
        err = set(fd, SOL_SOCKET, SO_OOBINLINE, 0);
    if (err)
        return err;
    err = queued(fd, SIOCINQ, &up_to_mark);
    got = (int)recv(fd, &byte, sizeof(byte), MSG_OOB | MSG_PEEK | MSG_DONTWAIT);
    if (got >= 0 || errno == EAGAIN)
        err = -EBUSY;
    set(fd, SOL_SOCKET, SO_OOBINLINE, 1);
    if (!err)
        err = queued(fd, SIOCINQ, &whole);
    set(fd, SOL_SOCKET, SO_OOBINLINE, inline_);
    return err ? err : up_to_mark == whole ? 0 : -EBUSY;
}

/* The sequence number at a queue's end, and its last `bytes` bytes; `slack` may be shown in front of them. */
static int peek(int fd, uint32_t queue, uint32_t *seq, uint8_t *into, uint32_t bytes, uint32_t slack)
{
    int err = set_tcp(fd, TCP_REPAIR_QUEUE, queue);
    ssize_t got;

    if (!err)
        err = get(fd, IPPROTO_TCP, TCP_QUEUE_SEQ, seq, sizeof(*seq));
    if (err || !bytes)
        return err;
    got = recv(fd, into, bytes + slack, MSG_PEEK | MSG_DONTWAIT);
    if (got < 0)
        return -errno; /* EAGAIN: there is less than there was just now */
    if ((uint32_t)got < bytes)
        return -EAGAIN;
    memmove(into, into + (uint32_t)got - bytes, bytes);
    return 0;
}

/* At least one of these changes whenever a segment enters or leaves. */
static bool has_moved(const struct tcp_info *before, const struct tcp_info *after)
{
    return before->tcpi_state != after->tcpi_state || before->tcpi_unacked != after->tcpi_unacked ||
           before->tcpi_bytes_acked != after->tcpi_bytes_acked ||
           before->tcpi_bytes_received != after->tcpi_bytes_received ||
           before->tcpi_segs_out != after->tcpi_segs_out || before->tcpi_segs_in != after->tcpi_segs_in;
}

static bool peer_ended(const struct prl_moment *moment)
{
    return moment->state == PRL_TCP_CLOSE_WAIT;
}

static bool own_ended(const struct prl_moment *moment)
{
    return moment->state == PRL_TCP_FIN_WAIT1 || moment->state == PRL_TCP_FIN_WAIT2;
}

static int copy_queues(int fd, struct prl_moment *moment, uint8_t *queues, uint32_t queues_max, const char **call)
{
    uint32_t unread = 0, unacked = 0;

    TRY("SIOCINQ", queued(fd, SIOCINQ, &unread));
    TRY("SIOCOUTQ", queued(fd, SIOCOUTQ, &unacked));
    if (moment->state == PRL_TCP_FIN_WAIT1 && unacked)
        unacked--; /* the FIN counts until it is acknowledged (net/ipv4/tcp.c, tcp_ioctl) */
    moment->unread_bytes = unread;
    moment->unacked_bytes = unacked;
    if (unread > queues_max || unacked > queues_max - unread)
        return -EMSGSIZE;
    TRY("receive queue", peek(fd, QUEUE_RECV, &moment->rcv_seq, queues, unread, 0));
    TRY("send queue", peek(fd, QUEUE_SEND, &moment->snd_seq, queues + unread, unacked, PRL_MOMENT_SLACK));
    moment->rcv_seq -= peer_ended(moment);
    moment->snd_seq -= own_ended(moment);
    return 0;
}

static int copy_window(int fd, struct prl_moment *moment)
{
    uint32_t words[WINDOW_WORDS_MAX] = {0}, count = 0;
    int err = get_window(fd, words, &count);

    moment->snd_wl1 = words[0];
    moment->snd_wnd = words[1];
    moment->max_window = words[2];
    moment->rcv_wnd = words[3];
    moment->rcv_wup = words[4];
    moment->rcv_edge = count > WINDOW_WORDS_MIN ? words[5] : words[4] + words[3];
    return err;
}

static int copy_mss(int fd, struct prl_moment *moment)
{
    int err = get(fd, IPPROTO_TCP, TCP_MAXSEG, &moment->mss, sizeof(moment->mss));

    return err ? err : moment->mss == 0 || moment->mss > UINT16_MAX ? -ERANGE : 0;
}

/* In repair mode. */
static int copy(int fd, struct prl_moment *moment, uint8_t *queues, uint32_t queues_max,
                struct prl_moment_counts *counts, const char **call)
{
    struct tcp_info before, after;
    int err;

    TRY("TCP_INFO", look(fd, &before));
    moment->state = before.tcpi_state;
    if (moment->state != PRL_TCP_ESTABLISHED && !peer_ended(moment) && !own_ended(moment))
        return -ENOTSUP;
    TRY("TCP_REPAIR_WINDOW (is it longer than prl knows?)", copy_window(fd, moment));
    TRY("TCP_TIMESTAMP", get(fd, IPPROTO_TCP, TCP_TIMESTAMP, &moment->tsval, sizeof(moment->tsval)));
    TRY("TCP_MAXSEG", copy_mss(fd, moment));
    err = refuse_urgent(fd);
    if (err == -EBUSY) { /* or other bytes came between the two counts of which it is the difference */
        TRY("TCP_INFO", look(fd, &after));
        return has_moved(&before, &after) ? -EAGAIN : err;
    }
    TRY("SO_OOBINLINE", err);
    err = copy_queues(fd, moment, queues, queues_max, call);
    if (err)
        return err;
    TRY("TCP_INFO", look(fd, &after));
    /* A FIN counts in both counters: the peer's once received, ours once acknowledged. */
    moment->in_bytes = before.tcpi_bytes_received - moment->unread_bytes - peer_ended(moment);
    moment->out_bytes =
        before.tcpi_bytes_acked + moment->unacked_bytes - (moment->state == PRL_TCP_FIN_WAIT2 ? 1 : 0);
    note(&before, counts);
    return has_moved(&before, &after) ? -EAGAIN : 0;
}

int prl_moment_copy(int fd, struct prl_moment *moment, uint8_t *queues, uint32_t queues_max,
                    struct prl_moment_counts *counts, const char **call)
{
    int peek_offset = -1, reuse = 0, err;

    *call = NULL;
    memset(moment, 0, sizeof(*moment));
    TRY("SO_REUSEADDR", get(fd, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof(reuse)));
    if (get(fd, SOL_SOCKET, SO_PEEK_OFF, &peek_offset, sizeof(peek_offset)) == 0 && peek_offset >= 0)
        set(fd, SOL_SOCKET, SO_PEEK_OFF, -1);
    err = set_tcp(fd, TCP_REPAIR, REPAIR_ON);
    if (err) {
        *call = "TCP_REPAIR";
    } else {
        err = copy(fd, moment, queues, queues_max, counts, call);
        set(fd, IPPROTO_TCP, TCP_REPAIR, REPAIR_OFF_NO_WINDOW_PROBE);
        set(fd, SOL_SOCKET, SO_REUSEADDR, reuse); /* repair mode leaves it at 0 (net/ipv4/tcp.c) */
    }
    if (peek_offset >= 0)
        set(fd, SOL_SOCKET, SO_PEEK_OFF, peek_offset);
    if (err == -EAGAIN)
        *call = NULL; /* a queue is shorter than it was just now */
    return err;
}

/* ---- restoring ---- */

static int make_room(int fd, int option, uint32_t given, uint32_t queued_bytes)
{
    uint32_t needed = (queued_bytes < BUFFER_MAX ? queued_bytes : BUFFER_MAX) + BUFFER_OVERHEAD;

    return queued_bytes && needed > given ? set(fd, SOL_SOCKET, option, (int)needed) : 0;
}

/* What the peer may send after its window was granted, and what is unread. Before connect(), which derives the receive
 * window's bound from the buffer. */
static int make_receive_room(int fd, const struct prl_ready *ready, const struct prl_moment *moment)
{
    uint32_t left = moment->rcv_wup + moment->rcv_wnd - moment->rcv_seq, needed = moment->unread_bytes;

    if (left <= INT32_MAX)
        needed = needed < BUFFER_MAX && left < BUFFER_MAX - needed ? needed + left : BUFFER_MAX;
    return make_room(fd, SO_RCVBUFFORCE, ready->rcvbuf_bytes, needed);
}

static int set_queue_start(int fd, uint32_t queue, uint32_t seq)
{
    int err = set_tcp(fd, TCP_REPAIR_QUEUE, queue);

    return err ? err : set_tcp(fd, TCP_QUEUE_SEQ, seq);
}

static int negotiate(int fd, const struct prl_ready *ready, uint32_t snd_wscale, uint32_t rcv_wscale, uint32_t mss)
{
    struct tcp_repair_opt agreed[4] = {{.opt_code = KIND_MSS, .opt_val = mss}};
    uint32_t count = 1;

    if (ready->negotiated & TCPI_OPT_WSCALE)
        agreed[count++] =
            (struct tcp_repair_opt){.opt_code = KIND_WINDOW_SCALE, .opt_val = snd_wscale | rcv_wscale << 16};
    if (ready->negotiated & TCPI_OPT_SACK)
        agreed[count++] = (struct tcp_repair_opt){.opt_code = KIND_SACK_PERMITTED};
    if (ready->negotiated & TCPI_OPT_TIMESTAMPS)
        agreed[count++] = (struct tcp_repair_opt){.opt_code = KIND_TIMESTAMPS};
    return setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_OPTIONS, agreed, count * (socklen_t)sizeof(agreed[0])) < 0
               ? -errno
               : 0;
}

/* An odd value switches the clock to microseconds; kernels before 6.7 give out odd ones that mean nothing. */
uint32_t prl_moment_next_tsval(uint32_t negotiated, uint32_t tsval, uint64_t elapsed_ms)
{
    uint32_t lead_ms = (uint32_t)(TSVAL_LEAD_MS + elapsed_ms);

    return negotiated & OPT_USEC_TIMESTAMPS ? (tsval + lead_ms * 1000) | 1 : (tsval + lead_ms + 1) & ~1u;
}

/* Puts bytes into a queue as though they had been received, or sent. */
static int append(int fd, uint32_t queue, const uint8_t *data, uint32_t bytes)
{
    int err = bytes ? set_tcp(fd, TCP_REPAIR_QUEUE, queue) : 0;

    while (!err && bytes) {
        ssize_t done = send(fd, data, bytes < APPEND_MAX ? bytes : APPEND_MAX, MSG_DONTWAIT | MSG_NOSIGNAL);

        if (done <= 0)
            return done < 0 ? -errno : -EPIPE;
        data += done;
        bytes -= (uint32_t)done;
    }
    return err;
}

/* An acknowledgement of data not yet "sent" makes the kernel drop the whole segment. */
static int check_all_sent(int fd)
{
    uint32_t unsent = 0;
    int err = queued(fd, SIOCOUTQNSD, &unsent);

    if (!err && unsent) {
        err = set_tcp(fd, TCP_NODELAY, 1); /* pushes what autocorking kept back */
        if (!err)
            err = queued(fd, SIOCOUTQNSD, &unsent);
    }
    return err ? err : unsent ? -EBUSY : 0;
}

static int set_window(int fd, const struct prl_moment *moment)
{
    uint32_t words[WINDOW_WORDS_MAX], count = 0;
    int err = get_window(fd, words, &count);

    if (err)
        return err;
    memset(words, 0, sizeof(words));
    words[0] = moment->snd_wl1;
    words[1] = moment->snd_wnd;
    words[2] = moment->max_window;
    words[3] = moment->rcv_wnd;
    words[4] = moment->rcv_wup;
    words[5] = moment->rcv_edge;
    if (peer_ended(moment)) { /* as it was in front of the FIN: same right edge */
        uint32_t beyond = moment->rcv_wup == moment->rcv_seq + 1;

        words[0] = moment->rcv_seq;
        words[3] += beyond;
        words[4] -= beyond;
    }
    return setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, words, count * (socklen_t)sizeof(words[0])) < 0 ? -errno
                                                                                                          : 0;
}

/* A shadow that differs in what was agreed upon in the handshake would be found out by the peer. */
static int check_negotiated(int fd, const struct prl_ready *ready, struct prl_moment_counts *counts)
{
    const uint32_t mask = TCPI_OPT_TIMESTAMPS | TCPI_OPT_SACK | TCPI_OPT_WSCALE | OPT_USEC_TIMESTAMPS;
    struct tcp_info info;
    int err = look(fd, &info);

    note(&info, counts);
    if (!err && (info.tcpi_options & mask) != (ready->negotiated & mask))
        err = -EPROTONOSUPPORT;
    return err;
}

int prl_moment_restore(int fd, const struct prl_ready *ready, uint32_t snd_wscale, uint32_t rcv_wscale,
                       const struct prl_moment *moment, const uint8_t *queues, uint64_t elapsed_ms,
                       struct prl_moment_counts *counts, const char **call)
{
    uint32_t mss = moment->mss < USER_MSS_MAX ? moment->mss : USER_MSS_MAX;

    /* The order is the kernel's: TCP_QUEUE_SEQ is refused after connect(), which sends nothing in repair mode; options and
     * window before it; and the window is judged by the numbers that the queues lead to (net/ipv4/tcp.c). */
    TRY("SO_RCVBUFFORCE", make_receive_room(fd, ready, moment));
    TRY("SO_SNDBUFFORCE", make_room(fd, SO_SNDBUFFORCE, ready->sndbuf_bytes, moment->unacked_bytes));
    TRY("TCP_MAXSEG", set_tcp(fd, TCP_MAXSEG, mss));
    TRY("TCP_QUEUE_SEQ", set_queue_start(fd, QUEUE_RECV, moment->rcv_seq - moment->unread_bytes));
    TRY("TCP_QUEUE_SEQ", set_queue_start(fd, QUEUE_SEND, moment->snd_seq - moment->unacked_bytes));
    TRY("connect", connect(fd, (const struct sockaddr *)ready->remote, ready->remote_bytes) < 0 ? -errno : 0);
    TRY("TCP_REPAIR_OPTIONS", negotiate(fd, ready, snd_wscale, rcv_wscale, moment->mss));
    if (ready->negotiated & TCPI_OPT_TIMESTAMPS)
        TRY("TCP_TIMESTAMP",
            set_tcp(fd, TCP_TIMESTAMP, prl_moment_next_tsval(ready->negotiated, moment->tsval, elapsed_ms)));
    TRY("receive queue", append(fd, QUEUE_RECV, queues, moment->unread_bytes));
    TRY("send queue", append(fd, QUEUE_SEND, queues + moment->unread_bytes, moment->unacked_bytes));
    if (moment->unacked_bytes)
        TRY("send queue (is net.ipv4.tcp_autocorking 0?)", check_all_sent(fd));
    TRY("TCP_REPAIR_WINDOW", set_window(fd, moment));
    TRY("what the ends had agreed upon", check_negotiated(fd, ready, counts));
    TRY("TCP_REPAIR", set(fd, IPPROTO_TCP, TCP_REPAIR, REPAIR_OFF_NO_WINDOW_PROBE));
    set(fd, SOL_SOCKET, SO_REUSEADDR, 1); /* cleared by leaving repair mode */
    return 0;
}

/* ---- taking over ---- */

int prl_moment_keep_ahead(int fd, uint32_t seen, uint32_t elapsed_ms)
{
    uint32_t tsval = 0, per_ms = 1, ahead;
    struct tcp_info info;
    int reuse = 0, err = look(fd, &info);

    if (err || !(info.tcpi_options & TCPI_OPT_TIMESTAMPS))
        return err;
    if (info.tcpi_options & OPT_USEC_TIMESTAMPS)
        per_ms = 1000;
    err = get(fd, IPPROTO_TCP, TCP_TIMESTAMP, &tsval, sizeof(tsval));
    seen += elapsed_ms * per_ms;
    if (err || prl_serial_le(seen, tsval) || seen - tsval >= PRL_TSVAL_DRIFT_MAX_MS * per_ms)
        return err;
    ahead = seen + (PRL_TSVAL_AHEAD_MS + elapsed_ms / PRL_TSVAL_SILENCE_SHARE) * per_ms;
    ahead = per_ms > 1 ? ahead | 1 : (ahead + 1) & ~1u; /* as prl_moment_next_tsval() */
    err = get(fd, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof(reuse));
    if (!err)
        err = set_tcp(fd, TCP_REPAIR, REPAIR_ON);
    if (err)
        return err;
    err = set_tcp(fd, TCP_TIMESTAMP, ahead);
    set(fd, IPPROTO_TCP, TCP_REPAIR, REPAIR_OFF_NO_WINDOW_PROBE);
    set(fd, SOL_SOCKET, SO_REUSEADDR, reuse);
    return err ? err : 1;
}
