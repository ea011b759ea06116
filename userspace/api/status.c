/* SPDX-License-Identifier: BSD-2-Clause */
#include <string.h>

#include "api/datapath.h"
#include "flow/dp.h"
#include "loop/lock.h"
#include "node/announce.h"
#include "node/ownership.h"
#include "node/resync.h"
#include "node/probe.h"
#include "path/reinject.h"

int prl_dp_event_fd(struct prl_dp *dp)
{
    return dp->events.fd;
}

int prl_dp_event(struct prl_dp *dp, struct prl_event *event, uint8_t *body, size_t capacity)
{
    struct dp_event *entry;

    dp_lock(dp);
    entry = dp_events_take(&dp->events);
    dp_unlock(dp);
    if (entry)
        dp_event_give(entry, event, body, capacity);
    return entry != NULL;
}

static void status_flow(const struct prl_dp *dp, const struct dp_flow *flow, struct prl_dp_status *status)
{
    const struct prl_primary *primary;
    const struct prl_queues *queues;
    const struct prl_hold *oldest[2];

    if (flow->secondary) {
        status->flows_secondary++;
        status->flows_active += dp_secondary_of(flow)->state == PRL_SECONDARY_ACTIVE;
        return;
    }
    primary = dp_primary_of(flow);
    queues = primary->queues;
    status->flows_primary++;
    status->flows_active += primary->state == PRL_PRIMARY_ACTIVE;
    if (!queues)
        return;
    status->behind_packets += queues->in_held.count + queues->out_held.count;
    status->behind_bytes += queues->in_held.bytes + queues->out_held.bytes;
    oldest[0] = queues->in_held.head;
    oldest[1] = queues->out_held.head;
    for (int i = 0; i < 2; i++)
        if (oldest[i] && dp->now_ns - oldest[i]->arrived_ns > status->oldest_unanswered_ns)
            status->oldest_unanswered_ns = dp->now_ns - oldest[i]->arrived_ns;
}

/* Gives the lock up in between: what waits for it must not wait for very many flows. */
static void status_flows(struct prl_dp *dp, struct prl_dp_status *status)
{
    dp->now_ns = dp_clock_ns(dp);
    for (uint32_t i = 0; i < dp->flows_top; i++) {
        if (i && i % DP_LOOK_FLOWS == 0) {
            dp_unlock(dp);
            dp_lock(dp);
            dp->now_ns = dp_clock_ns(dp);
        }
        if (dp->flows[i].used)
            status_flow(dp, &dp->flows[i], status);
    }
}

void prl_dp_status(struct prl_dp *dp, struct prl_dp_status *status)
{
    uint64_t failed;
    struct prl_io_counts counts;

    memset(status, 0, sizeof(*status));
    dp_lock(dp);
    status_flows(dp, status);
    dp->now_ns = dp_clock_ns(dp);
    dp_owner_notice_fencing(dp); /* HELLO tells what the status says */
    status->now_ns = dp->now_ns;
    status->epoch = dp->epoch;
    status->rtt_ns = dp->rtt_ns;
    status->rtt_min_ns = dp->rtt_min_ns;
    status->resync_ns = dp_resync_took_ns(dp);
    status->takeover_until_ns = prl_owner_takeover_until_ns(&dp->owner);
    status->open_at_ns = prl_owner_open_at_ns(&dp->owner);
    status->last_heard_ns = dp->owner.last_heard_ns;
    status->last_lan_ns = dp->owner.last_lan_ns;
    memcpy(status->answered_ns, dp->owner.probes.answered_ns, sizeof(status->answered_ns));
    status->pass_ns = prl_owner_pass_age_ns(&dp->owner, dp->now_ns);
    status->other_owned = dp_probe_said(dp)->owned;
    status->other_fenced = dp_probe_said(dp)->fenced;
    status->other_silent = dp_probe_said(dp)->silent;
    memcpy(status->other_term, dp_probe_said(dp)->term, sizeof(status->other_term));
    status->link_attached = dp->link.fd >= 0;
    status->link_up = dp->link_up;
    status->link_state = dp->owner.link;
    status->silence = dp->owner.silence;
    status->unheard = dp->owner.unheard;
    status->silent_mask = dp->owner.silent_mask;
    status->expired = dp->owner.expired && !dp->owner.shadows_void;
    status->policy_stop = dp->owner.config.policy_stop;
    status->arbiter = dp->owner.arbiter.state;
    status->arbiter_round = dp->owner.arbiter.round;
    status->neighbours = dp_neighbours_count(dp);
    for (uint32_t i = 0; i < PRL_SERVICES_MAX; i++)
        status->services[i] = dp->owner.state[i];
    status->frames_free = prl_umem_free_frames(dp->umem);
    status->holds_used = dp->held.pool.used;
    status->counters = dp->counters;
    memcpy(status->received, dp->link.rx_messages, sizeof(status->received));
    memcpy(status->received_bytes, dp->link.rx_bytes_of, sizeof(status->received_bytes));
    memcpy(status->sent_bytes, dp->link.tx_bytes_of, sizeof(status->sent_bytes));
    memcpy(status->sent, dp->link.tx_messages, sizeof(status->sent));
    status->counters.link_rx_bytes = dp->link.rx_total;
    status->counters.link_tx_bytes = dp->link.tx_total;
    status->counters.link_writes = dp->link.writes;
    status->counters.link_refused = dp->link.refused;
    status->counters.link_records_sent = dp->link.tls.sent;
    status->counters.link_records_received = dp->link.tls.received;
    status->counters.link_key_updates = dp->link.tls.key_updates;
    status->counters.link_forged = dp->link.tls.forged;
    status->counters.link_truncated = dp->link.tls.truncated;
    dp_reinject_count(dp, &failed, &status->counters.reinject_writes);
    status->counters.reinject_failed += failed;
    dp->io->count(dp->host, &counts);
    status->counters.rx_no_frame += counts.not_received;
    status->counters.verdicts_refused = counts.verdicts_refused;
    dp_unlock(dp);
}

uint64_t prl_dp_last_lan_ns(struct prl_dp *dp)
{
    uint64_t last_lan_ns;

    dp_lock(dp);
    last_lan_ns = dp->owner.last_lan_ns;
    dp_unlock(dp);
    return last_lan_ns;
}

void prl_dp_figures(struct prl_dp *dp, struct prl_dp_figures *figures)
{
    dp_lock(dp);
    *figures = (struct prl_dp_figures){
        .held_in = dp->held.in,
        .held_out = dp->held.out,
        .takeovers = dp->owner.takeovers,
        .suspects = dp->owner.suspects,
        .false_suspects = dp->owner.false_suspects,
        .silences = dp->owner.silences,
        .late_ticks = dp->owner.late_ticks,
        .hand_overs = dp->owner.hand_overs,
        .arbiter_asks = dp->owner.arbiter.asks,
        .arbiter_unreached = dp->owner.arbiter.unreached,
    };
    dp_unlock(dp);
}
