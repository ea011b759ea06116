/* SPDX-License-Identifier: BSD-2-Clause */
#include "loop/wait.h"

#include <sched.h>

#include "flow/dp.h"
#include "flow/send.h"
#include "path/mirror.h"

/* Polling gives the CPU away after every look. Absences that are longer than the first of these count; beyond an eighth of
 * the time, and the sum, the CPU is wanted by others, and polling only waits for it. Then prld sleeps until there is work,
 * which wakes it at once, and tries again to poll after a while. */
#define DP_CROWDED_NS 100000ull
#define DP_CROWDED_SHARE 8
#define DP_CROWDED_SUM_NS 2000000ull
#define DP_CROWDED_RETRY_NS 100000000ull

/* The link is read once both sides agree; held output while there is memory and room for it. */
static int choose_sources(struct prl_dp *dp, struct dp_wait *wait)
{
    bool link_reads = !dp->hello_seen || dp->link_up;
    uint32_t link_events =
        (link_reads ? PRL_WATCH_READ : 0u) | (prl_link_pending(&dp->link) ? PRL_WATCH_WRITE : 0u);
    uint32_t output_events = dp->held.buffers_free && dp_has_bulk_room(dp, PRL_PACKET_MAX) ? PRL_WATCH_READ : 0u;
    uint32_t headers_events = dp_mirror_listens(dp) ? PRL_WATCH_READ : 0u;
    int err = 0;

    if (dp->link.fd >= 0 && link_events != wait->link_events) {
        wait->link_events = link_events;
        err = dp->io->watch(dp->host, PRL_SOURCE_LINK, link_events);
    }
    if (!err && output_events != wait->output_events) {
        wait->output_events = output_events;
        err = dp->io->watch(dp->host, PRL_SOURCE_HOLD, output_events);
    }
    if (!err && headers_events != wait->headers_events) {
        wait->headers_events = headers_events;
        err = dp->io->watch(dp->host, PRL_SOURCE_HEADERS, headers_events);
    }
    return err;
}

int dp_wait_prepare(struct prl_dp *dp, struct dp_wait *wait, uint64_t next_ns)
{
    int err = dp->io->set_timer(dp->host, next_ns);

    wait->until_ns = next_ns;
    return err ? err : choose_sources(dp, wait);
}

/* ---- polling ---- */

bool dp_polls_on(struct prl_dp *dp, struct dp_wait *wait, bool worked)
{
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

void dp_give_way(const struct prl_dp *dp, struct dp_wait *wait)
{
    uint64_t before_ns = dp_clock_ns(dp), back_ns, paid_ns = (before_ns - wait->back_ns) / DP_CROWDED_SHARE;

    sched_yield();
    back_ns = dp_clock_ns(dp);
    wait->back_ns = back_ns;
    wait->away_ns -= wait->away_ns < paid_ns ? wait->away_ns : paid_ns;
    if (back_ns - before_ns > DP_CROWDED_NS)
        wait->away_ns += back_ns - before_ns;
}
