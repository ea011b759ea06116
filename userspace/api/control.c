/* SPDX-License-Identifier: BSD-2-Clause */
#include "flow/dp.h"
#include "core/names.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- events ---- */

void dp_event(struct prl_dp *dp, const struct prl_event *event, const uint8_t *body, uint32_t bytes)
{
    const uint64_t one = 1;
    struct dp_event *entry;

    if (dp->events >= PRL_DP_EVENTS + PRL_DP_EVENTS_PER_FLOW * dp->config.flows_max ||
        dp->events_body_bytes + bytes > DP_EVENT_BODIES_MAX || !(entry = malloc(sizeof(*entry) + bytes))) {
        dp->counters.events_lost++;
        return;
    }
    entry->next = NULL;
    entry->event = *event;
    entry->event.body_bytes = bytes;
    if (bytes)
        memcpy(entry->body, body, bytes);
    if (dp->events_tail)
        dp->events_tail->next = entry;
    else
        dp->events_head = entry;
    dp->events_tail = entry;
    dp->events++;
    dp->events_body_bytes += bytes;
    if (write(dp->event_fd, &one, sizeof(one)) < 0)
        dp->counters.events_lost += 0; /* a full eventfd is readable all the same */
}

void dp_event_flow(struct prl_dp *dp, uint32_t kind, const struct dp_flow *flow, uint8_t state, uint8_t reason)
{
    struct prl_event event = {
        .kind = kind,
        .handle = flow->spec.handle,
        .generation = flow->spec.generation,
        .service = flow->service,
        .state = state,
        .reason = reason,
    };

    if (kind == PRL_EVENT_PRIMARY)
        PRL_PROBE5(flow, "primary", prl_primary_state_name(state), event.handle, event.generation,
                   prl_reason_name(reason));
    else if (kind == PRL_EVENT_SECONDARY)
        PRL_PROBE5(flow, "secondary", prl_secondary_state_name(state), event.handle, event.generation,
                   prl_reason_name(reason));
    else
        PRL_PROBE5(flow, flow->secondary ? "secondary" : "primary", "socket gone", event.handle, event.generation,
                   prl_reason_name(reason));
    dp_event(dp, &event, NULL, 0);
}

void dp_alarm(struct prl_dp *dp, const char *words)
{
    struct prl_event event = {.kind = PRL_EVENT_ALARM};

    dp_event(dp, &event, (const uint8_t *)words, (uint32_t)strlen(words));
}

void dp_message_event(struct prl_dp *dp, const struct prl_msg *msg, uint64_t value)
{
    struct prl_event event = {
        .kind = PRL_EVENT_MESSAGE,
        .handle = msg->handle,
        .seq = msg->seq,
        .generation = msg->generation,
        .space = msg->space,
        .service = msg->service,
        .type = msg->type,
        .reason = msg->reason,
        .bits = msg->bits,
        .version_min = msg->version_min,
        .version_max = msg->version_max,
        .node_index = msg->node_index,
        .value = value,
    };

    dp_event(dp, &event, msg->tlvs, msg->tlvs_bytes);
}

int prl_dp_event_fd(struct prl_dp *dp)
{
    return dp->event_fd;
}

int prl_dp_event(struct prl_dp *dp, struct prl_event *event, uint8_t *body, size_t capacity)
{
    struct dp_event *entry;
    uint64_t count;

    dp_lock(dp);
    entry = dp->events_head;
    if (entry) {
        dp->events_head = entry->next;
        if (!entry->next)
            dp->events_tail = NULL;
        dp->events--;
        dp->events_body_bytes -= entry->event.body_bytes;
    } else if (read(dp->event_fd, &count, sizeof(count)) < 0) {
        entry = NULL; /* it was not raised */
    }
    dp_unlock(dp);
    if (!entry)
        return 0;
    *event = entry->event;
    if (event->body_bytes > capacity)
        event->body_bytes = (uint32_t)capacity;
    memcpy(body, entry->body, event->body_bytes);
    free(entry);
    return 1;
}

/* ---- the link ---- */

/* Anything before both HELLOs would end the connection at the other side: it is as good as down until then. */
static bool may_send(const struct prl_dp *dp, const struct prl_msg *msg)
{
    return dp->link_up || msg->type == PRL_MSG_HELLO;
}

/* A message that found no room leaves a hole in the stream. */
static int note_overflow(struct prl_dp *dp, int err)
{
    if (err == -ENOBUFS) {
        dp->counters.link_tx_full++;
        dp->link_overflow = true;
    }
    return err;
}

int dp_put(struct prl_dp *dp, struct prl_msg *msg, const struct iovec *piece, uint32_t pieces)
{
    return note_overflow(dp, dp->link_overflow ? -ENOBUFS : prl_link_refer(&dp->link, msg, piece, pieces));
}

int dp_send(struct prl_dp *dp, struct prl_msg *msg)
{
    if (!may_send(dp, msg))
        return -ENOTCONN;
    return dp_put(dp, msg, NULL, 0);
}

int dp_send_tlvs(struct prl_dp *dp, struct prl_msg *msg, const uint8_t *tlvs, size_t tlvs_bytes)
{
    if (!may_send(dp, msg))
        return -ENOTCONN;
    return note_overflow(dp, dp->link_overflow ? -ENOBUFS : prl_link_put_tlvs(&dp->link, msg, tlvs, tlvs_bytes));
}

void dp_link_lost(struct prl_dp *dp, const char *why)
{
    struct prl_event event = {.kind = PRL_EVENT_LINK_DOWN, .reason = PRL_REASON_LINK_LOST};
    bool was_up = dp->link_up;

    if (dp->link.fd < 0)
        return;
    dp->io->link_detach(dp->host, &dp->link);
    dp->link_up = dp->link_again = false;
    dp_event(dp, &event, (const uint8_t *)why, (uint32_t)strlen(why));
    if (was_up) {
        dp_switchover_link_down(dp);
        dp_owner_do(dp, prl_owner_link_down(&dp->owner, dp->now_ns));
    }
}

static int attach(struct prl_dp *dp, int fd, struct prl_tls *tls)
{
    int err = 0;

    dp_lock(dp);
    if (dp->link.fd >= 0) {
        err = -EBUSY;
    } else {
        dp->link_up = false;
        dp->hello_seen = false;
        dp->link_overflow = false;
        dp->wait.link_events = 0;
        err =
            tls ? dp->io->link_attach_tls(dp->host, &dp->link, tls) : dp->io->link_attach(dp->host, &dp->link, fd);
    }
    dp_unlock(dp);
    dp->io->wake(dp->host);
    return err;
}

int prl_dp_link_attach(struct prl_dp *dp, int fd)
{
    return attach(dp, fd, NULL);
}

int prl_dp_link_attach_tls(struct prl_dp *dp, struct prl_tls *tls)
{
    return attach(dp, -1, tls);
}

void prl_dp_link_hello(struct prl_dp *dp)
{
    dp_lock(dp);
    dp->now_ns = dp_clock_ns(dp);
    dp_owner_do(dp, prl_owner_hello(&dp->owner));
    dp_unlock(dp);
}

int prl_dp_link_up(struct prl_dp *dp, uint64_t epoch, uint64_t capabilities, const uint8_t lan_key[32],
                   const uint8_t own_token[16], const uint8_t peer_token[16])
{
    int err = 0;

    dp_lock(dp);
    if (dp->link.fd < 0 || dp->link_up) {
        err = -ENOTCONN;
    } else {
        dp->now_ns = dp_clock_ns(dp);
        dp->link_up = true;
        dp->epoch = epoch;
        dp->capabilities = capabilities;
        dp->config.limits.nack_retry = !!(capabilities & PRL_CAP_NACK_RETRY);
        dp->lan_counter_seen = 0;
        memcpy(dp->lan_key, lan_key, sizeof(dp->lan_key));
        memcpy(dp->own_token, own_token, sizeof(dp->own_token));
        memcpy(dp->peer_token, peer_token, sizeof(dp->peer_token));
        dp->lan_key_known = true;
        dp_owner_set_tokens(dp);
        dp_owner_do(dp, prl_owner_link_up(&dp->owner, dp->now_ns));
    }
    dp_unlock(dp);
    dp->io->wake(dp->host);
    return err;
}

int prl_dp_link_drop(struct prl_dp *dp, const char *why)
{
    dp_lock(dp);
    dp->now_ns = dp_clock_ns(dp);
    dp_link_lost(dp, why);
    dp_unlock(dp);
    dp->io->wake(dp->host);
    return 0;
}

uint64_t prl_dp_link_rtt_ns(struct prl_dp *dp)
{
    uint64_t rtt_ns;

    dp_lock(dp);
    rtt_ns = dp->rtt_ns;
    dp_unlock(dp);
    return rtt_ns;
}

int prl_dp_link_send(struct prl_dp *dp, const struct prl_msg *msg, const uint8_t *tlvs, size_t tlvs_bytes)
{
    struct prl_msg copy = *msg;
    bool is_left;
    int err;

    dp_lock(dp);
    err = may_send(dp, msg) ? prl_link_put_tlvs(&dp->link, &copy, tlvs, tlvs_bytes) : -ENOTCONN;
    if (!err) {
        if (msg->type == PRL_MSG_SETUP)
            PRL_PROBE3(setup, "SETUP sent", msg->handle, msg->generation);
        if (msg->type == PRL_MSG_SETUP_DONE)
            PRL_PROBE3(setup, "SETUP_DONE sent", msg->handle, msg->generation);
        prl_link_flush(&dp->link); /* a dead connection is noticed by the loop */
    }
    is_left = prl_link_pending(&dp->link);
    dp_unlock(dp);
    if (is_left)
        dp->io->wake(dp->host);
    return err;
}

/* ---- status ---- */

static void status_flow(const struct prl_dp *dp, const struct dp_flow *flow, struct prl_dp_status *status)
{
    const struct prl_primary *primary = &flow->primary;
    const struct prl_queues *queues = primary->queues;
    const struct prl_hold *oldest[2];

    if (flow->secondary) {
        status->flows_secondary++;
        status->flows_active += flow->secondary_core.state == PRL_SECONDARY_ACTIVE;
        return;
    }
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

void prl_dp_status(struct prl_dp *dp, struct prl_dp_status *status)
{
    memset(status, 0, sizeof(*status));
    dp_lock(dp);
    dp->now_ns = dp_clock_ns(dp);
    dp_owner_notice_fencing(dp); /* HELLO tells what the status says */
    status->now_ns = dp->now_ns;
    status->epoch = dp->epoch;
    status->rtt_ns = dp->rtt_ns;
    status->rtt_min_ns = dp->rtt_min_ns;
    status->takeover_until_ns = prl_owner_takeover_until_ns(&dp->owner);
    status->open_at_ns = prl_owner_open_at_ns(&dp->owner);
    status->last_heard_ns = dp->owner.last_heard_ns;
    status->last_lan_ns = dp->owner.last_lan_ns;
    status->link_attached = dp->link.fd >= 0;
    status->link_up = dp->link_up;
    status->link_state = dp->owner.link;
    status->silence = dp->owner.silence;
    status->unheard = dp->owner.unheard;
    status->silent_mask = dp->owner.silent_mask;
    status->expired = dp->owner.expired && !dp->owner.shadows_void;
    status->policy_stop = dp->owner.config.policy_stop;
    status->neighbours = dp->neighbours;
    for (uint32_t i = 0; i < PRL_SERVICES_MAX; i++)
        status->services[i] = dp->owner.state[i];
    for (uint32_t i = 0; i < dp->flows_top; i++)
        if (dp->flows[i].used)
            status_flow(dp, &dp->flows[i], status);
    status->frames_free = prl_umem_free_frames(dp->umem);
    status->holds_used = dp->holds.used;
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
    status->counters.reinject_failed += dp->gro.failed;
    status->counters.reinject_writes = dp->gro.writes;
    status->counters.rx_no_frame += dp->io->oversized(dp->host);
    dp_unlock(dp);
}

void prl_dp_figures(struct prl_dp *dp, struct prl_dp_figures *figures)
{
    dp_lock(dp);
    *figures = (struct prl_dp_figures){
        .held_in = dp->held_in,
        .held_out = dp->held_out,
        .takeovers = dp->owner.takeovers,
        .suspects = dp->owner.suspects,
        .false_suspects = dp->owner.false_suspects,
        .silences = dp->owner.silences,
        .late_ticks = dp->owner.late_ticks,
        .hand_overs = dp->owner.hand_overs,
    };
    dp_unlock(dp);
}
