/* SPDX-License-Identifier: BSD-2-Clause */
/* What waits for Python, which an eventfd tells of it. */
#ifndef PRL_FLOW_EVENTS_H
#define PRL_FLOW_EVENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "flow/event.h"
#include "wire/wire.h"

/* Bytes of event bodies that wait. */
#define DP_EVENT_BODIES_MAX (32u << 20)

struct prl_dp;
struct dp_flow;
struct dp_event; /* one that waits, with its body */

struct dp_events {
    struct dp_event *head, *tail;
    uint32_t count, body_bytes;
    int fd; /* -1: not open */
    bool hushed;
    bool born_waits; /* a PRL_EVENT_BORN: one is as good as many */
};

int dp_events_open(struct dp_events *events); /* 0 or -errno */
void dp_events_close(struct dp_events *events);
/* The oldest one, which is the caller's then: NULL when there is none. */
struct dp_event *dp_events_take(struct dp_events *events);
/* Gives its body, at most `capacity` bytes, and frees it. */
void dp_event_give(struct dp_event *entry, struct prl_event *event, uint8_t *body, size_t capacity);

/* Python is not woken until there is no hush any more, or something else wakes it: it would want the lock for each of very many. */
void dp_events_hush(struct dp_events *events, bool hush);

void dp_event(struct prl_dp *dp, const struct prl_event *event, const uint8_t *body, uint32_t bytes);
void dp_event_born(struct prl_dp *dp); /* PRL_EVENT_BORN, unless one waits */
void dp_event_flow(struct prl_dp *dp, uint32_t kind, const struct dp_flow *flow, uint8_t state, uint8_t reason);
void dp_alarm(struct prl_dp *dp, const char *words);
void dp_message_event(struct prl_dp *dp, const struct prl_msg *msg, uint64_t value);

#endif /* PRL_FLOW_EVENTS_H */
