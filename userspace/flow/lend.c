/* SPDX-License-Identifier: BSD-2-Clause */
#include "flow/lend.h"

#include <assert.h>
#include <errno.h>

#include "flow/dp.h"

union dp_busy {
    struct prl_queues queues;
    struct dp_unfed unfed;
};

int dp_lend_open(struct prl_dp *dp)
{
    return prl_slab_init(&dp->busy, sizeof(union dp_busy), PRL_DP_HOLDS);
}

void dp_lend_close(struct prl_dp *dp)
{
    prl_slab_destroy(&dp->busy);
}

/* There are as many as entries for packets, and whoever asks has such an entry in hands that is in no other flow. */
static union dp_busy *lend(struct prl_dp *dp)
{
    union dp_busy *busy = prl_slab_get(&dp->busy);

    assert(busy);
    return busy;
}

void dp_primary_lend(struct prl_dp *dp, struct dp_flow *flow)
{
    if (!dp_primary_of(flow)->queues)
        dp_primary_of(flow)->queues = &lend(dp)->queues;
}

void dp_primary_settle(struct prl_dp *dp, struct dp_flow *flow)
{
    if (!dp_primary_of(flow)->queues || !prl_primary_is_quiet(dp_primary_of(flow)))
        return;
    prl_slab_put(&dp->busy, dp_primary_of(flow)->queues);
    dp_primary_of(flow)->queues = NULL;
}

struct dp_unfed *dp_shadow_lend(struct prl_dp *dp, struct dp_flow *flow)
{
    if (!dp_shadow_of(flow)->unfed)
        dp_shadow_of(flow)->unfed = &lend(dp)->unfed;
    return dp_shadow_of(flow)->unfed;
}

void dp_shadow_settle(struct prl_dp *dp, struct dp_flow *flow)
{
    struct dp_unfed *unfed = dp_shadow_of(flow)->unfed;

    if (!unfed || unfed->kept.head || unfed->waiting.head || unfed->unjoined.head)
        return;
    prl_slab_put(&dp->busy, unfed);
    dp_shadow_of(flow)->unfed = NULL;
}
