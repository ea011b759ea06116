/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Who goes on alone, where a store that both nodes can ask decides (L12): the question and what came of it, pure.
 *
 *                lost the other node, and would          this node holds
 *     TOGETHER ── speak without it ──▶ ASKED ──────────────────────────▶ WON ── an echo in a new epoch ──▶ TOGETHER
 *        ▲                              │ ▲ │ the other one does
 *        │           no answer in time  ▼ │ └──────────────────────────▶ LOST ─┐
 *        │                         UNREACHED (asked again, and again)      │    │ its word that it
 *        └────────────── a new epoch ───────┴──────────────────────────────┘    ▼ cannot take over
 *                                                                              WON
 *
 * The control plane asks (docs/arbiter.md). Which answers count is told by the round, which each epoch begins anew.
 */
#ifndef PRL_CORE_ARBITER_H
#define PRL_CORE_ARBITER_H

#ifndef PRL_CFFI
#include <stdbool.h>
#include <stdint.h>
#endif

enum prl_arbiter_state {
    PRL_ARBITER_TOGETHER = 0, /* nobody need be asked; also where there is no arbiter */
    PRL_ARBITER_ASKED = 1,
    PRL_ARBITER_WON = 2, /* this node alone may speak */
    PRL_ARBITER_LOST = 3, /* the other one alone may */
    PRL_ARBITER_UNREACHED = 4, /* asked, and no answer came in time: what the configuration says holds */
};

enum prl_seizes {
    PRL_SEIZES_NOT = 0,
    PRL_SEIZES_FENCED = 1, /* the operator's word */
    PRL_SEIZES_BY_WORD = 2, /* the other node's; not to be told any more once our HELLO is said */
};

struct prl_arbiter_config {
    uint64_t answer_ns; /* how long an answer may take; then the store is asked again; 0 = there is no arbiter */
    /* 1: the lease decides as without an arbiter, unless that has said that the other node goes on, which may not have
     * reached it; 0: nobody speaks who has not won */
    uint32_t leases;
    uint32_t pad;
};

struct prl_arbiter {
    struct prl_arbiter_config config;
    uint8_t state; /* enum prl_arbiter_state */
    uint8_t seizes; /* enum prl_seizes: by whose word, other than the store's, which is to be told */
    uint8_t in_doubt; /* WON by the other node's word that it cannot take over, or that one goes on by ours */
    uint32_t round;
    uint64_t asked_ns;
    uint64_t asks, unreached;
};

/* Whether time and evidence permit nothing: there is an arbiter, and its word is awaited, or needed for good. */
bool prl_arbiter_rules(const struct prl_arbiter *arbiter);
/* Whether they need not: it has said that this node goes on, and the other one does not go on without its word. */
bool prl_arbiter_is_won(const struct prl_arbiter *arbiter);
/* This node wants to speak without the other: whether the store is to be asked now. */
bool prl_arbiter_ask(struct prl_arbiter *arbiter, uint64_t now_ns);
/* WON, LOST or UNREACHED, of a question of this round; whether that is news. */
bool prl_arbiter_answer(struct prl_arbiter *arbiter, uint32_t round, uint8_t state);
/* A new epoch. Who had won holds on to that until the other node is known to be in it, too: prl_arbiter_together(). */
void prl_arbiter_link_up(struct prl_arbiter *arbiter);
void prl_arbiter_together(struct prl_arbiter *arbiter);
/* This node has said that the other one may go on. */
void prl_arbiter_renounced(struct prl_arbiter *arbiter);
/* Our HELLO is said, so that the other node may be in the new epoch, where a word of this one's counts no more: a right that
 * rests on such a word ends, which the store may not have yet, and so does one that was renounced. */
void prl_arbiter_hello(struct prl_arbiter *arbiter);
/* Somebody else's word that the other node will not speak: the operator's, or (by_word) the other node's own. Whether there is
 * a store to be told. */
bool prl_arbiter_seize(struct prl_arbiter *arbiter, bool by_word);

#endif /* PRL_CORE_ARBITER_H */
