/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The datapath of one node: one thread that runs prl_dp_run(), and the calls by which the control plane (Python,
 * other threads) steers it. Every call below but prl_dp_run() takes the datapath's lock for a bounded time; none of
 * them blocks on the network. See docs/architecture.md for the order of things.
 */
#ifndef PRL_API_DATAPATH_H
#define PRL_API_DATAPATH_H

#ifndef PRL_CFFI
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#endif
#include "core/hold.h"
#include "core/ownership.h"
#include "core/primary.h"
#include "core/secondary.h"
#include "flow/config.h"
#include "flow/counters.h"
#include "flow/event.h"
#include "flow/note.h"
#include "flow/spec.h"
#include "io/kernel.h"
#include "io/tls.h"
#include "prl_abi.h"
#include "tcp/moment.h"
#include "wire/wire.h"

struct prl_dp; /* opaque */

/* NULL and a message in error[PRL_ERROR_BYTES] on failure. Takes lan_fd, inject_fd and hold_fd over. Binds AF_XDP
 * sockets on every queue and enters them in the kernel's map. */
struct prl_dp *prl_dp_open(const struct prl_dp_config *config, struct prl_kernel *kernel, char *error);
int prl_dp_run(struct prl_dp *dp); /* returns 0 after prl_dp_stop(), or -errno */
void prl_dp_stop(struct prl_dp *dp);
void prl_dp_close(struct prl_dp *dp);

/* ---- events for the control plane ---- */
int prl_dp_event_fd(struct prl_dp *dp); /* eventfd, readable while events wait */
/* 1 and the oldest event (body copied, at most PRL_WIRE_MAX bytes), or 0. */
int prl_dp_event(struct prl_dp *dp, struct prl_event *event, uint8_t *body, size_t capacity);

/* ---- the link ---- */
/* A connected stream socket (taken over). Only HELLO is read until prl_dp_link_up(). -EBUSY when there is one. */
int prl_dp_link_attach(struct prl_dp *dp, int fd);
/* The same for a connection whose handshake is done. */
int prl_dp_link_attach_tls(struct prl_dp *dp, struct prl_tls *tls);
/* To be called before our HELLO is sent: shadows and lease of the old epoch are given up (L10), so that the other side
 * may rely on the new one as soon as it has our word. -ENOTCONN, and nothing is given up: there is no connection, or it is up. */
int prl_dp_link_hello(struct prl_dp *dp);
/* Both HELLOs agree: a new epoch begins. capabilities: PRL_CAP_* that both have; lan_key: of both HELLOs, for the keys of LAN
 * heartbeats and claims; tokens are those of claims without PRL_CAP_CLAIM_MAC. */
int prl_dp_link_up(struct prl_dp *dp, uint64_t epoch, uint64_t capabilities, const uint8_t lan_key[32],
                   const uint8_t own_token[16], const uint8_t peer_token[16]);
/* Long packets may go by the cable, which prl_kernel_mirror_set() has named, until the link is lost. -ENOTCONN: it is, or the other
 * node cannot. */
int prl_dp_mirror(struct prl_dp *dp);
int prl_dp_link_drop(struct prl_dp *dp, const char *why);
uint64_t prl_dp_link_rtt_ns(struct prl_dp *dp); /* 0 = not known yet */
/* Sends a control message; `msg` gives type, handle, seq and the fixed part; tlvs are encoded TLVs. -ENOTCONN, -ENOBUFS. */
int prl_dp_link_send(struct prl_dp *dp, const struct prl_msg *msg, const uint8_t *tlvs, size_t tlvs_bytes);

/* ---- services ---- */
/* How often a service has changed hands, as far as this node knows; raising it to less than that changes nothing. */
uint64_t prl_dp_term(struct prl_dp *dp, uint32_t service);
void prl_dp_term_raise(struct prl_dp *dp, uint32_t service, uint64_t term);
int prl_dp_service_set(struct prl_dp *dp, uint32_t service, uint8_t state); /* enum prl_owner_state */
/* enum prl_owner_state, or -EINVAL. Cheap, unlike prl_dp_status(). */
int prl_dp_service_state(struct prl_dp *dp, uint32_t service);
/* 0, or a positive enum prl_refused. fenced: enum prl_fenced. */
int prl_dp_takeover(struct prl_dp *dp, uint32_t service, int fenced);
/* Nobody answered to probes for our addresses that were sent at probed_ns or later: a silent owner speaks, if the LAN
 * was heard since. 1: it speaks. */
int prl_dp_unanswered(struct prl_dp *dp, uint64_t probed_ns);
/* The policy that both nodes agreed in HELLO (L5); to be called before prl_dp_link_up(). */
void prl_dp_policy(struct prl_dp *dp, int stop);
/* Whether the interface of [lan] has a carrier: it has, until that is said (L11). */
void prl_dp_carrier(struct prl_dp *dp, int has);
/* The arbiter's answer (L12): enum prl_arbiter_state, to a question of this round. */
void prl_dp_arbitrated(struct prl_dp *dp, uint32_t round, uint8_t state);
/* The socket of a way to the other node (enum prl_probe_path), in place of the one before: of LAN heartbeats and probes, or of
 * the link's probes. Bound and connected; it is taken over, also on failure (-errno). */
int prl_dp_udp(struct prl_dp *dp, uint32_t path, int fd);
/* Whom to ask and to tell on the LAN (L6, L7); the list replaces the last one. */
void prl_dp_neighbours(struct prl_dp *dp, const struct prl_dp_neighbour *list, uint32_t count);
/* Give a service up for the other node: silent at once, what is replicated is delivered. -EBUSY: it moves already. */
int prl_dp_renounce(struct prl_dp *dp, uint32_t service);
/* The planned move (R21), by the owner, or asked for by the standby: 0 and PRL_EVENT_MOVE follows, or a positive
 * PRL_REASON_*. forced: sessions that are not protected may be lost. Who calls has counted those that no flow here has. */
int prl_dp_switchover(struct prl_dp *dp, uint32_t service, int forced);
/* The answer to PRL_EVENT_MOVE_ASKED, of `asked_ns`: so many sessions that no flow here has would be lost. It is refused then, unless
 * forced, or if it is late. */
int prl_dp_switchover_asked(struct prl_dp *dp, uint32_t service, int forced, uint64_t asked_ns,
                            uint32_t strangers);
/* The end of doubt: whether the other node has the service. -EAGAIN: its lease may last yet. */
int prl_dp_switchover_resolve(struct prl_dp *dp, uint32_t service, int taken, int by_hello);
/* 1: given to the other node, which has not spoken yet. */
int prl_dp_is_given(struct prl_dp *dp, uint32_t service);

/* ---- flows ---- */
/* New sessions of the endpoint wait so long, from the end of their handshake on, to be protected; 0: they do not. Its key is a
 * flow's, without the peer of those that peers open, without the own port of those that are opened here. -E2BIG: PRL_AWAITED_MAX. */
int prl_dp_await(struct prl_dp *dp, const struct prl_flow_key *endpoint, uint64_t wait_ns);
/* Primary: gate on, input redirected, output held; pending until activate. Returns 0 and spec->handle/generation;
 * a flow that is OPEN, or that was taken over, may be set up again by its handle. -EEXIST (tuple has a live flow), -ENOSPC. */
int prl_dp_primary_setup(struct prl_dp *dp, struct prl_flow_spec *spec);
/* Primary, before that: enters the flow, open, and names the generation that the snapshot is going to have; nothing
 * waits yet. Errors as above; -ENOTSUP: of a flow whose input is in our hands, which must not leave them. */
int prl_dp_primary_prepare(struct prl_dp *dp, struct prl_flow_spec *spec);
/* Primary, between setup and the answer: copies what moves and sends it; the answer activates the flow by itself. 0;
 * -ENOTSUP, -EAGAIN, -ENOBUFS and others: nothing was sent, the whole snapshot may still be. -EBUSY: it was to be at rest. */
int prl_dp_primary_moment(struct prl_dp *dp, const struct prl_moment_spec *spec, struct prl_moment_counts *counts,
                          uint32_t *committed);
/* Secondary: spec->fd is ready for its moment (moment.h). It stays the caller's, to be closed once this is undone or
 * PRL_EVENT_RESTORED has come. -ENOSPC: PRL_SETUPS_MAX. */
int prl_dp_secondary_prepare(struct prl_dp *dp, const struct prl_flow_spec *spec, const struct prl_ready *ready);
/* 0, or -ENOENT: it is not there, or its moment has come and the event is under way. */
int prl_dp_secondary_unprepare(struct prl_dp *dp, uint32_t handle, uint32_t generation);
/* A shadow that took over gets a handle of this node's: the other one may use its own anew. -ENOENT. */
int prl_dp_flow_adopt(struct prl_dp *dp, uint32_t handle, uint32_t *own);
/* R7. committed = end of the send queue in the snapshot; peer_edge = SETUP_DONE's space. -ESTALE (generation). */
int prl_dp_primary_activate(struct prl_dp *dp, uint32_t handle, uint32_t generation, uint32_t committed,
                            uint32_t peer_edge);
int prl_dp_primary_fail(struct prl_dp *dp, uint32_t handle, uint8_t reason);
/* Secondary: the restored shadow. Returns 0 and *space (right edge for SETUP_DONE). -EAGAIN: what had to happen to it
 * again (spec->replay) did not. */
int prl_dp_secondary_open(struct prl_dp *dp, const struct prl_flow_spec *spec, uint32_t *space);
int prl_dp_secondary_void(struct prl_dp *dp, uint32_t handle, uint8_t reason);
/* Forgets a flow on this node (kernel entries, gate, duplicate fd); sends CLOSE when it is a live primary's. */
int prl_dp_flow_close(struct prl_dp *dp, uint32_t handle);
/* The handle of the flow with this key; 0: there is none. */
uint32_t prl_dp_flow_of(struct prl_dp *dp, const struct prl_flow_key *key);
/* A duplicate of the flow's socket, to be closed by the caller; or -ENOENT, -EBADF (given up), -EMFILE … */
int prl_dp_flow_socket(struct prl_dp *dp, uint32_t handle);
/* 1: its socket, looked at now, has segments behind one that is missing; 0 or -ENOENT. */
int prl_dp_flow_has_hole(struct prl_dp *dp, uint32_t handle);
/* Gives the duplicate fd of a primary's TCP flow up, so that the last close() is the application's; the session stays
 * protected until it has ended. 0 or -ENOENT. */
int prl_dp_flow_orphan(struct prl_dp *dp, uint32_t handle);

struct prl_flow_info {
    struct prl_flow_key key;
    uint32_t handle, slot, generation;
    uint8_t is_secondary, state, reason, pad; /* state: enum prl_primary_state / prl_secondary_state */
    uint32_t flags; /* kernel's: enum prl_flow_flag */
    struct prl_primary primary; /* valid for a primary; what waits is in `queues` */
    struct prl_queues queues; /* likewise */
    struct prl_secondary secondary; /* valid for a secondary */
    uint32_t out_hash; /* secondary, with hash_output: CRC-32 (zlib's) of its first out_bytes bytes of output */
    struct prl_sock_view sock;
    uint64_t in_redirected, in_passed, in_dropped, out_passed, out_held_packets, out_duplicates, out_silenced,
        gate_refused;
};
int prl_dp_flow_key(struct prl_dp *dp, uint32_t handle, struct prl_flow_key *key); /* 0 or -ENOENT */
uint32_t prl_dp_flow_handles(struct prl_dp *dp, uint32_t *handles, uint32_t capacity); /* how many there are */
/* The `capacity` (not 0) lowest handles above `after`, in their order; how many there are of these. */
uint32_t prl_dp_flow_page(struct prl_dp *dp, uint32_t after, uint32_t *handles, uint32_t capacity);
int prl_dp_flow_info(struct prl_dp *dp, uint32_t handle, struct prl_flow_info *info); /* 0 or -ENOENT */

/* ---- notes (flow/note.h) ---- */
int prl_dp_note(struct prl_dp *dp, uint32_t handle, const struct prl_note *note); /* 0 or -ENOENT */
/* Gives the note of a flow of this role, and takes it away. 0, or -ENOENT: nothing is noted of such a flow. */
int prl_dp_recall(struct prl_dp *dp, uint32_t handle, int is_secondary, struct prl_noted *noted);
/* Some of the flows that something is noted of, by the order of their slots; again from where it stopped. */
void prl_dp_notes(struct prl_dp *dp, struct prl_notes *notes);

/* ---- figures ---- */
/* Python gets it as it is, with these types (facts.py). Times are CLOCK_BOOTTIME. */
struct prl_dp_status {
    uint64_t now_ns, epoch, rtt_ns, rtt_min_ns;
    uint64_t resync_ns; /* L10: until the other node had said what its shadows have; 0: it has not yet */
    uint64_t takeover_until_ns, open_at_ns;
    uint64_t last_heard_ns, last_lan_ns;
    uint64_t answered_ns
        [PRL_PROBE_PATHS]; /* when the other node's kernel last answered, by path; 0: not in this epoch */
    uint64_t
        pass_ns; /* how long ago its datapath had a pass, by its newest answer; 0: there is none in this epoch */
    uint16_t other_owned, other_fenced, other_silent; /* of its newest answer: a bit per service */
    uint8_t other_term[PRL_TERMS_MAX]; /* likewise, the low 8 bits */
    bool link_attached, link_up;
    enum prl_link_state link_state;
    enum prl_silence silence;
    uint32_t silent_mask; /* bit per service that the silence is for */
    bool unheard; /* silent, and nobody has heard it since the link was lost */
    bool expired; /* as standby: the lease is over, the shadows wait for fencing */
    bool policy_stop; /* the policy in force: agreed in HELLO */
    enum prl_arbiter_state arbiter; /* L12 */
    uint32_t arbiter_round;
    uint32_t neighbours;
    enum prl_owner_state services[PRL_SERVICES_MAX];
    uint32_t flows_primary, flows_secondary, flows_active, frames_free, holds_used;
    uint32_t behind_packets, behind_bytes; /* sent, not yet acknowledged, input and output */
    uint64_t oldest_unanswered_ns; /* age; 0 = nothing outstanding */
    uint64_t received[PRL_MSG_COUNT], sent[PRL_MSG_COUNT]; /* messages on the link, by type */
    uint64_t received_bytes[PRL_MSG_COUNT], sent_bytes[PRL_MSG_COUNT]; /* theirs, with their headers */
    struct prl_dp_counters counters;
};
void prl_dp_status(struct prl_dp *dp, struct prl_dp_status *status);
struct prl_dp_figures {
    struct prl_hold_times held_in, held_out; /* input that was handed to the stack, output that was sent */
    uint64_t takeovers, suspects, false_suspects, silences, late_ticks,
        hand_overs; /* as struct prl_owner counts them */
    uint64_t arbiter_asks, arbiter_unreached; /* as struct prl_arbiter does */
};
void prl_dp_figures(struct prl_dp *dp, struct prl_dp_figures *figures);
/* When the other node's newest LAN heartbeat came, CLOCK_BOOTTIME; 0: never. Cheap, as the figures are. */
uint64_t prl_dp_last_lan_ns(struct prl_dp *dp);
/* What a flow takes in this process and in the mapped table; packets that it holds are extra. */
uint32_t prl_dp_flow_bytes(void);
/* What this process has taken from the start for each flow that there may be, the mapped table aside. The rest of a flow is
 * in pages that are taken when they are first used. */
uint32_t prl_dp_slot_bytes(void);

#endif /* PRL_API_DATAPATH_H */
