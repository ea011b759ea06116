/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The interface to prld for programs in C: sessions of one's own that survive the host, and shadows of the other
 * node's. The protocol is docs/control.md's, the life of a session docs/api.md's; docs/examples/echo.c is a whole daemon.
 *
 *      struct prl_client *prl;
 *      struct prl_client_event event;
 *
 *      prl_client_open(&prl, NULL);
 *      prl_client_offer(prl, "192.0.2.100:7000", NULL);             on the standby
 *      prl_client_replicate(prl, connection, NULL, 0, 0, &request); on the owner
 *      for (;;) {
 *          poll() on prl_client_fd(prl), for POLLIN, beside the connections
 *          while (prl_client_next(prl, &event) == 1) {
 *              ... event.kind ...
 *              prl_client_release(&event);
 *          }
 *      }
 *
 * A shadow is only to be read until PRL_CLIENT_TAKEN_OVER: nothing stops a write() or shutdown() before that, and it
 * spoils the shadow.
 *
 * Nothing here blocks, but prl_client_answer(). No call is safe beside another one on the same client in another
 * thread; two clients know nothing of each other. Functions return 0 (or what they say) or -errno. SIGPIPE is not
 * raised. Every descriptor is close-on-exec.
 */
#ifndef PRL_CLIENT_H
#define PRL_CLIENT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

#define PRL_CLIENT_APPLICATION_MAX (1u << 20) /* bytes of application data */
#define PRL_CLIENT_REQUESTS_MAX 64             /* requests under way */
#define PRL_CLIENT_KEPT_MAX 256                /* events that prl_client_answer() sets aside */
#define PRL_CLIENT_END_MAX 64                  /* "[address]:port" and its zero */
#define PRL_CLIENT_REASON_MAX 512             /* longer words are cut */
#define PRL_CLIENT_STREAMS_MAX 64             /* prld's note of positions, and its zero */

struct prl_client;

enum prl_client_kind {
    PRL_CLIENT_NOTHING,    /* of an event that was released */
    PRL_CLIENT_ANSWER,     /* to `request`: code, reason; of replicate and renew also handle, state, streams */
    PRL_CLIENT_STATE,      /* a session of this application changed: handle, state, reason */
    PRL_CLIENT_DEMOTED,    /* the other node has the session now; close the socket: handle */
    PRL_CLIENT_SHADOW, /* only to be read: handle, generation, fd, local, remote, application, renews, unread, in_bytes, out_bytes */
    PRL_CLIENT_TAKEN_OVER, /* the shadow is a session like any other now: handle, becomes, out_bytes, streams, monotonic_ns */
    PRL_CLIENT_VOID, /* the shadow is of no use any more; close the socket: handle, reason */
    PRL_CLIENT_PROTECTABLE, /* the session could be protected: prl_client_renew() it; only with PRL_CLIENT_RENEW: handle */
};

enum prl_client_state {
    PRL_CLIENT_OTHER, /* one that a later version knows */
    PRL_CLIENT_SETUP, /* is being protected */
    PRL_CLIENT_ACTIVE, /* protected */
    PRL_CLIENT_VOIDING, /* protection is being given up */
    PRL_CLIENT_OPEN, /* goes on, not protected; prld tries again */
    PRL_CLIENT_ENDED, /* over, by both ends */
    PRL_CLIENT_CLOSED, /* over, by prl_client_end() or the death of its application */
};

struct prl_client_event {
    enum prl_client_kind kind;
    uint32_t request; /* the number that the request was given */
    uint32_t handle; /* of the session or shadow; unique among those that live */
    uint32_t generation; /* of a shadow: a later one of the same session has its handle, and another generation */
    uint32_t becomes; /* the handle of the session that a shadow has become */
    int code; /* 0 done; else refused: 1 failed, 2 bad request; `reason` says why */
    enum prl_client_state state;
    int fd; /* yours once you set it to -1; else prl_client_release() closes it */
    int renews; /* whether the session was protected with PRL_CLIENT_RENEW */
    /* Positions in the two streams, counted from where the session was first handed to prl; 0 for UDP: */
    uint64_t in_bytes; /* of the first byte that is to be read from this shadow */
    uint64_t out_bytes; /* of a shadow: of the snapshot; taken over: where the output goes on */
    uint64_t unread; /* bytes that the peer had sent before the snapshot and that were not read then */
    uint64_t monotonic_ns; /* of the take-over, CLOCK_MONOTONIC */
    uint8_t *application; /* what the other application gave for this shadow; freed by release */
    size_t application_bytes;
    char streams[PRL_CLIENT_STREAMS_MAX]; /* to be kept, for prl_client_rejoin() */
    char local[PRL_CLIENT_END_MAX], remote[PRL_CLIENT_END_MAX];
    char reason[PRL_CLIENT_REASON_MAX];
};

/*
 * Connects to prld. `path` NULL: $PRL_SOCKET, else /run/prl/prld.sock.
 * -ENOENT or -ECONNREFUSED: no prld there; -ENAMETOOLONG; -ENOMEM; and as connect(2).
 */
int prl_client_open(struct prl_client **client, const char *path);

/*
 * Disconnects. For sessions that were not ended this is the death of the application: the other node goes on with
 * them if it can. The sockets stay the caller's. NULL is allowed.
 */
void prl_client_close(struct prl_client *client);

/* Poll it for POLLIN, then call prl_client_next() until that returns 0. Stays the client's. */
int prl_client_fd(const struct prl_client *client);

#define PRL_CLIENT_RENEW 1u /* flag: before each further shadow the application is asked for its data anew */

/*
 * Asks for a TCP or UDP socket to be protected; it stays the caller's and is used as before. `application` (may be
 * NULL) is given to the application on the other node together with the shadow.
 * The PRL_CLIENT_ANSWER comes once the other node has the shadow, or that has failed: code 0 and state
 * PRL_CLIENT_ACTIVE: protected. Code 0 and another state: it goes on unprotected, `reason` says why, prld tries again
 * and tells by PRL_CLIENT_STATE. Code not 0: it can not be protected as things are.
 */
int prl_client_replicate(struct prl_client *client, int fd, const void *application, size_t application_bytes,
                         unsigned int flags, uint32_t *request);

/*
 * Gives the application's data as of now, and protects the session with it if that can be. The socket must neither be
 * read nor written until the answer has come: so the data and the shadow's positions belong together.
 */
int prl_client_renew(struct prl_client *client, uint32_t handle, const void *application, size_t application_bytes,
                     uint32_t *request);

/*
 * After prld has started anew, to a new client: hands over a session that lives. `streams` is what the answer or the
 * take-over brought last, or "". Answered at once, with a new handle; protected when that is possible. Handles of the
 * former client are other sessions' here. A session that is closed while this is under way is to be ended by
 * prl_client_end() when the answer has come: prld has a duplicate of the socket by then.
 */
int prl_client_rejoin(struct prl_client *client, int fd, const char *streams, const void *application,
                      size_t application_bytes, unsigned int flags, uint32_t *request);

/* Offers to take shadows of sessions whose local end is "address:port", or "udp:address:port"; IPv6 in brackets. */
int prl_client_offer(struct prl_client *client, const char *endpoint, uint32_t *request);

/* Ends a session deliberately, on both nodes. Close the socket as well. */
int prl_client_end(struct prl_client *client, uint32_t handle, uint32_t *request);

/*
 * Gives a shadow up, and no later one of its session, which may be under way while the word that this one is void is:
 * both numbers as PRL_CLIENT_SHADOW told them. Close the socket as well.
 */
int prl_client_give_up(struct prl_client *client, uint32_t handle, uint32_t generation, uint32_t *request);

/*
 * All of these: `request` (may be NULL) gets the number that the answer carries.
 * -EAGAIN: prld does not read just now, nothing was sent; -EBUSY: PRL_CLIENT_REQUESTS_MAX are under way, read
 * answers first; -EMSGSIZE, -EILSEQ: arguments; -EPIPE: prld is gone. More than 32 KiB of data travel in a memfd: as memfd_create(2).
 */

/*
 * The next event: 1, or 0: none now; or, from then on for ever, -ECONNRESET: prld is gone, -EPROTO: it said what is
 * not in the protocol, -ENOMEM, -EMFILE: see below. Sessions go on without prld unless that was their owner's end; connect anew.
 * After 1 the event is to be given to prl_client_release().
 * A shadow for whose socket there is no descriptor left (RLIMIT_NOFILE) is given up by itself: its PRL_CLIENT_VOID is
 * all that is told of it, and prld protects its session again after the next prl_client_offer(). -EMFILE: prld did not
 * even read that.
 */
int prl_client_next(struct prl_client *client, struct prl_client_event *event);

/*
 * Waits for the answer to one request; other events stay for prl_client_next(), which must be called until it returns
 * 0 before the descriptor is polled again: they are older than the answer. 0; -ETIMEDOUT; -ENOBUFS: PRL_CLIENT_KEPT_MAX events wait; and as
 * prl_client_next().
 */
int prl_client_answer(struct prl_client *client, uint32_t request, int timeout_ms, struct prl_client_event *event);

/* Closes the descriptor and frees the data of an event, and clears it. */
void prl_client_release(struct prl_client_event *event);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif

#endif
