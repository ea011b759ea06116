/* SPDX-License-Identifier: BSD-2-Clause */
#include "path/timers.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>

#include "flow/dp.h"
#include "flow/udp.h"
#include "flow/wake.h"
#include "path/apply.h"
#include "path/birth.h"
#include "path/compare.h"
#include "path/mirror.h"
#include "path/primary.h"
#include "path/relay.h"
#include "path/shadow.h"
#include "path/stray.h"
#include "path/verify.h"
#include "path/window.h"
#include "tcp/serial.h"

/* TCP tells when a socket has gone (path/news.h). One of which it does not, older than prld for example, is found within this
 * time. Of more flows than DP_SCAN_FLOWS only a share is looked at each time, an eighth at the least, for asking that many sockets
 * takes CPU: one of 1,000 is found within 0.8 s, one of 10,000 within 1.6 s. */
#define DP_ENDED_SCAN_NS 200000000ull
#define DP_SCAN_FLOWS 256u
#define DP_SCAN_SHARES 8u
/* Slots of one step of that look, one step a tick, so that no tick takes long: 100,000 flows in 16 s. */
#define DP_SCAN_SLOTS 256
/* A shadow with unread bytes is looked at so often: nothing tells of a read that does not open the window. */
#define DP_UNREAD_SAMPLE_NS 20000000ull
/* Held output that went missing on its way here is held again after this time. */
#define DP_HOLD_REPAIR_MS 50u

struct dp_timers {
    uint64_t next_scan_ns;
    uint32_t scan_next; /* slot at which the look at all flows goes on */
    uint32_t scans;     /* such looks up to now: which share of the flows is looked at */
    struct dp_strays strays;
};

int dp_timers_open(struct prl_dp *dp)
{
    dp->timers = calloc(1, sizeof(*dp->timers));
    return dp->timers ? 0 : -ENOMEM;
}

void dp_timers_close(struct prl_dp *dp)
{
    free(dp->timers);
}

/* A held segment can be lost between tc and us (the TAP's queue is full): its retransmission would be taken for a
 * duplicate for ever. When the kernel says "held" and nothing is here, it may hold from the committed end again. */
static bool hold_is_missing(const struct dp_flow *flow)
{
    const struct prl_flow *kernel = flow->kernel;
    const struct prl_primary *primary = dp_primary_of(flow);
    const struct prl_queues *queues = primary->queues;

    return primary->state == PRL_PRIMARY_ACTIVE && kernel->out_valid == flow->spec.generation + 1 &&
           !(queues && (queues->out_held.head || queues->out_pending.head)) &&
           prl_serial_lt(kernel->out_committed, kernel->out_held);
}

static void repair_hold(struct prl_dp *dp, struct dp_flow *flow)
{
    struct prl_flow *kernel = flow->kernel;
    uint32_t now_ms = (uint32_t)(dp->now_ns / 1000000) | 1;

    if (!hold_is_missing(flow)) {
        flow->hold_missing_since_ms = 0;
    } else if (flow->hold_missing_since_ms == 0) {
        flow->hold_missing_since_ms = now_ms;
    } else if (now_ms - flow->hold_missing_since_ms > DP_HOLD_REPAIR_MS) {
        kernel->out_held = kernel->out_committed;
        flow->hold_missing_since_ms = 0;
    }
}

static bool session_ended(const struct dp_flow *flow)
{
    uint32_t state = flow->kernel->sock.state;

    return flow->kernel->key.proto == IPPROTO_TCP && flow->kernel->sock.stamp_ns &&
           (state == 0 || state == TCP_CLOSE || state == TCP_TIME_WAIT);
}

/* A flow whose sockets may differ fails, its shadow is void. */
static void check_datagrams(struct prl_dp *dp, struct dp_flow *flow)
{
    bool active = flow->secondary ? dp_secondary_of(flow)->state == PRL_SECONDARY_ACTIVE
                                  : dp_primary_of(flow)->state == PRL_PRIMARY_ACTIVE;

    if (!active || !dp_udp_diverged(dp, flow))
        return;
    if (flow->secondary)
        dp_shadow_give_up(dp, flow, PRL_REASON_DIVERGED);
    else
        dp_primary_fail(dp, flow, PRL_REASON_DIVERGED);
}

/* One step of the look at all flows, or at a share of many, the quiet ones as well: has the socket gone, did the datagram
 * queue overflow, was a held segment lost before we heard of it? */
static void scan(struct prl_dp *dp)
{
    struct dp_timers *timers = dp->timers;
    uint32_t slots[DP_SCAN_SLOTS], count = 0;
    uint32_t first = timers->scan_next, end = first + DP_SCAN_SLOTS;
    uint32_t shares = 1 + dp->flows_top / DP_SCAN_FLOWS;

    if (first == 0 && dp->now_ns < timers->next_scan_ns)
        return;
    if (first == 0)
        timers->next_scan_ns = dp->now_ns + DP_ENDED_SCAN_NS;
    if (end > dp->flows_top)
        end = dp->flows_top;
    if (shares > DP_SCAN_SHARES)
        shares = DP_SCAN_SHARES;
    first += timers->scans % shares;
    for (uint32_t i = first; i < end; i += shares)
        if (dp->flows[i].used && dp->flows[i].kernel->key.proto == IPPROTO_TCP)
            slots[count++] = i;
    for (uint32_t done = 0; done < count; done += PRL_SAMPLE_MAX)
        dp->io->sample(dp->host, slots + done, count - done < PRL_SAMPLE_MAX ? count - done : PRL_SAMPLE_MAX);
    for (uint32_t i = first; i < end; i += shares) {
        struct dp_flow *flow = &dp->flows[i];

        if (!flow->used)
            continue;
        if (session_ended(flow) && !flow->ended) {
            flow->ended = DP_ENDED_NOTED;
            dp_flow_wake(dp, flow);
        }
        if (flow->kernel->key.proto == IPPROTO_UDP)
            check_datagrams(dp, flow);
        if (flow->secondary) {
            dp_shadow_check(dp, flow);
            dp_shadow_space(dp, flow);
        } else if (hold_is_missing(flow))
            dp_flow_wake(dp, flow);
    }
    timers->scan_next = end < dp->flows_top ? end : 0;
    if (timers->scan_next == 0)
        timers->scans++;
}

static bool primary_wants_time(const struct dp_flow *flow)
{
    const struct prl_primary *primary = dp_primary_of(flow);

    return dp_compare_is_due(flow) || dp_relay_is_on(flow) || dp_birth_wants_time(flow) ||
           prl_primary_deadline(primary) != UINT64_MAX || hold_is_missing(flow) ||
           (primary->queues && (primary->queues->in_pending.head || primary->queues->out_pending.head));
}

static void tell_end(struct prl_dp *dp, struct dp_flow *flow)
{
    bool is_void = flow->secondary && dp_secondary_of(flow)->state == PRL_SECONDARY_VOID;

    if (flow->ended == DP_ENDED_NOTED) { /* a pass later, what it said in its end is no longer in the hold TAP */
        flow->ended = DP_ENDED_LOOKED;
    } else if (flow->ended && (flow->secondary || prl_primary_is_quiet(dp_primary_of(flow)))) {
        flow->ended = DP_ENDED_NOT;
        if (!is_void)
            dp_event_flow(dp, PRL_EVENT_ENDED, flow, 0, PRL_REASON_ENDED);
    }
}

/* Whether time alone may bring the flow something; if not, it sleeps until something happens to it. */
static bool wants_time(struct prl_dp *dp, struct dp_flow *flow)
{
    if (flow->ended)
        return true;
    if (!flow->secondary)
        return primary_wants_time(flow);
    if (dp_verify_is_due(flow) || dp_relay_is_on(flow) || dp_mirror_waiting(flow))
        return true;
    if (dp_secondary_of(flow)->state != PRL_SECONDARY_ACTIVE || flow->kernel->key.proto != IPPROTO_TCP)
        return false;
    if (flow->kernel->sock.rmem_bytes && dp->now_ns - flow->kernel->sock.stamp_ns >= DP_UNREAD_SAMPLE_NS)
        dp_flow_sample(dp, flow);
    return flow->kernel->sock.rmem_bytes != 0;
}

static void tick(struct prl_dp *dp, struct dp_flow *flow)
{
    struct prl_actions actions = {0};

    if (flow->secondary) {
        dp_verify_tick(dp, flow);
        dp_shadow_space(dp, flow);
        dp_relay_settle(dp, flow);
        return;
    }
    dp_relay_settle(dp, flow);
    dp_compare_tick(dp, flow);
    dp_birth_tick(dp, flow);
    if (prl_primary_deadline(dp_primary_of(flow)) <= dp->now_ns) {
        prl_primary_tick(dp_primary_of(flow), dp->link_up, dp->now_ns, &actions);
        dp_apply(dp, flow, &actions);
    }
    if (flow->key_changed) {
        dp_primary_fail(dp, flow, PRL_REASON_DIVERGED);
        flow->key_changed = false;
    }
    repair_hold(dp, flow);
    if (dp_primary_of(flow)->state == PRL_PRIMARY_ACTIVE)
        dp_window_look(dp, flow);
    if (prl_primary_wants_drain(dp_primary_of(flow), dp->now_ns))
        dp_primary_drain(dp, flow);
}

void dp_flows_tick(struct prl_dp *dp)
{
    struct dp_timers *timers = dp->timers;
    uint32_t slot = dp->awake;

    dp->awake = DP_LIST_END;
    while (slot != DP_LIST_END) {
        struct dp_flow *flow = &dp->flows[slot];

        slot = flow->next_awake;
        flow->awake = false;
        if (!flow->used)
            continue;
        tick(dp, flow);
        tell_end(dp, flow);
        if (wants_time(dp, flow))
            dp_flow_wake(dp, flow);
    }
    dp_compare_send_due(dp);
    bool more = dp_stray_look(dp, &timers->strays);
    scan(dp);
    dp_mirror_tick(dp);
    dp->tick_ns =
        more || dp->awake != DP_LIST_END || timers->scan_next ? dp->now_ns + DP_TICK_NS : timers->next_scan_ns;
}
