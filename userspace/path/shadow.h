/* SPDX-License-Identifier: BSD-2-Clause */
/* What becomes of a shadow, and what it owes the primary: acknowledgements, its space. */
#ifndef PRL_PATH_SHADOW_H
#define PRL_PATH_SHADOW_H

#include <stdbool.h>
#include <stdint.h>

#include "flow/flow.h"

/* The flow owes an acknowledgement: those of a batch leave together. */
void dp_shadow_owes(struct prl_dp *dp, struct dp_flow *flow);
void dp_shadow_owes_nothing(struct prl_dp *dp, struct dp_flow *flow);
void dp_shadow_flush_acks(struct prl_dp *dp);
void dp_shadow_send_ack(struct prl_dp *dp, struct dp_flow *flow); /* what it owes, now */
void dp_shadow_space(struct prl_dp *dp, struct dp_flow *flow); /* FLOWCTL when the space grew */
void dp_shadow_void(struct prl_dp *dp, struct dp_flow *flow, uint8_t reason);
/* Voids the shadow and tells the primary why (ERROR). */
void dp_shadow_give_up(struct prl_dp *dp, struct dp_flow *flow, uint8_t reason);
/* R18: whether something else than the primary's output is in the shadow's stream, as far as its socket was looked at: the program
 * over here has written, or ended its direction, by the descriptor. It stays there, and what follows has other numbers. */
bool dp_shadow_is_written(const struct dp_flow *flow);
void dp_shadow_check(struct prl_dp *dp, struct dp_flow *flow); /* gives it up then */
/* A session that was taken over, and not protected since, has ended here: the address is not ours any more, or it must not
 * have its turn. */
void dp_shadow_fence(struct prl_dp *dp, struct dp_flow *flow, uint8_t reason);
/* L10. False: it cannot wait for a new epoch. */
bool dp_shadow_suspend(struct prl_dp *dp, struct dp_flow *flow);
bool dp_shadow_is_suspended(const struct dp_flow *flow);
/* The service is not the other node's any more: nothing of it will be told of. */
void dp_shadow_void_suspended(struct prl_dp *dp, uint32_t service);

#endif /* PRL_PATH_SHADOW_H */
