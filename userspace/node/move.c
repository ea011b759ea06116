/* SPDX-License-Identifier: BSD-2-Clause */
#include "node/move.h"

#include "core/switchover.h"
#include "flow/dp.h"
#include "flow/send.h"
#include "node/claim.h"
#include "node/service.h"
#include "path/apply.h"
#include "path/mirror.h"
#include "path/primary.h"
#include "path/relay.h"

static struct prl_move *move_of(struct prl_dp *dp, uint32_t service)
{
    return &dp->moves[service];
}

void dp_move_say(struct prl_dp *dp, uint32_t service, uint8_t phase, uint32_t number, uint32_t flows,
                 uint8_t reason, uint8_t flags)
{
    struct prl_msg msg = {
        .type = PRL_MSG_SWITCHOVER,
        .service = service,
        .move = number,
        .flows = flows,
        .phase = phase,
        .reason = reason,
        .bits = flags,
    };

    if (dp->capabilities & PRL_CAP_SWITCHOVER)
        dp_send(dp, &msg);
}

uint32_t dp_move_count_primaries(const struct prl_dp *dp, uint32_t service, uint32_t *others)
{
    uint32_t active = 0;

    *others = 0;
    for (uint32_t i = 0; i < dp->flows_top; i++) {
        const struct dp_flow *flow = &dp->flows[i];

        if (!dp_flow_is_of(flow, service))
            continue;
        if (flow->secondary)
            *others += prl_secondary_is_taken(dp_secondary_of(flow)); /* and not protected again */
        else if (dp_primary_of(flow)->state == PRL_PRIMARY_ACTIVE)
            active++;
        else
            *others += dp_primary_of(flow)->state != PRL_PRIMARY_GONE;
    }
    return active;
}

static void every_primary(struct prl_dp *dp, uint32_t service, void (*what)(struct prl_dp *, struct dp_flow *))
{
    for (uint32_t i = 0; i < dp->flows_top; i++)
        if (dp_flow_is_of(&dp->flows[i], service) && !dp->flows[i].secondary)
            what(dp, &dp->flows[i]);
}

static void hold_back(struct prl_dp *dp, struct dp_flow *flow)
{
    (void)dp;
    prl_primary_hold_back(dp_primary_of(flow), true);
    dp_mirror_end(flow); /* what comes now waits, and must be here for that */
}

static void release(struct prl_dp *dp, struct dp_flow *flow)
{
    prl_primary_hold_back(dp_primary_of(flow), false);
    if (prl_primary_wants_drain(dp_primary_of(flow), dp->now_ns))
        dp_primary_drain(dp, flow);
}

static void move_flow(struct prl_dp *dp, struct dp_flow *flow)
{
    struct prl_actions actions = {0};

    prl_primary_move(dp_primary_of(flow), &actions);
    dp_apply(dp, flow, &actions);
    dp_primary_drain(dp, flow);
}

static void drop_copies(struct prl_dp *dp, struct dp_flow *flow)
{
    struct prl_actions actions = {0};

    prl_primary_taken(dp_primary_of(flow), &actions);
    dp_apply(dp, flow, &actions);
}

static void resume(struct prl_dp *dp, struct dp_flow *flow)
{
    bool is_void = move_of(dp, flow->service)->outcome == PRL_MOVE_RESUMED; /* its lease, or its epoch, is over */
    struct prl_actions actions = {0};

    prl_primary_unmove(dp_primary_of(flow), is_void, dp->now_ns, &actions);
    dp_apply(dp, flow, &actions);
    if (prl_primary_wants_drain(dp_primary_of(flow), dp->now_ns))
        dp_primary_drain(dp, flow);
}

/* Silent first, then the word: never two speakers (I7). Input is captured on. */
static void commit(struct prl_dp *dp, uint32_t service, const struct prl_move *move)
{
    if (dp_service_leave(dp, service))
        dp_alarm(dp, "switchover: the address table cannot be written");
    prl_owner_give(&dp->owner, service); /* not taken back while the word may still be unread */
    dp_move_say(dp, service, PRL_PHASE_COMMIT, move->number, move->flows, PRL_REASON_OK, move->flags);
    every_primary(dp, service, move_flow);
    prl_link_flush(&dp->link);
}

static void end_relaying(struct prl_dp *dp, uint32_t service)
{
    dp_service_set(dp, service, PRL_OWNER_STANDBY);
    dp_primary_fence_service(dp, service);
    dp_move_say(dp, service, PRL_PHASE_RELAY_END, move_of(dp, service)->number, 0, PRL_REASON_OK, 0);
}

static void feed_all(struct prl_dp *dp, uint32_t service)
{
    for (uint32_t i = 0; i < dp->flows_top; i++)
        if (dp_flow_is_of(&dp->flows[i], service) && dp->flows[i].secondary && dp->flows[i].relaying)
            dp_relay_feed(dp, &dp->flows[i]);
}

static void tell(struct prl_dp *dp, uint32_t service, const struct prl_move *move)
{
    struct prl_event event = {
        .kind = PRL_EVENT_MOVE,
        .service = service,
        .state = move->outcome,
        .reason = move->reason,
        .seq = move->flows,
        .value = move->silent_ns,
        .value2 = dp_clock_ns(dp),
    };

    if (move->outcome == PRL_MOVE_UNDONE && dp->owner.state[service] == PRL_OWNER_OWNER)
        dp_move_say(dp, service, PRL_PHASE_REFUSED, move->number, 0, move->reason,
                    0); /* to who may have asked for it */
    dp_event(dp, &event, NULL, 0);
}

void dp_move_do(struct prl_dp *dp, uint32_t service, uint32_t todo)
{
    struct prl_move *move = move_of(dp, service);

    if (todo & PRL_MOVE_DO_REQUEST)
        dp_move_say(dp, service, PRL_PHASE_REQUEST, 0, 0, PRL_REASON_OK, move->flags);
    if (todo & PRL_MOVE_DO_PREPARE)
        dp_move_say(dp, service, PRL_PHASE_PREPARE, move->number, 0, PRL_REASON_OK, move->flags);
    if (todo & PRL_MOVE_DO_HOLD)
        every_primary(dp, service, hold_back);
    if (todo & PRL_MOVE_DO_COMMIT)
        commit(dp, service, move);
    if (todo & PRL_MOVE_DO_RELEASE)
        every_primary(dp, service, release);
    if (todo & PRL_MOVE_DO_RESUME) {
        prl_owner_given_is_taken(&dp->owner, service);
        dp_service_set(dp, service, PRL_OWNER_OWNER);
        every_primary(dp, service, resume);
    }
    if (todo & PRL_MOVE_DO_TAKEN) {
        dp_term_is_taken(dp, service);
        every_primary(dp, service, drop_copies);
    }
    if (todo & PRL_MOVE_DO_END)
        end_relaying(dp, service);
    if (todo & PRL_MOVE_DO_FEED)
        feed_all(dp, service);
    if (todo & PRL_MOVE_DO_PROBE) {
        struct prl_event event = {.kind = PRL_EVENT_PROBE, .service = service};

        dp_event(dp, &event, NULL, 0);
    }
    if (todo & PRL_MOVE_DO_TELL)
        tell(dp, service, move);
}

uint8_t dp_move_why_not(struct prl_dp *dp, uint32_t service, uint8_t flags)
{
    uint32_t others;

    if (!dp->link_up || dp->owner.link != PRL_LINK_UP)
        return PRL_REASON_LINK_LOST;
    if (!(dp->capabilities & PRL_CAP_SWITCHOVER))
        return PRL_REASON_REQUESTED;
    if (dp->owner.state[service] != PRL_OWNER_OWNER)
        return PRL_REASON_NOT_OWNER;
    dp_move_count_primaries(dp, service, &others);
    return others && !(flags & PRL_MOVE_FORCED) ? PRL_REASON_UNPROTECTED : PRL_REASON_OK;
}

uint8_t dp_move_request(struct prl_dp *dp, uint32_t service, uint8_t flags)
{
    uint8_t reason = dp_move_why_not(dp, service, flags);
    uint32_t todo = 0;

    if (reason == PRL_REASON_OK ||
        (reason == PRL_REASON_NOT_OWNER && dp->owner.state[service] == PRL_OWNER_STANDBY))
        todo = prl_move_request(move_of(dp, service), &dp->config.move, reason == PRL_REASON_OK, flags, dp->now_ns,
                                &reason);
    dp_move_do(dp, service, todo);
    return reason;
}

/* L11: none is forced: a session that is not protected would be lost, and the LAN may come back. */
void dp_move_hand_over(struct prl_dp *dp)
{
    if (dp->owner.hand_over_tries == 1 && dp->owner.is_unplugged)
        dp_alarm(dp, "the LAN has no carrier, but the other node is there: what this node owns is handed over");
    else if (dp->owner.hand_over_tries == 1)
        dp_alarm(dp, "nobody on the LAN answers, but the other node is there: what this node owns is handed over");
    for (uint32_t service = 0; service < dp->config.owner.services; service++)
        if (dp->owner.state[service] == PRL_OWNER_OWNER)
            dp_move_request(dp, service, 0);
}

void dp_move_link_down(struct prl_dp *dp)
{
    for (uint32_t service = 0; service < dp->config.owner.services; service++)
        dp_move_do(dp, service, prl_move_link_down(move_of(dp, service), dp->now_ns));
}

void dp_move_disturbed(struct prl_dp *dp, uint32_t service)
{
    dp_move_do(dp, service, prl_move_fail(move_of(dp, service), PRL_REASON_UNPROTECTED));
}
