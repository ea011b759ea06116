/* SPDX-License-Identifier: BSD-2-Clause */
/* A shadow becomes the session; and what has to happen to a new shadow for it to be like the session. */
#ifndef PRL_PATH_TAKEOVER_H
#define PRL_PATH_TAKEOVER_H

#include "flow/flow.h"
#include "flow/spec.h"

void dp_shadow_takeover(struct prl_dp *dp, struct dp_flow *flow);
/* Lets happen to a new shadow what had happened to the session (enum prl_replay). 0 or -EAGAIN. */
int dp_shadow_replay(struct prl_dp *dp, struct dp_flow *flow, const struct prl_flow_spec *spec);

#endif /* PRL_PATH_TAKEOVER_H */
