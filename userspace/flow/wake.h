/* SPDX-License-Identifier: BSD-2-Clause */
/* Flows that something happened to: dp_flows_tick() looks at them until they are quiet again; all others cost nothing. */
#ifndef PRL_FLOW_WAKE_H
#define PRL_FLOW_WAKE_H

#include "flow/dp.h"

/* They are looked at so often. */
#define DP_TICK_NS 5000000ull

static inline void dp_flow_wake(struct prl_dp *dp, struct dp_flow *flow)
{
    if (flow->awake)
        return;
    flow->awake = true;
    flow->next_awake = dp->awake;
    dp->awake = flow->slot;
    if (dp->tick_ns > dp->now_ns + DP_TICK_NS)
        dp->tick_ns = dp->now_ns + DP_TICK_NS;
}

#endif /* PRL_FLOW_WAKE_H */
