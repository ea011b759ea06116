/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The move of one service from its owner to the standby by word over the link (R21): planned, or renounced because
 * prld is stopped. Pure, one machine a service on each node.
 *
 *     owner    IDLE ─request()─▶ ASKING ─prepared()─▶ DRAINING ─drained()─▶ SILENT ─taken()─▶ RELAYING ─quiet─▶ IDLE
 *               ▲                  │                     │                   │  │ link lost      ▲
 *               ├──── fail(): nothing has changed ◀──────┘                   │  └─▶ DOUBT ───────┤ the other speaks
 *               └──── refused(): nothing was emitted there ◀─────────────────┘        │ nobody answers, or HELLO
 *                                                              ours again ◀───────────┘ says that it was not taken
 *     standby  IDLE ─request()─▶ ASKED      IDLE, ASKED ─take()─▶ TAKING ─relay_end()─▶ IDLE
 *
 * ASKING    the other node is asked for its usable shadows; traffic goes on.
 * DRAINING  new input and output wait; what was sent is being acknowledged.
 * SILENT    the address is silent, COMMIT is out. Every packet is kept until the other node has spoken.
 * DOUBT     the link was lost before the answer. COMMIT may only be acted on while the lease of its receiver lasts (L2),
 *           so that after prl_owner_open_at_ns() the other node has taken the service or never will: whoever answers
 *           address probes then has it.
 * RELAYING  the other node speaks; input that still comes here is relayed, until the claim was seen and it is quiet.
 * TAKING    (new owner) input that comes here waits behind what is relayed.
 */
#ifndef PRL_CORE_SWITCHOVER_H
#define PRL_CORE_SWITCHOVER_H

#ifndef PRL_CFFI
#include <stdbool.h>
#include <stdint.h>
#endif

enum prl_move_state {
    PRL_MOVE_IDLE = 0,
    PRL_MOVE_ASKED = 1,
    PRL_MOVE_ASKING = 2,
    PRL_MOVE_DRAINING = 3,
    PRL_MOVE_SILENT = 4,
    PRL_MOVE_DOUBT = 5,
    PRL_MOVE_RELAYING = 6,
    PRL_MOVE_TAKING = 7,
};

/* What is to be done; bits, in the order of their numbers. */
enum prl_move_do {
    PRL_MOVE_DO_REQUEST = 1 << 0, /* ask the owner to move the service here */
    PRL_MOVE_DO_PREPARE = 1 << 1, /* ask the standby for its usable shadows */
    PRL_MOVE_DO_HOLD = 1 << 2,    /* new input and output of the service's flows wait */
    PRL_MOVE_DO_COMMIT = 1 << 3,  /* silent first, then the word, then relay (I7) */
    PRL_MOVE_DO_RELEASE = 1 << 4, /* what waits goes the normal path: nothing has changed */
    PRL_MOVE_DO_RESUME = 1 << 5,  /* the service is ours again, with all that was kept */
    PRL_MOVE_DO_TAKEN = 1 << 6,   /* what was kept is the other node's */
    PRL_MOVE_DO_END = 1 << 7,     /* say RELAY_END; the flows here are over (L8) */
    PRL_MOVE_DO_FEED = 1 << 8,    /* new owner: nothing is relayed any more */
    PRL_MOVE_DO_PROBE = 1 << 9,   /* does anybody answer for the addresses? */
    PRL_MOVE_DO_TELL = 1 << 10,   /* `outcome` and `reason` to the control plane */
};

enum prl_move_outcome {
    PRL_MOVE_DONE = 1,    /* the other node has it, or this one has taken it */
    PRL_MOVE_UNDONE = 2,  /* all is as it was: `reason` */
    PRL_MOVE_UNSURE = 3,  /* DOUBT: this node stays silent until it knows */
    PRL_MOVE_RESUMED = 4, /* it was not taken: this node has it again */
};

struct prl_move_config {
    uint64_t drain_ns; /* from the request to COMMIT, at most */
    uint64_t quiet_ns; /* after the claim: no input for so long is the end of it */
    uint64_t relay_ns; /* relaying, and waiting behind it, at most */
    uint64_t probe_ns; /* between two probes */
};

struct prl_move {
    uint8_t state;   /* enum prl_move_state */
    uint8_t outcome; /* enum prl_move_outcome */
    uint8_t reason;  /* PRL_REASON_* */
    uint8_t flags;   /* PRL_MOVE_FORCED */
    uint8_t claimed; /* the other node's claim was seen */
    uint8_t pad[3];
    uint32_t number; /* of the attempt; the owner's count, echoed by the standby */
    uint32_t flows;
    uint64_t deadline_ns; /* of ASKED, ASKING, DRAINING, RELAYING, TAKING */
    uint64_t last_input_ns, probe_at_ns;
    uint64_t asked_ns, silent_ns; /* when this attempt began, when it became silent */
    uint64_t done, undone, doubts, resumed, relay_late;
};

/* A move is wanted. `is_owner`: by the node that can do it; else it is asked for. */
uint32_t prl_move_request(struct prl_move *move, const struct prl_move_config *config, bool is_owner,
                          uint8_t flags, uint64_t now_ns, uint8_t *reason);
/* The service is renounced as things are: no questions, no drain. False in *reason: OK, or why not. */
uint32_t prl_move_give(struct prl_move *move, uint64_t now_ns, uint8_t *reason);
/* PREPARED: the standby has so many shadows for `flows` active flows. */
uint32_t prl_move_prepared(struct prl_move *move, uint32_t number, uint32_t shadows, uint32_t flows);
uint32_t prl_move_drained(struct prl_move *move, uint64_t now_ns); /* nothing is unacknowledged any more */
uint32_t prl_move_fail(struct prl_move *move, uint8_t reason);     /* before COMMIT; later it does nothing */
uint32_t prl_move_refused(struct prl_move *move, uint32_t number, uint8_t reason);
uint32_t prl_move_taken(struct prl_move *move, const struct prl_move_config *config, uint32_t number,
                        uint64_t now_ns);
/* A claim of the other node's reached us: it speaks. */
uint32_t prl_move_claimed(struct prl_move *move, const struct prl_move_config *config, uint64_t now_ns);
uint32_t prl_move_link_down(struct prl_move *move, uint64_t now_ns);
/* DOUBT is over: by HELLO, by probes after the lease, or by the operator. */
uint32_t prl_move_resolve(struct prl_move *move, const struct prl_move_config *config, bool is_taken,
                          uint64_t now_ns);
/* The new owner has taken the service on COMMIT. */
uint32_t prl_move_take(struct prl_move *move, const struct prl_move_config *config, uint64_t now_ns);
uint32_t prl_move_relay_end(struct prl_move *move);
/* `open_at_ns`: prl_owner_open_at_ns(). */
uint32_t prl_move_tick(struct prl_move *move, const struct prl_move_config *config, uint64_t open_at_ns,
                       uint64_t now_ns);
/* Whether the service was given away and not taken for certain: nothing of it may be forgotten, nothing be said. */
bool prl_move_is_given(const struct prl_move *move);

#endif /* PRL_CORE_SWITCHOVER_H */
