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
#include "core/ownership.h"
#include "core/primary.h"
#include "core/secondary.h"
#include "core/switchover.h"
#include "io/kernel.h"
#include "tcp/md5sig.h"
#include "tcp/moment.h"
#include "prl_abi.h"
#include "io/tls.h"
#include "wire/wire.h"

/* Limits; reaching one is counted in struct prl_dp_counters. */
#define PRL_DP_FRAMES 16384      /* UMEM frames: packets in our hands, receive rings included */
#define PRL_DP_FRAME_BYTES 4096
#define PRL_DP_OUTPUT_BUFFERS 256 /* held output segments of up to 64 KiB each */
#define PRL_DP_HOLDS 16384
#define PRL_DP_EVENTS 4096       /* events that wait for Python, besides those of flows: */
#define PRL_DP_EVENTS_PER_FLOW 4 /* a take-over, or the loss of the link, is told of every flow at once */
#define PRL_DP_LINK_TX_BYTES (8 << 20)
#define PRL_SETUPS_MAX 64 /* set-ups in two steps that are under way, on either side; the others go in one */
#define PRL_DP_CLAIM_BURSTS \
    25   /* claims are repeated so often, PRL_DP_CLAIM_INTERVAL_MS apart; see PRL_CLAIM_SLOW_NS */
#define PRL_DP_CLAIM_INTERVAL_MS 20
#define PRL_DP_NEIGHBOURS_MAX 64 /* asked for evidence and told of claims; more are not */
#define PRL_DP_DEFEND_INTERVAL_MS 100 /* an address is defended at most so often (L7) … */
#define PRL_DP_ALARM_INTERVAL_MS 1000 /* … and an alarm is raised */

struct prl_dp_lif {
    char name[16];
    uint32_t ifindex;
    uint8_t mac[6];
    uint16_t queues;
};

struct prl_dp_address {
    uint8_t addr[16]; /* v4-mapped */
    uint32_t service;
    uint32_t
        lif; /* where it is spoken for; on the others it is silent likewise, unless it is another service's there */
};

/* A machine on the LAN that peers' packets come from: a peer or a gateway. */
struct prl_dp_neighbour {
    uint8_t addr[16]; /* v4-mapped */
    uint8_t mac[6];
    uint16_t lif;
};

/* How the datapath waits for work. Polling gives the CPU up (sched_yield) after each look. */
enum prl_poll_mode {
    PRL_POLL_BLOCKING = 0, /* sleeps: no CPU without work, a wake-up for each batch */
    PRL_POLL_ADAPTIVE = 1, /* polls for poll_ns after work, then sleeps */
    PRL_POLL_BUSY = 2, /* takes all the CPU that nobody else wants; sleeps only while others want it */
};

struct prl_dp_config {
    uint8_t own_addr[2][16]; /* this node's own addresses on the LAN, IPv4 (mapped) and IPv6; zero = none */
    uint32_t node_index; /* 0 or 1 */
    uint32_t flows_max;
    uint32_t mode; /* enum prl_xdp_mode */
    uint32_t poll_mode; /* enum prl_poll_mode */
    uint64_t poll_ns; /* adaptive: looks for work so long after the last work */
    struct prl_owner_config owner;
    struct prl_primary_limits limits;
    struct prl_move_config move;
    uint32_t lifs;
    struct prl_dp_lif lif[PRL_LIFS_MAX];
    uint32_t
        adopted; /* bit per service: this node owned it in a former life, and it was shown that it still does */
    uint32_t addresses;
    struct prl_dp_address address[PRL_ADDRS_MAX];
    int lan_fd; /* bound and connected UDP socket to the other node's LAN address, or -1: prl_dp_lan() */
    int inject_fd; /* the TAPs, IFF_VNET_HDR (taken over by the datapath) */
    int hold_fd;
};

struct prl_dp; /* opaque */

/* NULL and a message in error[PRL_ERROR_BYTES] on failure. Takes lan_fd, inject_fd and hold_fd over. Binds AF_XDP
 * sockets on every queue and enters them in the kernel's map. */
struct prl_dp *prl_dp_open(const struct prl_dp_config *config, struct prl_kernel *kernel, char *error);
int prl_dp_run(struct prl_dp *dp); /* returns 0 after prl_dp_stop(), or -errno */
void prl_dp_stop(struct prl_dp *dp);
void prl_dp_close(struct prl_dp *dp);

/* ---- events for the control plane ---- */
enum prl_event_kind {
    /* a link message for the control plane: type, handle, seq, generation …; body = TLVs. SETUP_DONE to a moment:
     * value = since when the flow is ACTIVE (ns), if it is already */
    PRL_EVENT_MESSAGE = 1,
    PRL_EVENT_LINK_DOWN = 2, /* reason; body = words */
    PRL_EVENT_PRIMARY = 3, /* handle, state = enum prl_primary_state, reason */
    PRL_EVENT_SECONDARY = 4, /* handle, state = enum prl_secondary_state, reason */
    PRL_EVENT_TAKEOVER = 5, /* service; value = decided (ns), value2 = first emission possible (ns) */
    PRL_EVENT_FENCED = 6, /* service: a claim with our token silenced us */
    PRL_EVENT_RENOUNCED = 7, /* as standby: shadows given up, primary told over the LAN */
    PRL_EVENT_ENDED = 8, /* handle: the flow's socket has gone (session over) */
    PRL_EVENT_ALARM = 9, /* body = words: foreign claim, table full, datapath limits */
    PRL_EVENT_TAKEN_FLOW = 10, /* handle: shadow took over; value = out_bytes, value2 = when (ns) */
    PRL_EVENT_SILENT = 11, /* state = enum prl_silence: an owner fell silent (L6), or speaks again (NOT) */
    PRL_EVENT_EXPIRED = 12, /* as standby: the lease is over, only fencing lets the shadows speak (L5) */
    PRL_EVENT_MOVE = 13, /* service, state = enum prl_move_outcome, reason, seq = flows; value = silent since */
    PRL_EVENT_PROBE = 14, /* service: whether anybody answers for it decides; prl_dp_switchover_resolve() */
    /* handle, generation: a prepared socket is the shadow now (value = bytes_received, value2 = bytes_acked; body = TLVs),
     * or cannot be: reason; body = words */
    PRL_EVENT_RESTORED = 15,
    /* handle: it was taken over, and its kernel refuses input that the peer was told of: it cannot go on */
    PRL_EVENT_HOLE = 16,
};

struct prl_event {
    enum prl_event_kind kind;
    uint32_t handle;
    uint32_t seq;
    uint32_t generation;
    uint32_t space;
    uint32_t service;
    uint8_t type; /* link message type */
    uint8_t state;
    uint8_t reason;
    uint8_t bits;
    uint8_t version_min, version_max, node_index, pad;
    uint64_t value, value2;
    uint32_t body_bytes;
    uint32_t pad2;
};

int prl_dp_event_fd(struct prl_dp *dp); /* eventfd, readable while events wait */
/* 1 and the oldest event (body copied, at most PRL_WIRE_MAX bytes), or 0. */
int prl_dp_event(struct prl_dp *dp, struct prl_event *event, uint8_t *body, size_t capacity);

/* ---- the link ---- */
/* A connected stream socket (taken over). Only HELLO is read until prl_dp_link_up(). -EBUSY when there is one. */
int prl_dp_link_attach(struct prl_dp *dp, int fd);
/* The same for a connection whose handshake is done. */
int prl_dp_link_attach_tls(struct prl_dp *dp, struct prl_tls *tls);
/* To be called before our HELLO is sent: shadows and lease of the old epoch are given up (L10), so that the other side
 * may rely on the new one as soon as it has our word. */
void prl_dp_link_hello(struct prl_dp *dp);
/* Both HELLOs agree: a new epoch begins. capabilities: PRL_CAP_* that both have; lan_key MACs the LAN heartbeats; tokens are the claim tokens. */
int prl_dp_link_up(struct prl_dp *dp, uint64_t epoch, uint64_t capabilities, const uint8_t lan_key[32],
                   const uint8_t own_token[16], const uint8_t peer_token[16]);
int prl_dp_link_drop(struct prl_dp *dp, const char *why);
uint64_t prl_dp_link_rtt_ns(struct prl_dp *dp); /* 0 = not known yet */
/* Sends a control message; `msg` gives type, handle, seq and the fixed part; tlvs are encoded TLVs. -ENOTCONN, -ENOBUFS. */
int prl_dp_link_send(struct prl_dp *dp, const struct prl_msg *msg, const uint8_t *tlvs, size_t tlvs_bytes);

/* ---- services ---- */
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
/* The socket of the LAN heartbeats, in place of the one before; it is taken over, also on failure (-errno). */
int prl_dp_lan(struct prl_dp *dp, int fd);
/* Whom to ask and to tell on the LAN (L6, L7); the list replaces the last one. */
void prl_dp_neighbours(struct prl_dp *dp, const struct prl_dp_neighbour *list, uint32_t count);
/* Give a service up for the other node: silent at once, what is replicated is delivered. -EBUSY: it moves already. */
int prl_dp_renounce(struct prl_dp *dp, uint32_t service);
/* The planned move (R21), by the owner, or asked for by the standby: 0 and PRL_EVENT_MOVE follows, or a positive
 * PRL_REASON_*. forced: sessions that are not protected may be lost. */
int prl_dp_switchover(struct prl_dp *dp, uint32_t service, int forced);
/* The end of doubt: whether the other node has the service. -EAGAIN: its lease may last yet. */
int prl_dp_switchover_resolve(struct prl_dp *dp, uint32_t service, int taken, int by_hello);
/* 1: given to the other node, which has not spoken yet. */
int prl_dp_is_given(struct prl_dp *dp, uint32_t service);

/* ---- flows ---- */
/* What had happened to a session before its snapshot, and a restored socket does not have. */
enum prl_replay {
    PRL_REPLAY_PEER_FIN = 1 << 0, /* the peer has ended its direction, at peer_seq */
    PRL_REPLAY_OWN_FIN = 1 << 1, /* the application has ended its; the FIN counts in `committed` */
    PRL_REPLAY_OWN_FIN_ACK = 1 << 2, /* and the peer has acknowledged that */
};

struct prl_flow_spec {
    struct prl_flow_key key;
    uint32_t handle; /* 0: the datapath allocates one */
    uint32_t generation; /* secondary: from SETUP; primary: from prl_dp_primary_prepare(), or 0: counted here */
    uint32_t mss; /* the peer's segment payload, for GSO of reinjected super-packets */
    uint32_t rcv_wscale;
    uint32_t snd_wscale;
    uint32_t committed; /* secondary: end of the snapshot's send queue */
    uint32_t timestamps; /* 1: RFC 7323 timestamps in use */
    uint32_t replay; /* secondary: enum prl_replay */
    uint32_t peer_seq, peer_window; /* secondary: for the segments that do it; the window as in the header */
    uint32_t hash_output; /* secondary: 1 = keep a hash of the output (R20) */
    int fd; /* the socket; the datapath keeps a duplicate of its own: the only one that prld has for long */
    char congestion[16]; /* secondary: the application's congestion control, set again at take-over */
    struct prl_md5_key md5; /* what the session's segments are signed with, both ways (RFC 2385) */
    uint64_t setup_ns; /* primary_setup(): its deadline, from now on (R6) */
    uint64_t begun_ns; /* primary_setup() says when that was (CLOCK_BOOTTIME) */
};

/* Primary: gate on, input redirected, output held; pending until activate. Returns 0 and spec->handle/generation;
 * a flow that is OPEN, or that was taken over, may be set up again by its handle. -EEXIST (tuple has a live flow), -ENOSPC. */
int prl_dp_primary_setup(struct prl_dp *dp, struct prl_flow_spec *spec);
/* Primary, before that: enters the flow, open, and names the generation that the snapshot is going to have; nothing
 * waits yet. Errors as above; -ENOTSUP: of a flow whose input is in our hands, which must not leave them. */
int prl_dp_primary_prepare(struct prl_dp *dp, struct prl_flow_spec *spec);
struct prl_moment_spec {
    uint32_t handle, generation;
    int64_t in_offset, out_offset; /* from the socket's counters to positions in the streams */
    const uint8_t *application; /* what the application gave, if that is not what was prepared */
    uint32_t application_bytes;
    uint32_t pad;
};
/* Primary, between setup and the answer: copies what moves and sends it; the answer activates the flow by itself. 0;
 * -ENOTSUP, -EAGAIN, -ENOBUFS and others: nothing was sent, the whole snapshot may still be. */
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
uint32_t prl_dp_flow_handles(struct prl_dp *dp, uint32_t *handles, uint32_t capacity); /* how many there are */
int prl_dp_flow_info(struct prl_dp *dp, uint32_t handle, struct prl_flow_info *info); /* 0 or -ENOENT */

/* ---- figures ---- */
struct prl_dp_counters {
    uint64_t wakeups, rx_packets, rx_bytes, rx_bad_checksum, rx_malformed, rx_unknown_flow, rx_no_frame,
        rx_no_hold;
    uint64_t reinjected_packets, reinjected_bytes, reinject_failed;
    uint64_t held_out_packets, held_out_bytes, released_out_packets, release_failed;
    uint64_t link_rx_bytes, link_tx_bytes, link_refused, link_tx_full;
    uint64_t link_records_sent, link_records_received, link_key_updates, link_forged,
        link_truncated; /* struct prl_link_tls */
    uint64_t link_elided_packets, link_elided_bytes; /* sent without L3 header; bytes saved by that (R15) */
    uint64_t lan_rx, lan_tx, lan_refused, claims_sent, crafted_acks, events_lost, append_short;
    uint64_t asks_sent, defences; /* L6: neighbours asked; L7: claims that were answered */
    uint64_t over_share; /* packets of flows that held much while the memory of all was short */
    uint64_t reinject_writes; /* gathered: one write for many packets */
    uint64_t link_writes;
    uint64_t polls_given_up; /* others wanted the CPU: no polling for a while */
    uint64_t kept_packets, refed_packets; /* R8: not yet in the shadow's socket when looked at; fed again */
    uint64_t holes; /* sessions that were reset: the new owner's kernel refused acknowledged input for good (R8) */
    uint64_t compared, differences; /* R12a */
    uint64_t signed_again; /* segments of ours whose header was brought up to date behind the stack's back */
    uint64_t foreign_signatures; /* of ours, made with another key than the one that the flow was set up with */
    uint64_t moments_sent, moments_late; /* R17: set-ups in two steps; something had come since the copy */
    uint64_t moments_restored, moments_refused, prepared_dropped; /* on the other node; dropped: no moment came */
    uint64_t relayed_packets,
        relayed_late; /* R21: input from the old owner; for a flow that is not here any more */
};
/* Python gets it as it is, with these types (facts.py). Times are CLOCK_BOOTTIME. */
struct prl_dp_status {
    uint64_t now_ns, epoch, rtt_ns, rtt_min_ns;
    uint64_t takeover_until_ns, open_at_ns;
    uint64_t last_heard_ns, last_lan_ns;
    bool link_attached, link_up;
    enum prl_link_state link_state;
    enum prl_silence silence;
    uint32_t silent_mask; /* bit per service that the silence is for */
    bool unheard; /* silent, and nobody has heard it since the link was lost */
    bool expired; /* as standby: the lease is over, the shadows wait for fencing */
    bool policy_stop; /* the policy in force: agreed in HELLO */
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
};
void prl_dp_figures(struct prl_dp *dp, struct prl_dp_figures *figures);
/* What a flow takes in this process and in the mapped table; packets that it holds are extra. */
uint32_t prl_dp_flow_bytes(void);
/* What this process has taken from the start for each flow that there may be, the mapped table aside. The rest of a flow is
 * in pages that are taken when they are first used. */
uint32_t prl_dp_slot_bytes(void);

#endif /* PRL_API_DATAPATH_H */
