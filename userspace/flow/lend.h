/* SPDX-License-Identifier: BSD-2-Clause */
/* What a flow is lent while packets of it wait: before one does, until none does any more. */
#ifndef PRL_FLOW_LEND_H
#define PRL_FLOW_LEND_H

#include "flow/flow.h"

int dp_lend_open(struct prl_dp *dp); /* 0 or -ENOMEM */
void dp_lend_close(struct prl_dp *dp);

void dp_primary_lend(struct prl_dp *dp, struct dp_flow *flow);
void dp_primary_settle(struct prl_dp *dp, struct dp_flow *flow);
struct dp_unfed *dp_shadow_lend(struct prl_dp *dp, struct dp_flow *flow);
void dp_shadow_settle(struct prl_dp *dp, struct dp_flow *flow);

#endif /* PRL_FLOW_LEND_H */
