/* SPDX-License-Identifier: BSD-2-Clause */
/* Does what a primary's state machine asks for (core/primary.h): a list of actions, in order. */
#ifndef PRL_PATH_APPLY_H
#define PRL_PATH_APPLY_H

#include "flow/flow.h"

void dp_apply(struct prl_dp *dp, struct dp_flow *flow, struct prl_actions *actions);
/* What waits without a number goes on, as far as the link has room. */
void dp_primary_drain(struct prl_dp *dp, struct dp_flow *flow);
/* Forgets a flow on this node: what waits of it is dropped, its place in table and kernel is free. */
void dp_flow_forget(struct prl_dp *dp, struct dp_flow *flow);

#endif /* PRL_PATH_APPLY_H */
