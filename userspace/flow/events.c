/* SPDX-License-Identifier: BSD-2-Clause */
#include "flow/events.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "core/names.h"
#include "flow/dp.h"
#include "io/probes.h"

struct dp_event {
    struct dp_event *next;
    struct prl_event event;
    uint8_t body[];
};

int dp_events_open(struct dp_events *events)
{
    events->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    return events->fd < 0 ? -errno : 0;
}

void dp_events_close(struct dp_events *events)
{
    while (events->head) {
        struct dp_event *entry = events->head;

        events->head = entry->next;
        free(entry);
    }
    if (events->fd >= 0)
        close(events->fd);
}

static void wake(struct dp_events *events)
{
    const uint64_t one = 1;
    ssize_t written = write(events->fd, &one, sizeof(one));

    (void)written; /* a full eventfd is readable all the same */
}

void dp_events_hush(struct dp_events *events, bool hush)
{
    if (events->hushed && !hush && events->count)
        wake(events);
    events->hushed = hush;
}

struct dp_event *dp_events_take(struct dp_events *events)
{
    struct dp_event *entry = events->head;
    uint64_t count;

    if (entry) {
        events->head = entry->next;
        if (!entry->next)
            events->tail = NULL;
        events->count--;
        events->body_bytes -= entry->event.body_bytes;
        events->born_waits &= entry->event.kind != PRL_EVENT_BORN;
    } else if (read(events->fd, &count, sizeof(count)) < 0) {
        return NULL; /* it was not raised */
    }
    return entry;
}

void dp_event_give(struct dp_event *entry, struct prl_event *event, uint8_t *body, size_t capacity)
{
    *event = entry->event;
    if (event->body_bytes > capacity)
        event->body_bytes = (uint32_t)capacity;
    memcpy(body, entry->body, event->body_bytes);
    free(entry);
}

void dp_event(struct prl_dp *dp, const struct prl_event *event, const uint8_t *body, uint32_t bytes)
{
    struct dp_events *events = &dp->events;
    struct dp_event *entry;

    if (events->count >= PRL_DP_EVENTS + PRL_DP_EVENTS_PER_FLOW * dp->config.flows_max ||
        events->body_bytes + bytes > DP_EVENT_BODIES_MAX || !(entry = malloc(sizeof(*entry) + bytes))) {
        dp->counters.events_lost++;
        return;
    }
    entry->next = NULL;
    entry->event = *event;
    entry->event.body_bytes = bytes;
    if (bytes)
        memcpy(entry->body, body, bytes);
    if (events->tail)
        events->tail->next = entry;
    else
        events->head = entry;
    events->tail = entry;
    events->count++;
    events->body_bytes += bytes;
    if (!events->hushed && events->count == 1) /* else it was, and has not taken all */
        wake(events);
}

void dp_event_born(struct prl_dp *dp)
{
    const struct prl_event event = {.kind = PRL_EVENT_BORN};
    uint32_t before = dp->events.count;

    if (dp->events.born_waits)
        return;
    dp_event(dp, &event, NULL, 0);
    dp->events.born_waits = dp->events.count != before;
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
