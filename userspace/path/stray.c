/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Flows whose packets go another way than prl's programs (enum prl_stray): input that nobody captures, which the socket's
 * gate refuses for ever, output that would have left unheld and was stolen. They are given up, so that the session goes on,
 * and says that it is not protected (I5). The programs count them; all flows are looked at only when that has risen.
 */
#include "flow/dp.h"

static void give_up(struct prl_dp *dp, struct dp_flow *flow)
{
    uint32_t stray = __atomic_load_n(&flow->kernel->stray, __ATOMIC_ACQUIRE) & (PRL_STRAY_IN | PRL_STRAY_OUT);
    struct prl_actions actions = {0};

    if (!stray || flow->secondary)
        return;
    __atomic_store_n(&flow->kernel->stray, 0, __ATOMIC_RELEASE);
    if (flow->primary.state != PRL_PRIMARY_SETUP && flow->primary.state != PRL_PRIMARY_ACTIVE)
        return;
    prl_primary_fail(&flow->primary, stray & PRL_STRAY_OUT ? PRL_REASON_STRAY_OUT : PRL_REASON_STRAY_IN,
                     dp->link_up, dp->now_ns, &actions);
    dp_apply(dp, flow, &actions);
}

bool dp_stray_look(struct prl_dp *dp)
{
    uint64_t strays = __atomic_load_n(&dp->node->strays, __ATOMIC_ACQUIRE);
    uint32_t end = dp->stray_next + DP_STRAY_SLOTS;

    if (dp->stray_next == 0) {
        if (strays == dp->strays_seen)
            return false;
        dp->strays_seen = strays;
    }
    if (end > dp->flows_top)
        end = dp->flows_top;
    for (uint32_t slot = dp->stray_next; slot < end; slot++)
        if (dp->flows[slot].used)
            give_up(dp, &dp->flows[slot]);
    dp->stray_next = end < dp->flows_top ? end : 0;
    return dp->stray_next != 0;
}
