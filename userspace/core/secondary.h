/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The secondary's side of one flow (R8–R10, R19), pure like the primary's.
 *
 *     (none) ──open()──▶ ACTIVE ──void()──▶ VOID      a void shadow never speaks and never comes back
 *                         │  ▲ confirm()     ▲
 *               suspend() ▼  │               │
 *                        SUSPENDED ──────────┘          (L10) as void, until the primary says that it misses nothing
 *                          └────takeover()──▶ TAKING ──go_on()──▶ OWNER   the shadow goes on with the session
 *                                               └──────fence()─────┴──▶ VOID
 *
 * Of a take-over everything is decided at one moment, by takeover(); from then on no word of the old primary's counts. What it
 * costs to let a socket go on comes one flow after the other, and until its turn a shadow that is TAKING is silent.
 *
 * An ACTIVE shadow may be taken over once the primary has confirmed that it is active as well: by SETUP_DONE in its
 * direction, or by any REPLICATE or OUTPUT. A primary that gave the set-up up never confirms (L4).
 *
 * The link delivers everything once and in order, so a message whose number is not the next one means that the
 * two sides differ: the shadow is void.
 */
#ifndef PRL_CORE_SECONDARY_H
#define PRL_CORE_SECONDARY_H

#ifndef PRL_CFFI
#include <stdbool.h>
#include <stdint.h>
#endif

enum prl_secondary_state {
    PRL_SECONDARY_GONE = 0,
    PRL_SECONDARY_ACTIVE = 1,
    PRL_SECONDARY_VOID = 2,
    PRL_SECONDARY_OWNER = 3,
    PRL_SECONDARY_SUSPENDED = 4,
    PRL_SECONDARY_TAKING = 5,
};

/* What to do with a REPLICATE or OUTPUT. */
enum prl_verdict {
    PRL_VERDICT_ACCEPT = 0, /* give it to the own stack / append it; an ACK is due */
    PRL_VERDICT_NACK = 1,   /* flush the flow's ACK, then send a NACK with *reason; give nothing up */
    PRL_VERDICT_IGNORE = 3, /* behind a refused packet (nack = retry): it comes again, nothing is said */
    PRL_VERDICT_VOID = 2,   /* as NACK, and the shadow is void from now on */
};

struct prl_secondary_counters {
    uint64_t accepted_packets, accepted_bytes;
    uint64_t acks;
    uint64_t output_packets, output_bytes;
    uint32_t nacks_space, nacks_not_active;
    uint32_t ignored; /* behind a refused packet */
    uint32_t pad;
};

struct prl_secondary {
    uint32_t handle;
    uint32_t generation;
    uint8_t state;  /* enum prl_secondary_state */
    uint8_t reason; /* why it is void */
    uint8_t space_known;
    uint8_t ack_due;     /* an input ACK is owed (cumulative, R9) */
    uint8_t out_ack_due;
    uint8_t confirmed; /* the primary is ACTIVE too */
    uint8_t fin_done;  /* the shadow has sent its FIN: a retransmission does not count again */
    uint8_t nack_retry; /* set by the caller after open(): the pair runs nack = retry (R5) */
    uint8_t refusing;   /* in_next was refused: what comes behind it is ignored until it comes again */
    uint8_t marked;     /* out_mark_* below are valid */
    uint8_t has_refused; /* `refused` is valid */
    uint8_t pad;
    uint32_t in_next, out_next; /* numbers expected */
    uint32_t primary_edge;      /* the primary's last word on its space */
    uint32_t out_tcp_next;      /* the shadow has sent everything before this */
    uint32_t announced_edge;    /* what the last ACK or FLOWCTL said */
    uint32_t in_accepted;       /* newest number accepted: what an ACK says (a refused number is skipped) */
    uint32_t out_mark, out_mark_tcp; /* OUTPUT that is acknowledged once the shadow has sent up to out_mark_tcp */
    uint32_t refused; /* the newest number refused for want of space, with nack = drop */
    uint32_t pad2;
    uint64_t out_bytes; /* payload appended since the snapshot: where the committed output ends */
    struct prl_secondary_counters counters;
};

void prl_secondary_open(struct prl_secondary *flow, uint32_t handle, uint32_t generation, uint32_t out_tcp_next,
                        uint32_t own_edge, int space_known);

/* To be called after open(): out_tcp_next counts a FIN that the shadow has sent. */
void prl_secondary_has_ended(struct prl_secondary *flow);

/* SETUP_DONE from the primary: it is ACTIVE. False when the generation is not the shadow's. One that was suspended owes what it
 * has: its acknowledgements may have been lost with the link. */
bool prl_secondary_confirm(struct prl_secondary *flow, uint32_t generation, uint32_t space);

/* REPLICATE: `tcp_end` is behind its payload, `payload_bytes` 0 for segments without (these always pass). */
enum prl_verdict prl_secondary_replicate(struct prl_secondary *flow, uint32_t seq, uint32_t space,
                                         uint32_t tcp_end, uint32_t payload_bytes, uint32_t packet_bytes,
                                         uint32_t own_edge, uint8_t *reason);

/* OUTPUT: tells how many leading bytes the shadow has already (*skip_bytes); the caller appends the rest and
 * then calls prl_secondary_output_done(). A hole is a difference: VOID. */
enum prl_verdict prl_secondary_output(struct prl_secondary *flow, uint32_t seq, uint32_t tcp_seq,
                                      uint32_t payload_bytes, uint32_t *skip_bytes, uint8_t *reason);
void prl_secondary_output_done(struct prl_secondary *flow, uint32_t appended_bytes, bool fin);
/* OUTPUT that resets the session: the end of it, wherever in the stream it stands (what is in front of it may have been
 * dropped). When accepted, OUTPUT_ACK is due; then the shadow is to be voided. */
enum prl_verdict prl_secondary_reset(struct prl_secondary *flow, uint32_t seq, uint8_t *reason);

/* The cumulative ACK that is owed: true and the numbers, or false. Clears the debt; `own_edge` is announced. */
bool prl_secondary_take_ack(struct prl_secondary *flow, uint32_t own_edge, uint32_t *seq, uint32_t *space);
/* Likewise for OUTPUT, as far as the shadow has sent it: the last `unsent_bytes` of what was appended still wait in
 * its queue (the peer's window). The debt stays until all is sent and acknowledged. */
bool prl_secondary_take_output_ack(struct prl_secondary *flow, uint32_t unsent_bytes, uint32_t *seq,
                                   uint32_t *tcp_seq);
/* The own space grew beyond what was announced: true when a FLOWCTL is due with *space. */
bool prl_secondary_space_grew(struct prl_secondary *flow, uint32_t own_edge, uint32_t *space);

/* L10: the primary may go on alone from now on, so that the shadow may miss something. Returns true when it waits for the
 * primary's word on that; false when there is nothing to wait for. */
bool prl_secondary_suspend(struct prl_secondary *flow);

/* Void latches (L4). Returns true when the flow was usable until now, or might have become so. */
bool prl_secondary_void(struct prl_secondary *flow, uint8_t reason);
/* True when the shadow may speak, in its turn: it was ACTIVE and confirmed; it is TAKING afterwards, and VOID otherwise. */
bool prl_secondary_takeover(struct prl_secondary *flow);
/* Its turn: true when it was TAKING; it is OWNER afterwards. */
bool prl_secondary_go_on(struct prl_secondary *flow);
/* Whether the session is this node's: its shadow was taken over, be its turn to come. */
bool prl_secondary_is_taken(const struct prl_secondary *flow);
/* The address was taken from us again: true when the shadow had spoken for it, or was to; never more. */
bool prl_secondary_fence(struct prl_secondary *flow);

#endif /* PRL_CORE_SECONDARY_H */
