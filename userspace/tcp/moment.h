/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The moment of a snapshot (R17): what moves of a live TCP connection, copied from its socket, and put into one that is
 * ready for it; a few system calls each, for the session stands still meanwhile. There is no other copy, and no other
 * restore: all that does not move (addresses, options, keys) is Python's (prl/shadow/), and said before.
 *
 *     ESTABLISHED ───┐                                  queues    ┌ unread bytes ─┐ ┌ all that is not acknowledged ─┐
 *     CLOSE_WAIT ────┼─ copied ─▶ moment, queues ─▶ restored      rcv_seq ────────┘  snd_seq ──────────────────────┘
 *     FIN_WAIT1, 2 ──┘                              as ESTABLISHED: a FIN counts in no queue and in no number; it is
 *                                                   replayed by the datapath (PRL_REPLAY_*)
 *
 * Of a connection that is ESTABLISHED, a moment is the element MOMENT on the link, in network order. What its queues have
 * more than one message takes goes in front of it, in pieces, to who knows them (PRL_CAP_LONG_MOMENT):
 *
 *      0  rcv_seq        4  snd_seq       8  unread_bytes  12  tsval
 *     16  snd_wl1       20  snd_wnd      24  max_window    28  rcv_wnd
 *     32  rcv_wup       36  rcv_edge     40  in_bytes (64)
 *     48  out_bytes (64)                 56  mss (16)      58  zero (16)
 *     60  the unread bytes, then those of the send queue, to the end
 *
 * Any other, or one with more, is part of a snapshot (prl/shadow/snapshot.py), in pieces. The queues' memory is the caller's, always.
 */
#ifndef PRL_TCP_MOMENT_H
#define PRL_TCP_MOMENT_H

#ifndef PRL_CFFI
#include <stdint.h>
#endif

#define PRL_MOMENT_FIELDS 60
#ifndef PRL_MOMENT_PIECE
/* Most bytes of the queues in one message; of a piece exactly as many. */
#define PRL_MOMENT_PIECE 60000
#endif
#ifndef PRL_MOMENT_QUEUES_MAX
/* Most bytes of both queues. */
#define PRL_MOMENT_QUEUES_MAX (1 << 20)
#endif
/* Room behind the send queue's bytes: those that are acknowledged but still kept are shown in front of them. */
#define PRL_MOMENT_SLACK (128 << 10)
#define PRL_REMOTE_MAX 28 /* struct sockaddr_in6 */

/* The states that can be copied (include/net/tcp_states.h). */
enum prl_tcp_state {
    PRL_TCP_ESTABLISHED = 1,
    PRL_TCP_FIN_WAIT1 = 4,
    PRL_TCP_FIN_WAIT2 = 5,
    PRL_TCP_CLOSE_WAIT = 8,
};

/* A position in a stream, and by how much a socket's counters may differ from it. */
#define PRL_STREAM_MAX (1ll << 62)

struct prl_moment {
    uint32_t rcv_seq; /* next sequence number expected: the end of the unread bytes */
    uint32_t snd_seq; /* next one to be written: the end of the send queue */
    uint32_t unread_bytes, unacked_bytes; /* the send queue is all "unacked", sent or not */
    uint32_t tsval;
    uint32_t snd_wl1, snd_wnd, max_window, rcv_wnd, rcv_wup; /* struct tcp_repair_window */
    uint32_t rcv_edge; /* the highest right edge ever advertised */
    uint32_t mss; /* the peer's maximum segment size */
    uint32_t state; /* enum prl_tcp_state; not in the element, whose is PRL_TCP_ESTABLISHED */
    uint32_t pad;
    uint64_t in_bytes, out_bytes; /* of the streams before the first unread byte, and before snd_seq */
};

/* What TCP_INFO counts of a socket. */
struct prl_moment_counts {
    uint64_t bytes_received, bytes_acked;
    uint32_t segs_in;
    uint32_t pad;
};

/* How a socket that is ready for its moment was made: in repair mode, bound, options set, not connected. */
struct prl_ready {
    uint8_t remote[PRL_REMOTE_MAX]; /* struct sockaddr */
    uint32_t remote_bytes;
    uint32_t negotiated; /* TCPI_OPT_*: timestamps, SACK, window scale, timestamps in microseconds */
    uint32_t rcvbuf_bytes,
        sndbuf_bytes; /* as given to SO_RCVBUFFORCE, 0: autotuned; raised where that does not do */
};

/* A shadow takes over that the peer may not hear (PAWS, RFC 7323, 5): it was restored on another machine's clock, and the two
 * run apart (50 ppm are 4 s a day). `seen` is what the peer has echoed of the owner's timestamps, elapsed_ms ago. When the
 * shadow's are behind that, they are set ahead of what may have left since and was not echoed yet: by PRL_TSVAL_AHEAD_MS, and
 * by the PRL_TSVAL_SILENCE_SHAREth part of the silence, for its length is by the standby's clock, and the owner's may have run
 * faster. More than PRL_TSVAL_DRIFT_MAX_MS behind no clock is: somebody else has sent what was "echoed", and nothing is done.
 * 1: they were, 0: there is no need, or -errno. For that the socket is in repair mode for some microseconds, in which a
 * recv() of its application would fail: not where there is no need. */
#define PRL_TSVAL_AHEAD_MS 100
#define PRL_TSVAL_SILENCE_SHARE 16
#define PRL_TSVAL_DRIFT_MAX_MS (10 * 60 * 1000)
int prl_moment_keep_ahead(int fd, uint32_t seen, uint32_t elapsed_ms);

/* The position in a stream that a socket's counter stands for; an offset that is wrong gives one of the ends. */
uint64_t prl_stream_at(uint64_t counted, int64_t offset);

void prl_moment_encode(const struct prl_moment *moment, uint8_t out[PRL_MOMENT_FIELDS]);
/* The element's value; behind its fields stands what of the queues has not come before it, in pieces of `before` bytes
 * together. 0 or -EPROTO. */
int prl_moment_decode(const uint8_t *value, uint32_t bytes, uint32_t before, struct prl_moment *moment);

/* Copies fd's state; `queues` has room for queues_max + PRL_MOMENT_SLACK. in_bytes and out_bytes are set as though the
 * socket's counters were the streams'. The socket is as before afterwards, but while this lasts recv() and send() of
 * others fail. 0; -errno and *call, which failed; or, *call being NULL: -EAGAIN: it moved; -ENOTSUP: its state is none of
 * those above; -EBUSY: urgent data waits to be read; -EMSGSIZE: unread_bytes and unacked_bytes do not fit. */
int prl_moment_copy(int fd, struct prl_moment *moment, uint8_t *queues, uint32_t queues_max,
                    struct prl_moment_counts *counts, const char **call);

/* What a clone's timestamp clock is set to, elapsed_ms after the original said tsval: in its unit, and a little ahead. */
uint32_t prl_moment_next_tsval(uint32_t negotiated, uint32_t tsval, uint64_t elapsed_ms);

/* Lets a socket that is ready go on where the moment is, elapsed_ms later; it leaves repair mode at the end. 0, or
 * -errno and *call, which failed: then it is still in repair mode, and closing it is silent. */
int prl_moment_restore(int fd, const struct prl_ready *ready, uint32_t snd_wscale, uint32_t rcv_wscale,
                       const struct prl_moment *moment, const uint8_t *queues, uint64_t elapsed_ms,
                       struct prl_moment_counts *counts, const char **call);

/* tcpi_segs_in; 0 or -errno. */
int prl_moment_segs_in(int fd, uint32_t *segs_in);

#endif /* PRL_TCP_MOMENT_H */
