/* SPDX-License-Identifier: BSD-2-Clause */
/* Does what the state machine of a planned move asks for (core/switchover.h), on either node. */
#ifndef PRL_NODE_MOVE_H
#define PRL_NODE_MOVE_H

#include <stdbool.h>
#include <stdint.h>

#include "flow/flow.h"

void dp_move_do(struct prl_dp *dp, uint32_t service, uint32_t todo); /* enum prl_move_do */
/* Asks for a move: OK, or why not (PRL_REASON_*). */
uint8_t dp_move_request(struct prl_dp *dp, uint32_t service, uint8_t flags);
void dp_move_hand_over(struct prl_dp *dp); /* of all that this node owns (L11) */
void dp_move_link_down(struct prl_dp *dp);
void dp_move_disturbed(struct prl_dp *dp, uint32_t service); /* a session came that would not be moved */

/* A word of the move's to the other node: enum PRL_PHASE_*. */
void dp_move_say(struct prl_dp *dp, uint32_t service, uint8_t phase, uint32_t number, uint32_t flows,
                 uint8_t reason, uint8_t flags);
/* The owner's own reasons against a move; OK when there are none. */
uint8_t dp_move_why_not(struct prl_dp *dp, uint32_t service, uint8_t flags);
/* Active flows of the service, and in *others those that live unprotected. */
uint32_t dp_move_count_primaries(const struct prl_dp *dp, uint32_t service, uint32_t *others);

static inline bool dp_flow_is_of(const struct dp_flow *flow, uint32_t service)
{
    return flow->used && flow->service == service;
}

#endif /* PRL_NODE_MOVE_H */
