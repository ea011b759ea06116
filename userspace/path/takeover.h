/* SPDX-License-Identifier: BSD-2-Clause */
/* A shadow becomes the session; and what has to happen to a new shadow for it to be like the session. */
#ifndef PRL_PATH_TAKEOVER_H
#define PRL_PATH_TAKEOVER_H

#include <stdbool.h>
#include <stdint.h>

#include "flow/flow.h"
#include "flow/spec.h"

/*
 * A take-over (docs/failover.md, "A take-over of many sessions"): which sessions are this node's is decided at once, by what the
 * shadows are at that moment. To let one go on takes a few system calls, so that a pass does it for PRL_TAKEOVER_SHARE_NS.
 */
int dp_takeover_open(struct prl_dp *dp); /* 0 or -ENOMEM */
void dp_takeover_close(struct prl_dp *dp);
/* Every shadow of these services is TAKING from now on, or void. */
void dp_takeover_decide(struct prl_dp *dp, uint32_t mask);
/* The address is ours: from this pass on its sessions have their turns. */
void dp_takeover_begin(struct prl_dp *dp, uint32_t mask);
/* A service is ours again: turns may have been passed over meanwhile. */
void dp_takeover_again(struct prl_dp *dp);
bool dp_takeover_pass(struct prl_dp *dp); /* last in every pass, a share; true when it has worked */
bool dp_takeover_goes_on(const struct prl_dp *dp);
/* Something is here for the flow: if it waits for its turn, that is now. */
void dp_takeover_turn(struct prl_dp *dp, struct dp_flow *flow);
/* Lets happen to a new shadow what had happened to the session (enum prl_replay). 0 or -EAGAIN. */
int dp_shadow_replay(struct prl_dp *dp, struct dp_flow *flow, const struct prl_flow_spec *spec);

#endif /* PRL_PATH_TAKEOVER_H */
