/* SPDX-License-Identifier: BSD-2-Clause */
/* What the loop waits for, and when it polls instead. How a wait is done is the machine's affair (io.h). */
#include "flow/dp.h"

#include <sched.h>

/* The link is read once both sides agree; held output while there is memory and room for it. */
static int choose_sources(struct prl_dp *dp)
{
    struct dp_wait *wait = &dp->wait;
    bool link_reads = !dp->hello_seen || dp->link_up;
    uint32_t link_events =
        (link_reads ? PRL_WATCH_READ : 0u) | (prl_link_pending(&dp->link) ? PRL_WATCH_WRITE : 0u);
    uint32_t output_events = dp->buffers_free && prl_link_room(&dp->link, PRL_PACKET_MAX) ? PRL_WATCH_READ : 0u;
    int err = 0;

    if (dp->link.fd >= 0 && link_events != wait->link_events) {
        wait->link_events = link_events;
        err = dp->io->watch(dp->host, PRL_SOURCE_LINK, link_events);
    }
    if (!err && output_events != wait->output_events) {
        wait->output_events = output_events;
        err = dp->io->watch(dp->host, PRL_SOURCE_HOLD, output_events);
    }
    return err;
}

int dp_wait_prepare(struct prl_dp *dp, uint64_t next_ns)
{
    int err = dp->io->set_timer(dp->host, next_ns);

    return err ? err : choose_sources(dp);
}

/* ---- polling ---- */

bool dp_polls_on(struct prl_dp *dp, bool worked)
{
    struct dp_wait *wait = &dp->wait;

    if (wait->away_ns >= DP_CROWDED_SUM_NS) {
        wait->away_ns = 0;
        wait->crowded_until_ns = dp->now_ns + DP_CROWDED_RETRY_NS;
        dp->counters.polls_given_up++;
    }
    if (dp->config.poll_mode == PRL_POLL_ADAPTIVE && worked)
        wait->poll_until_ns = dp->now_ns + dp->config.poll_ns;
    return dp->now_ns >= wait->crowded_until_ns &&
           (dp->config.poll_mode == PRL_POLL_BUSY || dp->now_ns < wait->poll_until_ns);
}

void dp_give_way(struct prl_dp *dp)
{
    struct dp_wait *wait = &dp->wait;
    uint64_t before_ns = dp_clock_ns(dp), back_ns, paid_ns = (before_ns - wait->back_ns) / DP_CROWDED_SHARE;

    sched_yield();
    back_ns = dp_clock_ns(dp);
    wait->back_ns = back_ns;
    wait->away_ns -= wait->away_ns < paid_ns ? wait->away_ns : paid_ns;
    if (back_ns - before_ns > DP_CROWDED_NS)
        wait->away_ns += back_ns - before_ns;
}
