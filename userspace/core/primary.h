/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The primary's side of one flow (R2–R7, R19): a state machine without I/O and without a clock (R26). Events go
 * in through the functions below, each with the time; what is to be done comes out as actions, in order.
 *
 *               open()                activate()                    void_done()
 *     (none) ──────────▶ SETUP ───────────────────▶ ACTIVE ──fail()──▶ VOIDING ─────────▶ OPEN
 *                          │ fail(): nothing was acknowledged, so nothing            ▲ everything held was
 *                          └─ needs to be voided ────────────────────────────────────┘ released in order
 *     fence() from any state: everything held is dropped, the flow is GONE.
 *     ACTIVE ──move()──▶ MOVED ──unmove()──▶ ACTIVE, or failed from there
 *     VOIDING, quiet, the link lost ──void_done()──▶ ALONE ──a packet, give_up()──▶ OPEN
 *     VOIDING after the loss of the link, ALONE ──resume()──▶ ACTIVE (L10)
 *
 * SETUP    input and output wait in `pending`, in order of arrival; nothing passes.
 * ACTIVE   input: numbered, sent (REPLICATE), waits in `held` until acknowledged; output likewise (OUTPUT).
 *          A packet refused for want of space is dropped on both sides, or (nack = retry) goes back to the front of
 *          `pending` with all behind it, and is sent again under the same number (go-back-N).
 * VOIDING  the secondary must not use its shadow any more: wait for VOID_ACK or the end of its lease (L4);
 *          newer packets wait in `pending`.
 * OPEN     not replicated: packets pass without prl.
 * ALONE    (L10) as OPEN, but nothing has passed since the link was lost: the first packet opens the flow. Until then its shadow,
 *          which cannot be used meanwhile, has all that there is.
 * MOVED    (R21) the service was given to the other node: input is relayed there, and kept, with the output, until
 *          that node has spoken (taken()). Until then it can all come back.
 *          Before that, hold_back() lets an ACTIVE flow drain: what is new waits in `pending`.
 *
 * Numbers: one sequence of message numbers per flow for REPLICATE, one for OUTPUT; each is acknowledged
 * cumulatively. The datapath owns frames; an action that carries a chain hands its entries to the datapath.
 * Every function that has an `out` overwrites it. REPLICATE carries the `own_edge` of this structure.
 */
#ifndef PRL_CORE_PRIMARY_H
#define PRL_CORE_PRIMARY_H

#include "core/hold.h"

enum prl_primary_state {
    PRL_PRIMARY_GONE = 0,
    PRL_PRIMARY_SETUP = 1,
    PRL_PRIMARY_ACTIVE = 2,
    PRL_PRIMARY_VOIDING = 3,
    PRL_PRIMARY_OPEN = 4,
    PRL_PRIMARY_MOVED = 5,
    PRL_PRIMARY_ALONE = 6,
};

/* Whether a flow that failed may go on without a new snapshot (L10). */
enum prl_resume {
    PRL_RESUME_NOT = 0,
    PRL_RESUME_MAY = 1, /* it was ACTIVE until the link was lost */
    PRL_RESUME_AWAITED = 2, /* the link is back: no VOID before the secondary has said what it has */
};

/* What the secondary has of a flow, as RESYNC says it. */
struct prl_position {
    uint32_t in_next, out_next; /* the numbers that it expects */
    uint32_t refused; /* the newest number that it refused for want of space; valid with has_refused */
    uint32_t space;
    bool has_refused;
};

/* What is to be done, in the order given. */
enum prl_action_kind {
    PRL_DO_REPLICATE = 1,      /* send `hold` as REPLICATE; the entry stays in the flow's queue */
    PRL_DO_OUTPUT = 2,         /* send `hold` as OUTPUT; the entry stays in the flow's queue */
    PRL_DO_RELEASE_INPUT = 3,  /* give `chain` to the host's own stack, in order, and free it */
    PRL_DO_RELEASE_OUTPUT = 4, /* put `chain` on the wire, in order, and free it */
    /* free `chain`; PRL_REASON_NO_SPACE: of a TCP flow, its peer is told again up to where it may send (RFC 9293, 3.10.7.4) */
    PRL_DO_DROP = 5,
    PRL_DO_COMMIT = 6, /* payload before `seq` may leave the host (out_committed) */
    PRL_DO_SEND_VOID = 7, /* send VOID(handle, generation, reason) */
    PRL_DO_STATE = 8, /* the flow's state changed: set the kernel's flags, tell the control plane (reason) */
    /* Send SETUP_DONE(handle, generation, own_edge, OK) back: only from then on may the shadow be used. So a SETUP
     * that fails can open at once (L4): the shadow, if there is one, was never confirmed. */
    PRL_DO_SEND_ACTIVE = 9,
    PRL_DO_RELAY = 10, /* send `hold` as RELAY; a DROP that frees it may follow */
};

/* No event causes more actions than this. */
#define PRL_ACTIONS_MAX 8
/* VOID is said again this often until void_done(): the link may have been down, or be a new one. */
#define PRL_VOID_RETRY_NS 100000000

struct prl_action {
    uint8_t kind;
    uint8_t reason; /* PRL_REASON_* */
    uint8_t pad[2];
    uint32_t seq;
    struct prl_hold *hold;
    struct prl_chain chain;
    const char *counter; /* DROP: the name of the counter that counts it (struct prl_primary_counters) */
};

struct prl_actions {
    uint32_t count;
    uint32_t pad;
    struct prl_action action[PRL_ACTIONS_MAX];
};

/* Limits of a flow; all are reached visibly: the packet is dropped and counted, and only this flow's. */
struct prl_primary_limits {
    uint32_t packets_max; /* held and pending, input and output each */
    uint32_t bytes_max; /* likewise */
    uint64_t answer_ns; /* R6: deadline of the oldest unanswered message */
    uint32_t nack_retry; /* R5: 1 = what the secondary has no space for is sent again, 0 = dropped */
    uint32_t retries_max; /* of one packet; then replication of the flow ends */
    uint64_t retry_ns; /* wait before it is sent again when no growth of space is told */
    uint64_t setup_ns; /* R6: deadline of SETUP */
};

/* What every packet counts comes first: one cache line for input, the next one for output. */
struct prl_primary_counters {
    uint64_t replicated_packets, replicated_bytes;
    uint64_t released_packets, released_bytes; /* input, after an acknowledgement */
    uint64_t acks;
    uint64_t hold_ns_sum; /* time in the queue of input, over released_packets */
    uint32_t hold_us_max; /* likewise */
    uint32_t nacks;
    uint64_t output_packets, output_bytes, output_released;
    uint32_t output_flushed;
    uint32_t flushed_packets; /* input, released without one (opened) */
    uint32_t dropped_full; /* queue limit */
    uint32_t dropped_space; /* payload beyond the receive space, ours or theirs (R3) */
    uint32_t retried; /* packets that went back to be sent again (R5, go-back-N) */
    uint32_t dropped_nack; /* refused by the secondary: no space */
    uint32_t dropped_fenced;
    uint32_t relayed, dropped_moved; /* R21: sent to the new owner; not needed here any more */
    uint32_t dropped_hole; /* output behind a segment that was dropped: TCP sends both again */
    uint32_t stale_acks; /* acknowledges what was never sent */
    uint32_t resent; /* L10: in a new epoch */
};

/* Packets of one flow that wait, and what is known of them. A flow of which none waits needs none of it (T7). */
struct prl_queues {
    struct prl_chain in_pending, in_held, relayed; /* relayed: copies, behind in_held */
    struct prl_chain out_pending, out_held;
    uint64_t in_deadline_ns, out_deadline_ns; /* R6: of the oldest unanswered message; 0 = none */
    uint64_t retry_at_ns; /* pending input waits until then, or until the space grows; 0 = no wait */
    uint32_t retry_seq, retry_tries; /* number that was refused, and how often */
    uint32_t retry_edge; /* peer_edge when it was refused */
    uint32_t pad;
};

/* The members before `counters` are one cache line. */
struct prl_primary {
    uint32_t handle;
    uint32_t generation;
    uint8_t state; /* enum prl_primary_state */
    uint8_t reason; /* why it left ACTIVE, PRL_REASON_* */
    uint8_t space_known; /* edges below are valid (TCP) */
    uint8_t held_back; /* ACTIVE: what is new waits; MOVED: the other node has not spoken yet */
    uint32_t in_next, in_acked; /* next number to give; newest acknowledged */
    uint32_t out_next, out_acked;
    uint32_t out_tcp_next; /* output is taken without holes: the next one starts here or before */
    uint32_t committed; /* TCP sequence number */
    uint32_t own_edge, peer_edge; /* absolute right edges (R10) */
    uint8_t resume; /* enum prl_resume */
    uint8_t pad[3];
    uint64_t deadline_ns; /* SETUP: of the set-up (R6); VOIDING: when VOID is said again; 0 = none */
    /* The caller's: all zero before input() and output(), which need it. It stays until prl_primary_is_quiet(); then
     * the caller may take it back, and NULL says that nothing waits. */
    struct prl_queues *queues;
    struct prl_primary_counters counters;
};

/* Known, not replicated: OPEN. The flow must be GONE; nobody is told. */
void prl_primary_enter(struct prl_primary *flow, uint32_t handle, uint32_t generation);

/* Starts SETUP for a snapshot. The flow must be GONE or OPEN. */
void prl_primary_open(struct prl_primary *flow, uint32_t handle, uint32_t generation, uint64_t now_ns,
                      const struct prl_primary_limits *limits, struct prl_actions *out);

/* Nothing waits, sent or not. */
bool prl_primary_is_quiet(const struct prl_primary *flow);

/* A packet of the peer's. Takes `hold` over (its frame, bytes, tcp_seq/tcp_end, lif, flags are set; payload is
 * tcp_end - tcp_seq). `own_edge` is what the own socket would take now. */
void prl_primary_input(struct prl_primary *flow, struct prl_hold *hold, uint32_t own_edge, uint64_t now_ns,
                       const struct prl_primary_limits *limits, struct prl_actions *out);

/* A segment of the own application's, held on its way out. Takes `hold` over. */
void prl_primary_output(struct prl_primary *flow, struct prl_hold *hold, uint64_t now_ns,
                        const struct prl_primary_limits *limits, struct prl_actions *out);

/*
 * The shadow is ready (R7): from now on the flow is ACTIVE. `committed` is the send queue's end in the snapshot,
 * `peer_edge` the shadow's right edge. Pending packets are then put through the normal path one at a time with
 * prl_primary_drain(), which returns true while there are more (each call gives at most PRL_ACTIONS_MAX actions).
 */
void prl_primary_activate(struct prl_primary *flow, uint32_t committed, uint32_t own_edge, uint32_t peer_edge,
                          int space_known, uint64_t now_ns, struct prl_actions *out);
bool prl_primary_drain(struct prl_primary *flow, uint32_t own_edge, uint64_t now_ns,
                       const struct prl_primary_limits *limits, struct prl_actions *out);

/* ACK or NACK (R5), OUTPUT_ACK, FLOWCTL. */
void prl_primary_ack(struct prl_primary *flow, uint32_t seq, uint8_t reason, uint32_t space, uint64_t now_ns,
                     const struct prl_primary_limits *limits, struct prl_actions *out);
void prl_primary_output_ack(struct prl_primary *flow, uint32_t seq, uint8_t reason, uint32_t tcp_seq,
                            uint64_t now_ns, const struct prl_primary_limits *limits, struct prl_actions *out);
void prl_primary_flowctl(struct prl_primary *flow, uint32_t space);
/* What is pending in an ACTIVE flow may be drained now (draining was cut short, a retry is due, the space grew). */
bool prl_primary_wants_drain(const struct prl_primary *flow, uint64_t now_ns);

/* Replication of this flow is over (link lost, timeout, error, request): SETUP -> OPEN at once,
 * ACTIVE -> VOIDING (VOID is sent when `link_up`). What waits for resume() does not any more, unless it was the link. */
void prl_primary_fail(struct prl_primary *flow, uint8_t reason, int link_up, uint64_t now_ns,
                      struct prl_actions *out);
/* The shadow can never speak again (VOID_ACK for this generation), or not before resume() (RENOUNCE, or the lease's end;
 * `is_kept`: the secondary keeps it for that): release all. */
void prl_primary_void_done(struct prl_primary *flow, bool is_kept, uint64_t now_ns, struct prl_actions *out);
/* L10. A new epoch, in which the secondary says what it has: whether that is of use to this flow. */
bool prl_primary_await(struct prl_primary *flow);
/* It said so: go on from there, or false: not possible, and given up. What is to be sent again waits for drain(). */
bool prl_primary_resume(struct prl_primary *flow, const struct prl_position *position, uint64_t now_ns,
                        const struct prl_primary_limits *limits, struct prl_actions *out);
/* The flow is not going to go on without a new snapshot. */
void prl_primary_give_up(struct prl_primary *flow, uint64_t now_ns, struct prl_actions *out);
/* R21. What is new waits (or no longer); the caller then drains. */
void prl_primary_hold_back(struct prl_primary *flow, bool on);
bool prl_primary_is_drained(const struct prl_primary *flow); /* nothing is unacknowledged */
/* The address is silent and given to the other node: what waits is relayed by prl_primary_drain(). */
void prl_primary_move(struct prl_primary *flow, struct prl_actions *out);
void prl_primary_taken(struct prl_primary *flow, struct prl_actions *out); /* it is the other's for good */
/* It was not taken. `is_void`: its shadow can never speak again, all is released; else the flow goes on as it was, or
 * fails when something is unacknowledged that cannot be told. */
void prl_primary_unmove(struct prl_primary *flow, bool is_void, uint64_t now_ns, struct prl_actions *out);
/* The address is not ours any more: drop all. */
void prl_primary_fence(struct prl_primary *flow, struct prl_actions *out);
/* Deadlines (R6). Cheap when nothing is outstanding. */
void prl_primary_tick(struct prl_primary *flow, int link_up, uint64_t now_ns, struct prl_actions *out);
/* Earliest time at which tick() has something to do; UINT64_MAX = never. */
uint64_t prl_primary_deadline(const struct prl_primary *flow);

#endif /* PRL_CORE_PRIMARY_H */
