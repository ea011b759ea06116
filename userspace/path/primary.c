/* SPDX-License-Identifier: BSD-2-Clause */
#include "path/primary.h"

#include "flow/dp.h"
#include "path/apply.h"
#include "path/mirror.h"
#include "path/shadow.h"
#include "path/window.h"

/* When that was sent which a NACK drops, if it went by the cable; else 0. */
static uint64_t refused_since_ns(const struct prl_dp *dp, const struct prl_actions *actions)
{
    for (uint32_t i = 0; i < actions->count; i++)
        if (actions->action[i].kind == PRL_DO_DROP && dp_hold_number(&dp->held, actions->action[i].chain.head))
            return actions->action[i].chain.head->arrived_ns;
    return 0;
}

void dp_primary_message(struct prl_dp *dp, const struct prl_msg *msg)
{
    struct dp_flow *flow = dp_flow_by_handle(dp, msg->handle);
    struct prl_actions actions = {0};
    uint64_t refused_ns;

    if (!flow || flow->secondary)
        return; /* forgotten since */
    switch (msg->type) {
    case PRL_MSG_ACK:
        PRL_PROBE3(ack, msg->handle, msg->seq, msg->reason);
        prl_primary_ack(dp_primary_of(flow), msg->seq, msg->reason, msg->space, dp->now_ns, &dp->config.limits,
                        &actions);
        refused_ns = refused_since_ns(dp, &actions);
        dp_apply(dp, flow, &actions);
        if (refused_ns)
            dp_mirror_refused(dp, flow, refused_ns);
        dp_window_note_space(dp, flow);
        if (!dp_primary_of(flow)->queues || !dp_primary_of(flow)->queues->in_held.head)
            dp_mirror_answered(dp);
        if (prl_primary_wants_drain(dp_primary_of(flow), dp->now_ns))
            dp_primary_drain(dp, flow);
        break;
    case PRL_MSG_FLOWCTL:
        prl_primary_flowctl(dp_primary_of(flow), msg->space);
        dp_window_note_space(dp, flow);
        break;
    case PRL_MSG_OUTPUT_ACK:
        PRL_PROBE3(output_ack, msg->handle, msg->seq, msg->reason);
        prl_primary_output_ack(dp_primary_of(flow), msg->seq, msg->reason, msg->tcp_seq, dp->now_ns,
                               &dp->config.limits, &actions);
        dp_apply(dp, flow, &actions);
        break;
    case PRL_MSG_VOID_ACK:
        if (msg->generation != flow->spec.generation)
            break;
        prl_primary_void_done(dp_primary_of(flow), false, dp->now_ns, &actions);
        dp_apply(dp, flow, &actions);
        break;
    case PRL_MSG_ERROR:
        prl_primary_fail(dp_primary_of(flow), msg->reason, dp->link_up, dp->now_ns, &actions);
        dp_apply(dp, flow, &actions);
        break;
    default:
        break;
    }
}

/* ---- all flows at once ---- */

void dp_primary_fail(struct prl_dp *dp, struct dp_flow *flow, uint8_t reason)
{
    struct prl_actions actions = {0};

    prl_primary_fail(dp_primary_of(flow), reason, dp->link_up, dp->now_ns, &actions);
    dp_apply(dp, flow, &actions);
}

enum sweep { SWEEP_FAIL, SWEEP_OPEN, SWEEP_FENCE };

static void sweep(struct prl_dp *dp, enum sweep what, uint8_t reason, uint32_t service)
{
    for (uint32_t i = 0; i < dp->flows_top; i++) {
        struct dp_flow *flow = &dp->flows[i];
        struct prl_actions actions = {0};

        if (!flow->used)
            continue;
        if (flow->secondary) {
            if (what == SWEEP_FENCE && flow->service == service)
                dp_shadow_fence(dp, flow, PRL_REASON_NOT_OWNER);
            continue;
        }
        if (what == SWEEP_FAIL)
            prl_primary_fail(dp_primary_of(flow), reason, dp->link_up, dp->now_ns, &actions);
        else if (what == SWEEP_OPEN)
            prl_primary_void_done(dp_primary_of(flow), dp->capabilities & PRL_CAP_RESYNC, dp->now_ns, &actions);
        else if (flow->service == service)
            prl_primary_fence(dp_primary_of(flow), &actions);
        dp_apply(dp, flow, &actions);
    }
}

void dp_primary_fail_all(struct prl_dp *dp, uint8_t reason)
{
    sweep(dp, SWEEP_FAIL, reason, 0);
}

void dp_primary_open_all(struct prl_dp *dp)
{
    sweep(dp, SWEEP_OPEN, 0, 0);
}

void dp_primary_fence_service(struct prl_dp *dp, uint32_t service)
{
    sweep(dp, SWEEP_FENCE, 0, service);
}
