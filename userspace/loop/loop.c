/* SPDX-License-Identifier: BSD-2-Clause */
#include "loop/loop.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/handle.h"
#include "flow/dp.h"
#include "io/error.h"
#include "loop/lock.h"
#include "loop/realtime.h"
#include "loop/wait.h"
#include "node/ownership.h"
#include "node/resync.h"
#include "node/setup.h"
#include "node/switchover.h"
#include "path/input.h"
#include "path/mirror.h"
#include "path/news.h"
#include "path/output.h"
#include "path/primary.h"
#include "path/relay.h"
#include "path/secondary.h"
#include "path/shadow.h"
#include "path/takeover.h"
#include "path/timers.h"
#include "path/verify.h"

#define NS_PER_MS 1000000ull
/* After so many looks that found a single held segment, the next ones expect no second. */
#define DP_SINGLES 16

struct dp_loop {
    uint32_t ports;
    struct prl_received received[DP_BATCH];
    uint32_t output_singles; /* looks at the hold TAP, one after the other, that found one segment and no more */
    bool output_again; /* there may be more than the last look took */
    struct dp_wait wait;
};

/* ---- one pass ---- */

/* A frame's bytes and its flow: another CPU wrote the one, many flows have driven the other out of the caches. */
static void prefetch(const struct prl_dp *dp, const struct prl_received *received)
{
    prl_umem_prefetch(dp->umem, received->packet);
    if (received->meta.slot < dp->flows_top)
        dp_flow_prefetch(&dp->flows[received->meta.slot]);
}

static bool receive_frames(struct prl_dp *dp)
{
    struct dp_loop *loop = dp->loop;
    bool worked = false;

    for (uint32_t i = 0; i < loop->ports; i++) {
        uint32_t count = dp->io->receive(dp->host, i, loop->received, DP_BATCH);

        for (uint32_t j = 0; j < count; j++) {
            if (j + 1 < count)
                prefetch(dp, &loop->received[j + 1]);
            dp_input(dp, &loop->received[j]);
        }
        worked |= count > 0;
    }
    return worked;
}

/* Once segments have come one by one for a while, poll() tells of the next, rather than a read that finds nothing. */
static bool receive_output(struct prl_dp *dp)
{
    struct dp_loop *loop = dp->loop;
    uint32_t count = 0, most = loop->output_singles < DP_SINGLES ? DP_BATCH : 1;

    while (count < most && dp_output(dp))
        count++;
    if (count > 1 || loop->output_again)
        loop->output_singles = 0;
    else if (loop->output_singles < DP_SINGLES)
        loop->output_singles++;
    loop->output_again = count == most;
    return count > 0;
}

/* The round trip of an echo, without the other side's wait until its next LEASE. */
static void note_lease(struct prl_dp *dp, const struct prl_msg *msg)
{
    uint64_t wait_ns = prl_wire_echo_wait_ns(msg);

    dp->lease_came_ns = dp->now_ns;
    if (!msg->echo_ns || msg->echo_ns > dp->now_ns || wait_ns > dp->now_ns - msg->echo_ns)
        return;
    dp->rtt_ns = dp->now_ns - msg->echo_ns - wait_ns;
    PRL_PROBE1(lease, dp->rtt_ns);
    if (!dp->rtt_min_ns || dp->rtt_ns < dp->rtt_min_ns)
        dp->rtt_min_ns = dp->rtt_ns;
}

/* A message of the other node's. Data goes straight on; what needs Python becomes an event. */
static void take_message(struct prl_dp *dp, const struct prl_msg *msg)
{
    if (!dp->link_up) {
        if (msg->type == PRL_MSG_HELLO && !dp->hello_seen) {
            dp->hello_seen = true;
            dp->link.version =
                prl_wire_common_version(msg->version_min, msg->version_max); /* 0: refused by Python */
            dp_message_event(dp, msg, 0);
        } else {
            dp_link_lost(dp, "the other node spoke before its HELLO was answered");
        }
        return;
    }
    dp_owner_message(dp, msg);
    switch (msg->type) {
    case PRL_MSG_REPLICATE:
    case PRL_MSG_MIRRORED:
    case PRL_MSG_OUTPUT:
    case PRL_MSG_VOID:
    case PRL_MSG_COMPARE:
        dp_secondary_message(dp, msg);
        break;
    case PRL_MSG_CLOSE:
        if (!dp_flow_by_handle(dp, msg->handle)) /* it may be of a shadow that is only prepared */
            dp_message_event(dp, msg, 0);
        dp_secondary_message(dp, msg);
        break;
    case PRL_MSG_ACK:
    case PRL_MSG_OUTPUT_ACK:
    case PRL_MSG_FLOWCTL:
    case PRL_MSG_VOID_ACK:
    case PRL_MSG_ERROR:
        dp_primary_message(dp, msg);
        break;
    case PRL_MSG_LEASE:
        note_lease(dp, msg);
        break;
    case PRL_MSG_RENOUNCE:
        break; /* dp_owner_message() acted */
    case PRL_MSG_SWITCHOVER:
        dp_switchover_message(dp, msg);
        break;
    case PRL_MSG_RELAY:
        dp_relay_message(dp, msg);
        break;
    case PRL_MSG_RESYNC:
        dp_resync_message(dp, msg);
        break;
    case PRL_MSG_SETUP_DONE: {
        struct dp_flow *flow = dp_flow_by_handle(dp, msg->handle);

        PRL_PROBE3(setup, "SETUP_DONE received", msg->handle, msg->generation);
        if (flow && flow->secondary) /* the primary is active too */
            dp_secondary_message(dp, msg);
        else if (flow)
            dp_setup_done(dp, flow, msg);
        break;
    }
    case PRL_MSG_SETUP:
        PRL_PROBE3(setup, "SETUP received", msg->handle, msg->generation);
        /* A shadow under a handle of ours would take its primary's place. */
        if (!prl_handle_is_of(!dp->config.node_index, msg->handle) || !msg->generation) {
            dp->link.refused++;
            dp_link_lost(dp, "the other node's SETUP names a handle or a generation that it cannot have");
        } else if (msg->data_type == PRL_TLV_MOMENT && msg->bits & PRL_SETUP_QUEUES)
            dp_setup_queues(dp, msg);
        else if (msg->data_type == PRL_TLV_MOMENT)
            dp_setup_moment(dp, msg);
        else
            dp_message_event(dp, msg, 0);
        break;
    default:
        dp_message_event(dp, msg, 0);
        break;
    }
}

static void flush(struct prl_dp *dp)
{
    int err;

    dp_shadow_flush_acks(dp);
    err = prl_link_flush(&dp->link);
    if (dp->link_overflow)
        dp_link_lost(dp, "its transmit queue was full: a message found no room");
    else if (err)
        dp_link_lost(dp, prl_link_words(err));
}

static bool receive_link(struct prl_dp *dp)
{
    uint32_t taken = 0;
    struct prl_msg msg;
    int got, one;

    if (dp->link.fd < 0)
        return false;
    got = dp->link_again ? 1 : prl_link_receive(&dp->link); /* what is here comes first */
    dp->link_again = false;
    while (dp->link.fd >= 0 && (!dp->hello_seen || dp->link_up) && !dp->link_again &&
           (one = prl_link_next(&dp->link, &msg)) != 0) {
        if (one < 0) {
            dp_link_lost(dp, one == -ENOTSUP ? "the other node sent a message that this version must not skip"
                                             : "the other node sent a malformed message");
            break;
        }
        take_message(dp, &msg);
        dp->link_again = ++taken == DP_BATCH && prl_link_unread(&dp->link);
    }
    dp_verify_look(dp); /* of what is not here, but by the cable in the stack, it is told once that has it */
    flush(dp); /* else the other side need not wait for our stack: what it is told of is here (R8) */
    dp_verify_flush(dp);
    if (got < 0)
        dp_link_lost(dp, prl_link_words(got));
    return got > 0;
}

/* `ready`: enum prl_io_ready; the rings of AF_XDP are looked at in any case, that costs no system call. */
static bool pass(struct prl_dp *dp, uint32_t ready)
{
    bool worked;

    dp->now_ns = dp_clock_ns(dp);
    dp_owner_woke(dp);
    dp->node->heartbeat_ns = dp->now_ns;
    dp->counters.wakeups++;
    worked = dp_news_take(dp);
    worked |= receive_frames(dp);
    if (ready & PRL_READY_HOLD)
        worked |= receive_output(dp);
    else
        dp->loop->output_again = false;
    if (prl_link_flush(&dp->link) ==
        0) /* what was captured leaves before the other side's messages are worked on */
        dp_held_drop_copies(dp);
    if (ready & PRL_READY_LINK || prl_link_unread(&dp->link)) /* what came with HELLO waits until the link is up */
        worked |= receive_link(dp);
    dp_verify_look(dp);
    dp_switchover_pass(dp);
    worked |= dp_resync_pass(dp);
    flush(dp);
    dp->io->refill(dp->host);
    if (ready & PRL_READY_UDP)
        dp_owner_datagrams(dp);
    if (dp->now_ns >= dp_owner_next_ns(dp))
        dp_owner_tick(dp);
    if (dp->now_ns >= dp_mirror_next_ns(dp))
        dp_secondary_advance_all(dp);
    if (dp->now_ns >= dp->tick_ns)
        dp_flows_tick(dp);
    flush(dp);
    worked |= dp_takeover_pass(dp); /* heartbeats first */
    return worked;
}

/* ---- waiting ---- */

/* Never 0, which a timer would take for "never". */
static uint64_t next_deadline_ns(const struct prl_dp *dp)
{
    uint64_t owner_ns = dp_owner_next_ns(dp), next_ns = owner_ns < dp->tick_ns ? owner_ns : dp->tick_ns;
    uint64_t soon_ns = dp->now_ns + NS_PER_MS, advance_ns = dp_mirror_next_ns(dp);

    next_ns = advance_ns < next_ns ? advance_ns : next_ns;
    if (dp->link_again || dp_resync_goes_on(dp) || dp_takeover_goes_on(dp))
        return dp->now_ns;
    if ((dp->dirty != DP_LIST_END || dp_verify_waits(dp) || dp_mirror_is_deaf(dp)) &&
        soon_ns < next_ns) /* a shadow has not sent, or got, all yet */
        return soon_ns;
    return next_ns ? next_ns : 1;
}

int dp_turn(struct prl_dp *dp, uint32_t ready)
{
    bool polling;
    int err;

    dp_lock(dp);
    polling = dp_polls_on(dp, &dp->loop->wait, pass(dp, ready));
    err = dp_wait_prepare(dp, &dp->loop->wait, next_deadline_ns(dp));
    dp_unlock(dp);
    return err ? err : polling;
}

int dp_run(struct prl_dp *dp)
{
    int ready = PRL_READY_ALL;
    struct dp_realtime realtime;

    dp_realtime_begin(dp, &realtime);
    while (ready >= 0 && !atomic_load(&dp->stop)) {
        int polling = dp_turn(dp, (uint32_t)ready);

        if (polling < 0) {
            ready = polling;
            break;
        }
        dp_realtime_pass(&realtime, dp->loop->wait.until_ns);
        if (polling)
            dp_give_way(dp, &dp->loop->wait);
        else if (atomic_load(&dp->waiting))
            sched_yield();
        ready = dp->io->wait(dp->host, !polling);
    }
    dp_realtime_end(&realtime);
    return ready < 0 ? ready : 0;
}

/* ---- birth and death ---- */

/* One port for each queue of each interface. */
static int count_ports(struct prl_dp *dp, char *error)
{
    uint32_t queues = 0;

    for (uint32_t i = 0; i < dp->config.lifs; i++)
        queues += dp->config.lif[i].queues;
    if (queues == 0 || queues > PRL_LIFS_MAX * PRL_QUEUES_MAX) {
        snprintf(error, PRL_ERROR_BYTES, "%u receive queues: 1 to %d are possible", queues,
                 PRL_LIFS_MAX * PRL_QUEUES_MAX);
        return -EINVAL;
    }
    dp->loop->ports = queues;
    return 0;
}

int dp_loop_open(struct prl_dp *dp, char *error)
{
    dp->loop = calloc(1, sizeof(*dp->loop));
    if (!dp->loop) {
        snprintf(error, PRL_ERROR_BYTES, "no memory for the datapath");
        return -ENOMEM;
    }
    return count_ports(dp, error);
}

void dp_loop_close(struct prl_dp *dp)
{
    free(dp->loop);
}

void dp_loop_new_link(struct prl_dp *dp)
{
    dp->loop->wait.link_events = 0;
}
