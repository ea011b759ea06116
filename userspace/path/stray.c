/* SPDX-License-Identifier: BSD-2-Clause */
#include "path/stray.h"

#include "flow/dp.h"
#include "path/primary.h"

/* So many slots a step. */
#define DP_STRAY_SLOTS 8192

static void give_up(struct prl_dp *dp, struct dp_flow *flow)
{
    uint32_t stray = __atomic_load_n(&flow->kernel->stray, __ATOMIC_ACQUIRE) & (PRL_STRAY_IN | PRL_STRAY_OUT);
    uint32_t state;

    if (!stray || flow->secondary)
        return;
    __atomic_store_n(&flow->kernel->stray, 0, __ATOMIC_RELEASE);
    state = dp_primary_of(flow)->state;
    if (state == PRL_PRIMARY_SETUP || state == PRL_PRIMARY_ACTIVE)
        dp_primary_fail(dp, flow, stray & PRL_STRAY_OUT ? PRL_REASON_STRAY_OUT : PRL_REASON_STRAY_IN);
}

bool dp_stray_look(struct prl_dp *dp, struct dp_strays *strays)
{
    uint64_t counted = __atomic_load_n(&dp->node->strays, __ATOMIC_ACQUIRE);
    uint32_t end = strays->next + DP_STRAY_SLOTS;

    if (strays->next == 0) {
        if (counted == strays->seen)
            return false;
        strays->seen = counted;
    }
    if (end > dp->flows_top)
        end = dp->flows_top;
    for (uint32_t slot = strays->next; slot < end; slot++)
        if (dp->flows[slot].used)
            give_up(dp, &dp->flows[slot]);
    strays->next = end < dp->flows_top ? end : 0;
    return strays->next != 0;
}
