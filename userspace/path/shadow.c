/* SPDX-License-Identifier: BSD-2-Clause */
#include "path/shadow.h"

#include <netinet/in.h>
#include <netinet/tcp.h>

#include "flow/dp.h"
#include "flow/send.h"
#include "tcp/serial.h"

/* Tries to push appended bytes out of a shadow (FACT: TCP_NODELAY pushes what TSO deferral kept back). */
#define DP_PUSH_TRIES 16

void dp_shadow_owes(struct prl_dp *dp, struct dp_flow *flow)
{
    if (flow->dirty)
        return;
    flow->dirty = true;
    flow->next_dirty = dp->dirty;
    dp->dirty = flow->slot;
}

void dp_shadow_owes_nothing(struct prl_dp *dp, struct dp_flow *flow)
{
    uint32_t *at = &dp->dirty;

    if (!flow->dirty)
        return;
    while (*at != flow->slot)
        at = &dp->flows[*at].next_dirty;
    *at = flow->next_dirty;
    flow->dirty = false;
}

/* Bytes of appended output that the shadow has not sent yet. What tcp_tso_should_defer() keeps back is pushed by
 * setting TCP_NODELAY (net/ipv4/tcp.c); what the peer's window keeps back is sent when it opens. */
static uint32_t push_out(const struct prl_dp *dp, const struct dp_flow *flow)
{
    int unsent = 0, one = 1;

    for (uint32_t i = 0; i < DP_PUSH_TRIES; i++) {
        unsent = dp->io->sock_unsent(dp->host, flow->spec.fd);
        if (unsent < 0)
            return UINT32_MAX / 2; /* never "sent": R6 ends it */
        if (unsent == 0)
            break;
        dp->io->sock_set(dp->host, flow->spec.fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    }
    return (uint32_t)unsent;
}

void dp_shadow_send_ack(struct prl_dp *dp, struct dp_flow *flow)
{
    struct prl_msg msg = {.handle = flow->spec.handle};

    if (!dp_shadow_of(flow)->unseen &&
        prl_secondary_take_ack(dp_secondary_of(flow), dp_flow_own_edge(flow), &msg.seq, &msg.space)) {
        msg.type = PRL_MSG_ACK;
        dp_send(dp, &msg);
    }
    if (dp_secondary_of(flow)->out_ack_due &&
        prl_secondary_take_output_ack(dp_secondary_of(flow), push_out(dp, flow), &msg.seq, &msg.tcp_seq)) {
        msg.type = PRL_MSG_OUTPUT_ACK;
        dp_send(dp, &msg);
    }
}

void dp_shadow_flush_acks(struct prl_dp *dp)
{
    uint32_t slot = dp->dirty;

    dp->dirty = DP_LIST_END;
    while (slot != DP_LIST_END) {
        struct dp_flow *flow = &dp->flows[slot];

        slot = flow->next_dirty;
        flow->dirty = false;
        if (!flow->secondary || dp_secondary_of(flow)->state != PRL_SECONDARY_ACTIVE)
            continue; /* void since, or set up as a primary */
        dp_shadow_send_ack(dp, flow);
        if (dp_secondary_of(flow)->out_ack_due) /* not all of it is sent: looked at again in the next pass */
            dp_shadow_owes(dp, flow);
    }
}

void dp_shadow_void(struct prl_dp *dp, struct dp_flow *flow, uint8_t reason)
{
    if (!prl_secondary_void(dp_secondary_of(flow), reason))
        return;
    dp_flow_set_flags(flow);
    dp_event_flow(dp, PRL_EVENT_SECONDARY, flow, dp_secondary_of(flow)->state, reason);
}

void dp_shadow_fence(struct prl_dp *dp, struct dp_flow *flow, uint8_t reason)
{
    bool is_shadow_yet = dp_secondary_of(flow)->state == PRL_SECONDARY_TAKING; /* to the control plane */

    if (!prl_secondary_fence(dp_secondary_of(flow)))
        return;
    dp_flow_set_flags(flow);
    if (is_shadow_yet)
        dp_event_flow(dp, PRL_EVENT_SECONDARY, flow, PRL_SECONDARY_VOID, reason);
    else
        dp_event_flow(dp, PRL_EVENT_PRIMARY, flow, PRL_PRIMARY_GONE, PRL_REASON_OK);
}

void dp_shadow_give_up(struct prl_dp *dp, struct dp_flow *flow, uint8_t reason)
{
    struct prl_msg msg = {.type = PRL_MSG_ERROR, .handle = flow->spec.handle, .reason = reason};

    dp_shadow_void(dp, flow, reason);
    dp_send(dp, &msg);
}

/* A view that is older than what was appended since says less, never more. */
bool dp_shadow_is_written(const struct dp_flow *flow)
{
    const struct prl_sock_view *view = &flow->kernel->sock;

    if (flow->kernel->key.proto != IPPROTO_TCP || view->state == 0 || view->state == TCP_CLOSE ||
        view->state == TCP_TIME_WAIT)
        return false;
    return prl_serial_lt(dp_secondary_of(flow)->out_tcp_next, view->write_seq);
}

void dp_shadow_check(struct prl_dp *dp, struct dp_flow *flow)
{
    uint8_t state = dp_secondary_of(flow)->state;

    if ((state == PRL_SECONDARY_ACTIVE || state == PRL_SECONDARY_SUSPENDED) && dp_shadow_is_written(flow))
        dp_shadow_give_up(dp, flow, PRL_REASON_WRITTEN);
}

bool dp_shadow_is_suspended(const struct dp_flow *flow)
{
    return flow->used && flow->secondary && dp_secondary_of(flow)->state == PRL_SECONDARY_SUSPENDED;
}

void dp_shadow_void_suspended(struct prl_dp *dp, uint32_t service)
{
    for (uint32_t i = 0; i < dp->flows_top; i++) {
        struct dp_flow *flow = &dp->flows[i];

        if (dp_shadow_is_suspended(flow) && flow->service == service)
            dp_shadow_void(dp, flow, PRL_REASON_NOT_ACTIVE);
    }
}

bool dp_shadow_suspend(struct prl_dp *dp, struct dp_flow *flow)
{
    if (!prl_secondary_suspend(dp_secondary_of(flow)))
        return false;
    dp_shadow_of(flow)->tries = 0;
    dp_flow_set_flags(flow);
    dp_event_flow(dp, PRL_EVENT_SECONDARY, flow, dp_secondary_of(flow)->state, PRL_REASON_LINK_LOST);
    return true;
}

void dp_shadow_space(struct prl_dp *dp, struct dp_flow *flow)
{
    struct prl_msg msg = {.type = PRL_MSG_FLOWCTL, .handle = flow->spec.handle};

    if (dp_secondary_of(flow)->state == PRL_SECONDARY_ACTIVE &&
        prl_secondary_space_grew(dp_secondary_of(flow), dp_flow_own_edge(flow), &msg.space))
        dp_send(dp, &msg);
}
