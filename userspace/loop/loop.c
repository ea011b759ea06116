/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The datapath's loop. One pass is one trip down the data path, in batches:
 *
 *     receive ─ AF_XDP frames, held output        → state machines → REPLICATE, OUTPUT into the link's buffer
 *     link    ─ REPLICATE → reinject, ACK owed    ─ ACK → reinject or release what was held
 *     ACKs owed, link flushed                     ─ one write for all of it
 *     time    ─ lease, deadlines, claims
 */
#include "flow/dp.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define NS_PER_MS 1000000ull

void dp_lock(struct prl_dp *dp)
{
    atomic_fetch_add(&dp->waiting, 1);
    pthread_mutex_lock(&dp->lock);
    atomic_fetch_sub(&dp->waiting, 1);
}

void dp_unlock(struct prl_dp *dp)
{
    dp_flush_input(dp);
    pthread_mutex_unlock(&dp->lock);
}

/* ---- one pass ---- */

/* A frame's bytes and its flow: another CPU wrote the one, many flows have driven the other out of the caches. */
static void prefetch(const struct prl_dp *dp, const struct prl_received *received)
{
    const struct dp_flow *flow;

    prl_umem_prefetch(dp->umem, received->packet);
    if (received->meta.slot >= dp->flows_top)
        return;
    flow = &dp->flows[received->meta.slot];
    __builtin_prefetch(flow);
    __builtin_prefetch(&flow->primary);
    __builtin_prefetch(&flow->primary.counters);
}

static bool receive_frames(struct prl_dp *dp)
{
    bool worked = false;

    for (uint32_t i = 0; i < dp->ports; i++) {
        uint32_t count = dp->io->receive(dp->host, i, dp->received, DP_BATCH);

        for (uint32_t j = 0; j < count; j++) {
            if (j + 1 < count)
                prefetch(dp, &dp->received[j + 1]);
            dp_input(dp, dp->port_lif[i], &dp->received[j]);
        }
        worked |= count > 0;
    }
    return worked;
}

/* Once segments have come one by one for a while, poll() tells of the next, rather than a read that finds nothing. */
static bool receive_output(struct prl_dp *dp)
{
    uint32_t count = 0, most = dp->output_singles < DP_SINGLES ? DP_BATCH : 1;

    while (count < most && dp_output(dp))
        count++;
    if (count > 1 || dp->output_again)
        dp->output_singles = 0;
    else if (dp->output_singles < DP_SINGLES)
        dp->output_singles++;
    dp->output_again = count == most;
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
    case PRL_MSG_RELAY:
        dp_switchover_message(dp, msg);
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
        } else if (msg->data_type == PRL_TLV_MOMENT)
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

    dp_secondary_flush_acks(dp);
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
    flush(dp); /* the other side need not wait for our stack: what it is told of is here (R8) */
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
    worked = receive_frames(dp);
    if (ready & PRL_READY_HOLD)
        worked |= receive_output(dp);
    else
        dp->output_again = false;
    prl_link_flush(&dp->link); /* what was captured leaves before the other side's messages are worked on */
    if (ready & PRL_READY_LINK || prl_link_unread(&dp->link)) /* what came with HELLO waits until the link is up */
        worked |= receive_link(dp);
    dp_switchover_pass(dp);
    flush(dp);
    dp->io->refill(dp->host);
    if (ready & PRL_READY_LAN)
        dp_owner_lan(dp);
    if (dp->now_ns >= dp_owner_next_ns(dp))
        dp_owner_tick(dp);
    if (dp->now_ns >= dp->tick_ns)
        dp_flows_tick(dp);
    flush(dp);
    return worked;
}

/* ---- waiting ---- */

/* Never 0, which a timer would take for "never". */
static uint64_t next_deadline_ns(const struct prl_dp *dp)
{
    uint64_t owner_ns = dp_owner_next_ns(dp), next_ns = owner_ns < dp->tick_ns ? owner_ns : dp->tick_ns;
    uint64_t soon_ns = dp->now_ns + NS_PER_MS;

    if (dp->link_again)
        return dp->now_ns;
    if (dp->dirty != DP_LIST_END && soon_ns < next_ns) /* a shadow has not sent all yet */
        return soon_ns;
    return next_ns ? next_ns : 1;
}

int dp_turn(struct prl_dp *dp, uint32_t ready)
{
    bool polling;
    int err;

    dp_lock(dp);
    polling = dp_polls_on(dp, pass(dp, ready));
    err = dp_wait_prepare(dp, next_deadline_ns(dp));
    dp_unlock(dp);
    return err ? err : polling;
}

int prl_dp_run(struct prl_dp *dp)
{
    int ready = PRL_READY_ALL;

    while (!atomic_load(&dp->stop)) {
        int polling = dp_turn(dp, (uint32_t)ready);

        if (polling < 0)
            return polling;
        if (polling)
            dp_give_way(dp);
        else if (atomic_load(&dp->waiting))
            sched_yield();
        ready = dp->io->wait(dp->host, !polling);
        if (ready < 0)
            return ready;
    }
    return 0;
}

void prl_dp_stop(struct prl_dp *dp)
{
    atomic_store(&dp->stop, true);
    dp->io->wake(dp->host);
}

/* ---- birth and death ---- */

/* One port for each queue, in the order of the interfaces. */
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
    for (uint32_t i = 0; i < dp->config.lifs; i++)
        for (uint32_t queue = 0; queue < dp->config.lif[i].queues; queue++)
            dp->port_lif[dp->ports++] = (uint16_t)i;
    return 0;
}

static int open_memory(struct prl_dp *dp, char *error)
{
    dp->umem = prl_umem_open(PRL_DP_FRAMES, PRL_DP_FRAME_BYTES, error);
    if (!dp->umem)
        return -ENOMEM;
    dp->buffers = malloc((size_t)PRL_DP_OUTPUT_BUFFERS * PRL_TAP_BUFFER_BYTES);
    if (!dp->buffers || prl_pool_init(&dp->holds, PRL_DP_HOLDS) ||
        prl_link_init(&dp->link, PRL_DP_LINK_TX_BYTES) || dp_flows_init(dp) || dp_setups_init(dp)) {
        snprintf(error, PRL_ERROR_BYTES, "no memory for %u flows", dp->config.flows_max);
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < PRL_DP_OUTPUT_BUFFERS; i++)
        dp->buffer_free[dp->buffers_free++] = i;
    return 0;
}

struct prl_dp *dp_open(const struct prl_dp_config *config, const struct prl_io *io, struct prl_host *host,
                       char *error)
{
    struct prl_dp *dp = calloc(1, sizeof(*dp));

    if (!dp) {
        snprintf(error, PRL_ERROR_BYTES, "no memory for the datapath");
        io->close(host);
        return NULL;
    }
    dp->config = *config;
    dp->io = io;
    dp->host = host;
    dp->node = io->node(host);
    prl_gro_init(&dp->gro, (struct prl_tap){.write = io->inject, .host = host});
    dp->link.fd = -1;
    pthread_mutex_init(&dp->lock, NULL);
    dp->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (dp->event_fd < 0) {
        snprintf(error, PRL_ERROR_BYTES, "eventfd: %s", strerror(errno));
        goto fail;
    }
    dp->node->heartbeat_ns = dp_clock_ns(dp);
    if (open_memory(dp, error) || dp_owner_open(dp, error) || count_ports(dp, error) ||
        io->start(host, dp->umem, error))
        goto fail;
    return dp;

fail:
    prl_dp_close(dp);
    return NULL;
}

void prl_dp_close(struct prl_dp *dp)
{
    if (!dp)
        return;
    prl_link_destroy(&dp->link);
    dp_flows_destroy(dp);
    dp_setups_destroy(dp);
    prl_pool_destroy(&dp->holds);
    free(dp->buffers);
    while (dp->events_head) {
        struct dp_event *entry = dp->events_head;

        dp->events_head = entry->next;
        free(entry);
    }
    dp->io->close(dp->host);
    prl_umem_close(dp->umem); /* the machine captures into it until then */
    if (dp->event_fd >= 0)
        close(dp->event_fd);
    pthread_mutex_destroy(&dp->lock);
    free(dp);
}
