/* SPDX-License-Identifier: BSD-2-Clause */
/* Sessions are set up, on either node, in steps that stand alone; setup.h has those that follow each other in one. */
#ifndef PRL_NODE_ENTER_H
#define PRL_NODE_ENTER_H

#include <stdint.h>

#include "flow/flow.h"
#include "flow/spec.h"

/* What api/datapath.h says of prl_dp_primary_prepare(), prl_dp_primary_setup(), prl_dp_flow_adopt(), prl_dp_secondary_open(). */
int dp_primary_prepare(struct prl_dp *dp, struct prl_flow_spec *spec);
int dp_primary_setup(struct prl_dp *dp, struct prl_flow_spec *spec);
int dp_flow_adopt(struct prl_dp *dp, uint32_t handle, uint32_t *own);
int dp_secondary_enter(struct prl_dp *dp, const struct prl_flow_spec *spec, uint32_t *space);
/* The shadow is ready. */
void dp_primary_activate(struct prl_dp *dp, struct dp_flow *flow, uint32_t committed, uint32_t peer_edge);

#endif /* PRL_NODE_ENTER_H */
