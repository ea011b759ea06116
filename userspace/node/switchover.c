/* SPDX-License-Identifier: BSD-2-Clause */
#include "node/switchover.h"

#include <netinet/in.h>

#include "core/switchover.h"
#include "flow/dp.h"
#include "flow/udp.h"
#include "node/move.h"
#include "node/ownership.h"
#include "node/service.h"
#include "path/relay.h"

static struct prl_move *move_of(struct prl_dp *dp, uint32_t service)
{
    return &dp->moves[service];
}

static bool is_usable(const struct prl_dp *dp, const struct dp_flow *flow)
{
    return flow->secondary && dp_secondary_of(flow)->state == PRL_SECONDARY_ACTIVE &&
           dp_secondary_of(flow)->confirmed &&
           !(flow->kernel->key.proto == IPPROTO_UDP && dp_udp_diverged(dp, flow));
}

static uint32_t count_shadows(const struct prl_dp *dp, uint32_t service)
{
    uint32_t usable = 0;

    for (uint32_t i = 0; i < dp->flows_top; i++)
        usable += dp_flow_is_of(&dp->flows[i], service) && is_usable(dp, &dp->flows[i]);
    return usable;
}

static bool is_drained(const struct prl_dp *dp, uint32_t service)
{
    for (uint32_t i = 0; i < dp->flows_top; i++) {
        const struct dp_flow *flow = &dp->flows[i];

        if (dp_flow_is_of(flow, service) && !flow->secondary && dp_primary_of(flow)->state == PRL_PRIMARY_ACTIVE &&
            !prl_primary_is_drained(dp_primary_of(flow)))
            return false;
    }
    return true;
}

/* Input is captured from before the address can be claimed: nothing may slip between shadow and session. */
static void capture_flows(struct prl_dp *dp, uint32_t service)
{
    for (uint32_t i = 0; i < dp->flows_top; i++) {
        struct dp_flow *flow = &dp->flows[i];

        if (!dp_flow_is_of(flow, service) || !is_usable(dp, flow))
            continue;
        dp_relay_begin(dp, flow);
    }
}

static void uncapture_flows(struct prl_dp *dp, uint32_t service)
{
    for (uint32_t i = 0; i < dp->flows_top; i++) {
        if (!dp_flow_is_of(&dp->flows[i], service) || !dp->flows[i].relaying)
            continue;
        dp_relay_end(dp, &dp->flows[i]);
    }
}

static uint8_t why_not_taken(struct prl_dp *dp, uint32_t service, uint32_t flows, bool is_forced)
{
    uint8_t state = move_of(dp, service)->state;

    if (state != PRL_MOVE_IDLE && state != PRL_MOVE_ASKED)
        return PRL_REASON_BUSY;
    if (dp->owner.state[service] != PRL_OWNER_STANDBY)
        return PRL_REASON_NOT_ACTIVE;
    if (dp->now_ns >= prl_owner_takeover_until_ns(&dp->owner))
        return PRL_REASON_LEASE_OVER;
    if (!prl_owner_hears_lan(&dp->owner, dp->now_ns))
        return PRL_REASON_NO_LAN;
    if (!is_forced && count_shadows(dp, service) < flows)
        return PRL_REASON_UNPROTECTED;
    return PRL_REASON_OK;
}

static void take(struct prl_dp *dp, uint32_t service, uint32_t number, uint32_t flows, bool is_forced)
{
    uint8_t reason = why_not_taken(dp, service, flows, is_forced);

    if (reason == PRL_REASON_OK) {
        capture_flows(dp, service);
        dp_owner_do(dp, prl_owner_renounced(&dp->owner, service, dp->now_ns));
        dp_owner_notice_fencing(dp); /* the first frame came too late: tc has silenced us (L2) */
        if (dp->owner.state[service] != PRL_OWNER_OWNER) {
            uncapture_flows(dp, service);
            reason = PRL_REASON_LEASE_OVER;
        }
    }
    if (reason != PRL_REASON_OK) {
        dp_move_say(dp, service, PRL_PHASE_REFUSED, number, 0, reason, 0);
        return;
    }
    dp_move_do(dp, service, prl_move_take(move_of(dp, service), &dp->config.move, dp->now_ns));
    dp_move_say(dp, service, PRL_PHASE_TAKEN, number, 0, PRL_REASON_OK, 0);
    prl_link_flush(&dp->link);
}

void dp_switchover_asked(struct prl_dp *dp, uint32_t service, uint8_t flags, uint64_t asked_ns, uint32_t strangers)
{
    uint8_t reason = dp_move_why_not(dp, service, flags);
    uint32_t todo = 0;

    if (reason == PRL_REASON_OK && strangers && !(flags & PRL_MOVE_FORCED))
        reason = PRL_REASON_NOT_ASKED;
    /* Who asked waits for twice drain_ns, and then must not be given what he was told he does not get. */
    if (reason == PRL_REASON_OK && dp->now_ns - asked_ns > dp->config.move.drain_ns / 2)
        reason = PRL_REASON_TIMEOUT;
    if (reason == PRL_REASON_OK)
        todo = prl_move_request(move_of(dp, service), &dp->config.move, true, flags, dp->now_ns, &reason);
    if (reason != PRL_REASON_OK)
        dp_move_say(dp, service, PRL_PHASE_REFUSED, 0, strangers, reason, 0);
    dp_move_do(dp, service, todo);
}

/* Only the control plane can count the sessions that no flow here has. */
static void requested(struct prl_dp *dp, const struct prl_msg *msg)
{
    uint8_t reason = dp_move_why_not(dp, msg->service, msg->bits);
    struct prl_event event = {
        .kind = PRL_EVENT_MOVE_ASKED,
        .service = msg->service,
        .bits = msg->bits,
        .value = dp->now_ns,
    };

    if (reason != PRL_REASON_OK)
        dp_move_say(dp, msg->service, PRL_PHASE_REFUSED, msg->move, 0, reason, 0);
    else
        dp_event(dp, &event, NULL, 0);
}

static void prepared(struct prl_dp *dp, const struct prl_msg *msg)
{
    struct prl_move *move = move_of(dp, msg->service);
    uint8_t reason = dp_move_why_not(dp, msg->service, move->flags);
    uint32_t others, flows = dp_move_count_primaries(dp, msg->service, &others);

    dp_move_do(dp, msg->service,
               reason == PRL_REASON_OK ? prl_move_prepared(move, msg->move, msg->flows, flows)
                                       : prl_move_fail(move, reason));
}

void dp_switchover_message(struct prl_dp *dp, const struct prl_msg *msg)
{
    uint32_t service = msg->service;
    struct prl_move *move;

    if (service >= dp->config.owner.services)
        return;
    move = move_of(dp, service);
    switch (msg->phase) {
    case PRL_PHASE_REQUEST:
        requested(dp, msg);
        break;
    case PRL_PHASE_PREPARE: {
        uint8_t reason = why_not_taken(dp, service, 0, true);

        dp_move_say(dp, service, reason ? PRL_PHASE_REFUSED : PRL_PHASE_PREPARED, msg->move,
                    count_shadows(dp, service), reason, 0);
        break;
    }
    case PRL_PHASE_PREPARED:
        prepared(dp, msg);
        break;
    case PRL_PHASE_COMMIT:
        take(dp, service, msg->move, msg->flows, msg->bits & PRL_MOVE_FORCED);
        break;
    case PRL_PHASE_TAKEN:
        dp_move_do(dp, service, prl_move_taken(move, &dp->config.move, msg->move, dp->now_ns));
        break;
    case PRL_PHASE_REFUSED:
        if (move->state == PRL_MOVE_ASKED)
            move->flows = msg->flows; /* that it would lose */
        dp_move_do(dp, service, prl_move_refused(move, msg->move, msg->reason));
        break;
    case PRL_PHASE_RELAY_END:
        dp_move_do(dp, service, prl_move_relay_end(move));
        break;
    default:
        break;
    }
}

void dp_switchover_pass(struct prl_dp *dp)
{
    for (uint32_t service = 0; service < dp->config.owner.services; service++) {
        struct prl_move *move = move_of(dp, service);
        uint32_t others;

        if (move->state == PRL_MOVE_IDLE)
            continue;
        if (move->state == PRL_MOVE_DRAINING) {
            if (dp_move_count_primaries(dp, service, &others) < move->flows)
                dp_move_disturbed(dp, service); /* a flow failed, or ended */
            else if (is_drained(dp, service))
                dp_move_do(dp, service, prl_move_drained(move, dp->now_ns));
        }
        if ((prl_move_is_given(move) || move->state == PRL_MOVE_RELAYING) && dp_service_is_claimed(dp, service))
            dp_move_do(dp, service, prl_move_claimed(move, &dp->config.move, dp->now_ns));
        dp_move_do(dp, service,
                   prl_move_tick(move, &dp->config.move, prl_owner_open_at_ns(&dp->owner), dp->now_ns));
    }
}
