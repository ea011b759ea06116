/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One flow: a session's primary, or its shadow, as `secondary` says. The two share memory, so nobody touches it but by
 * dp_primary_of(), dp_secondary_of() and dp_shadow_of(), which look at the role first.
 */
#ifndef PRL_FLOW_FLOW_H
#define PRL_FLOW_FLOW_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/hold.h"
#include "core/primary.h"
#include "core/secondary.h"
#include "prl_abi.h"
#include "tcp/md5sig.h"
#include "tcp/packet.h"

struct prl_dp;

/* Where two sides compared equal (R12a). */
struct dp_compare {
    uint64_t hash; /* running, over all packets up to now */
    uint32_t sent_in, sent_out; /* primary: numbers of the last COMPARE */
};

/* What a shadow has only while packets of it wait here. */
struct dp_unfed {
    struct prl_chain kept; /* acknowledged packets that its kernel does not have yet (R8) */
    struct prl_chain waiting; /* relaying: came here before something in front of it was relayed */
    struct prl_chain unjoined; /* messages that wait for their frames, or behind one that does (path/mirror.h) */
    uint32_t bare; /* of those that are kept: without their bytes (docs/mirror.md) */
    uint32_t kept_tries;
    uint32_t acked; /* message up to which input was acknowledged while `unseen`; 0: nothing was */
};

/* What only a shadow needs. */
struct dp_shadow {
    struct dp_unfed *unfed; /* lent (flow/lend.h); NULL: nothing waits */
    uint64_t check_hash[2]; /* R12a: at the last two multiples of DP_COMPARE_EVERY */
    uint32_t check_seq[2];
    uint32_t rcv_nxt, snd_una, in_seq; /* what is still to be found in its socket */
    uint32_t out_hash;   /* of what is appended to it, when that is wanted */
    uint32_t in_end;     /* behind the newest payload that was replicated */
    uint32_t relay_next; /* relaying: input up to here has been fed */
    uint8_t tries;       /* 0: nothing to be found */
    uint8_t
        congestion; /* the application's congestion control, set again at take-over: its number (flow/congestion.h) */
    bool in_end_known;
    bool
        unseen; /* nothing is acknowledged before its socket was looked at: it must have what cannot be fed again */
};

/* Its socket has gone. The control plane is told once nothing of the flow waits any more, be it in the hold TAP. */
enum dp_ended { DP_ENDED_NOT, DP_ENDED_NOTED, DP_ENDED_LOOKED };

/* What is kept of struct prl_flow_spec, under the same names; the key is in struct prl_flow. */
struct dp_spec {
    uint32_t handle, generation;
    int fd; /* the datapath's own duplicate, or -1 */
    uint16_t mss;
    bool timestamps, hash_output;
};

/* One for each flow that there may be, in pages of their own: every byte counts (T7), and every cache line that a packet
 * needs (T6): the first one, that of the core's numbers, that of its counters, and the last one. */
struct dp_flow {
    bool used, secondary, dirty;
    bool relaying; /* in our hands: input is captured and fed in order, without being replicated (path/relay.h) */
    bool has_peer_ts;
    bool edge_known; /* kernel->edge_limit is valid */
    bool key_changed; /* the stack signs with another key than ours: the flow needs a new snapshot */
    bool awake; /* in dp->awake: time may bring it something (dp_flows_tick) */
    struct dp_spec spec;
    struct prl_flow *kernel; /* of `slot`; kernel->key is the flow's */
    struct prl_md5_key *md5; /* NULL: it is not signed */
    uint32_t slot;
    uint32_t next_by_handle, next_by_key, next_awake, next_dirty;
    uint8_t service;
    uint8_t ended; /* enum dp_ended */
    uint8_t relay_ticks; /* relaying: for how long */
    uint8_t tellings; /* primary that has waited to be protected: how often its peer is yet told of room */
    union { /* by `secondary` */
        struct prl_primary as_primary;
        struct {
            struct prl_secondary as_secondary;
            struct dp_shadow as_shadow;
        };
    };
    struct dp_compare compare;
    uint64_t last_input_ns; /* primary: released; shadow: fed; relaying: captured */
    uint64_t orphan_cookie; /* the socket's, once spec.fd is -1 */
    /* last seen in the peer's segments, for crafted ones */
    uint32_t peer_tsval, peer_tsecr;
    uint32_t peer_tcp_end; /* the newest byte that it sent ends here */
    uint16_t peer_window;
    uint8_t peer_mac[6]; /* next hop towards the peer */
    uint32_t hold_missing_since_ms; /* CLOCK_BOOTTIME, the low 32 bits, never 0; 0: nothing is missing */
    union {
        uint32_t udp_lost_before; /* UDP: datagrams that the socket had dropped when the flow was set up */
        uint32_t tell_at_us; /* TCP, tellings: CLOCK_BOOTTIME, the low 32 bits; 0: not before more is known */
    };
    uint32_t former_handle; /* as a shadow: frames that were captured before have it still; 0 = none */
} __attribute__((aligned(64)));

/* The state of a flow's role. Like strchr(), they give what the caller may change of a flow that it may change. */
static inline struct prl_primary *dp_primary_of(const struct dp_flow *flow)
{
    assert(!flow->secondary);
    return (struct prl_primary *)(uintptr_t)&flow->as_primary;
}

static inline struct prl_secondary *dp_secondary_of(const struct dp_flow *flow)
{
    assert(flow->secondary);
    return (struct prl_secondary *)(uintptr_t)&flow->as_secondary;
}

static inline struct dp_shadow *dp_shadow_of(const struct dp_flow *flow)
{
    assert(flow->secondary);
    return (struct dp_shadow *)(uintptr_t)&flow->as_shadow;
}

/* Of the other role, and nothing is known in it yet. */
void dp_flow_become_primary(struct dp_flow *flow);

/* Has what the next packet needs of a flow, of either role, brought into the cache. */
static inline void dp_flow_prefetch(const struct dp_flow *flow)
{
    __builtin_prefetch(flow);
    __builtin_prefetch(&flow->as_primary);
    __builtin_prefetch(&flow->as_primary.counters);
}

/* Right edge that the flow's own socket takes now (R10). */
static inline uint32_t dp_flow_own_edge(const struct dp_flow *flow)
{
    const volatile struct prl_sock_view *view = &flow->kernel->sock;

    return view->rcv_wup + view->rcv_wnd;
}

/* Tells the kernel what is to happen with the flow's packets, by its role and state. */
void dp_flow_set_flags(struct dp_flow *flow);
/* Reads the state of the flow's socket. */
void dp_flow_sample(struct prl_dp *dp, struct dp_flow *flow);
void dp_flow_note_peer(struct dp_flow *flow, const struct prl_packet *packet);
/* Whether a packet of the link's, from L3 on, is the flow's. */
bool dp_flow_has_packet(const struct dp_flow *flow, const uint8_t *l3, const struct prl_packet *packet,
                        uint16_t lif, uint16_t packet_flags);
/* The key that the flow's segments are signed with, in place of the last one; it may be that of none. 0 or -ENOMEM. */
int dp_flow_set_key(struct dp_flow *flow, const struct prl_md5_key *key);
void dp_flow_forget_key(struct dp_flow *flow);

#endif /* PRL_FLOW_FLOW_H */
