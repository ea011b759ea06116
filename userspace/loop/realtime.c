/* SPDX-License-Identifier: BSD-2-Clause */
#define _GNU_SOURCE /* SCHED_RESET_ON_FORK */
#include "loop/realtime.h"

#include <sched.h>

#include "flow/dp.h"

void dp_realtime_begin(struct dp_realtime *realtime)
{
    struct sched_param own = {0};
    int policy = sched_getscheduler(0);

    *realtime = (struct dp_realtime){.policy = policy};
    if (policy >= 0 && !sched_getparam(0, &own))
        realtime->priority = own.sched_priority;
}

/* A refusal leaves the thread as it is: it is asked for again with the next window that is spent. */
static void choose(const struct dp_realtime *realtime)
{
    bool is_spent = realtime->share.spent;
    const struct sched_param own = {.sched_priority = is_spent ? 0 : realtime->priority};

    (void)sched_setscheduler(0, is_spent ? SCHED_OTHER | SCHED_RESET_ON_FORK : realtime->policy, &own);
}

void dp_realtime_pass(struct prl_dp *dp, struct dp_realtime *realtime)
{
    bool was_spent = realtime->share.spent;

    if (realtime->priority == 0)
        return;
    dp->counters.realtime_spent += prl_share_take(&realtime->share, dp->now_ns, dp_clock_ns(dp));
    if (realtime->share.spent != was_spent)
        choose(realtime);
}
