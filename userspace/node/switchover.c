/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A service moves by word over the link (R21; core/switchover.h has the rules).
 *
 *     old owner   silence (LEAVING) ─▶ COMMIT ─▶ RELAY of what waits, and of what still comes ─▶ RELAY_END
 *     new owner   flows captured (RELAY) ─▶ address OWNER ─▶ claim ─▶ TAKEN; relayed input is fed as it comes, input
 *                 that came here directly once nothing in front of it is missing
 *
 * The claim reaches the old owner and the peer at the same time, but what the peer sent before it read the claim is
 * still on its way to the old owner then. So the claim alone is no end: the old owner goes on relaying until it is quiet,
 * and the new owner orders TCP by sequence number, not by messages.
 */
#include "flow/dp.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>

static struct prl_move *move_of(struct prl_dp *dp, uint32_t service)
{
    return &dp->moves[service];
}

static void say(struct prl_dp *dp, uint32_t service, uint8_t phase, uint32_t number, uint32_t flows,
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

static bool is_of(const struct dp_flow *flow, uint32_t service)
{
    return flow->used && flow->service == service;
}

/* Active flows of the service, and in *others those that live unprotected. */
static uint32_t count_primaries(const struct prl_dp *dp, uint32_t service, uint32_t *others)
{
    uint32_t active = 0;

    *others = 0;
    for (uint32_t i = 0; i < dp->flows_top; i++) {
        const struct dp_flow *flow = &dp->flows[i];

        if (!is_of(flow, service))
            continue;
        if (flow->secondary)
            *others += flow->secondary_core.state == PRL_SECONDARY_OWNER; /* taken over, not protected again */
        else if (flow->primary.state == PRL_PRIMARY_ACTIVE)
            active++;
        else
            *others += flow->primary.state != PRL_PRIMARY_GONE;
    }
    return active;
}

static bool is_usable(const struct prl_dp *dp, const struct dp_flow *flow)
{
    return flow->secondary && flow->secondary_core.state == PRL_SECONDARY_ACTIVE &&
           flow->secondary_core.confirmed &&
           !(flow->kernel->key.proto == IPPROTO_UDP && dp_udp_diverged(dp, flow));
}

static uint32_t count_shadows(const struct prl_dp *dp, uint32_t service)
{
    uint32_t usable = 0;

    for (uint32_t i = 0; i < dp->flows_top; i++)
        usable += is_of(&dp->flows[i], service) && is_usable(dp, &dp->flows[i]);
    return usable;
}

static void every_primary(struct prl_dp *dp, uint32_t service, void (*what)(struct prl_dp *, struct dp_flow *))
{
    for (uint32_t i = 0; i < dp->flows_top; i++)
        if (is_of(&dp->flows[i], service) && !dp->flows[i].secondary)
            what(dp, &dp->flows[i]);
}

/* ---- old owner ---- */

static void hold_back(struct prl_dp *dp, struct dp_flow *flow)
{
    (void)dp;
    prl_primary_hold_back(&flow->primary, true);
}

static void release(struct prl_dp *dp, struct dp_flow *flow)
{
    prl_primary_hold_back(&flow->primary, false);
    if (prl_primary_wants_drain(&flow->primary, dp->now_ns))
        dp_primary_drain(dp, flow);
}

static void move_flow(struct prl_dp *dp, struct dp_flow *flow)
{
    struct prl_actions actions = {0};

    prl_primary_move(&flow->primary, &actions);
    dp_apply(dp, flow, &actions);
    dp_primary_drain(dp, flow);
}

static void drop_copies(struct prl_dp *dp, struct dp_flow *flow)
{
    struct prl_actions actions = {0};

    prl_primary_taken(&flow->primary, &actions);
    dp_apply(dp, flow, &actions);
}

static void resume(struct prl_dp *dp, struct dp_flow *flow)
{
    bool is_void = move_of(dp, flow->service)->outcome == PRL_MOVE_RESUMED; /* its lease, or its epoch, is over */
    struct prl_actions actions = {0};

    prl_primary_unmove(&flow->primary, is_void, dp->now_ns, &actions);
    dp_apply(dp, flow, &actions);
    if (prl_primary_wants_drain(&flow->primary, dp->now_ns))
        dp_primary_drain(dp, flow);
}

void dp_switchover_relayed(struct prl_dp *dp, struct dp_flow *flow)
{
    move_of(dp, flow->service)->last_input_ns = dp->now_ns;
    dp_primary_drain(dp, flow);
}

/* Silent first, then the word: never two speakers (I7). Input is captured on. */
static void commit(struct prl_dp *dp, uint32_t service, const struct prl_move *move)
{
    if (dp_owner_leave(dp, service))
        dp_alarm(dp, "switchover: the address table cannot be written");
    prl_owner_give(&dp->owner, service); /* not taken back while the word may still be unread */
    say(dp, service, PRL_PHASE_COMMIT, move->number, move->flows, PRL_REASON_OK, move->flags);
    every_primary(dp, service, move_flow);
    prl_link_flush(&dp->link);
}

static void end_relaying(struct prl_dp *dp, uint32_t service)
{
    dp_owner_set(dp, service, PRL_OWNER_STANDBY);
    dp_primary_fence_service(dp, service);
    say(dp, service, PRL_PHASE_RELAY_END, move_of(dp, service)->number, 0, PRL_REASON_OK, 0);
}

static bool is_drained(const struct prl_dp *dp, uint32_t service)
{
    for (uint32_t i = 0; i < dp->flows_top; i++)
        if (is_of(&dp->flows[i], service) && !dp->flows[i].secondary &&
            dp->flows[i].primary.state == PRL_PRIMARY_ACTIVE && !prl_primary_is_drained(&dp->flows[i].primary))
            return false;
    return true;
}

/* ---- new owner ---- */

static bool is_waiting(const struct dp_flow *flow)
{
    return flow->shadow.unfed && flow->shadow.unfed->waiting.head;
}

static void feed(struct prl_dp *dp, struct dp_flow *flow, struct prl_hold *hold)
{
    struct iovec piece[PRL_PACKET_PIECES_MAX];
    uint32_t pieces = prl_umem_pieces(dp->umem, (uint32_t)hold->frame, piece);
    struct prl_packet packet;

    if (prl_packet_parse(piece[0].iov_base, (uint32_t)piece[0].iov_len, hold->bytes, false, &packet) == 0)
        dp_secondary_feed(dp, flow, piece, pieces, &packet, hold->lif);
    flow->shadow.relay_next = prl_serial_max(flow->shadow.relay_next, hold->tcp_end);
    prl_chain_push(&dp->released, hold); /* freed once the gathered packet is written */
}

/* What came here directly goes up once nothing in front of it is missing any more. */
static void feed_waiting(struct prl_dp *dp, struct dp_flow *flow)
{
    bool is_over = move_of(dp, flow->service)->state != PRL_MOVE_TAKING;

    while (is_waiting(flow) && (is_over || flow->kernel->key.proto != IPPROTO_TCP ||
                                prl_serial_le(flow->shadow.unfed->waiting.head->tcp_seq, flow->shadow.relay_next)))
        feed(dp, flow, prl_chain_pop(&flow->shadow.unfed->waiting));
    dp_shadow_settle(dp, flow);
}

bool dp_switchover_direct(struct prl_dp *dp, struct dp_flow *flow, struct prl_hold *hold,
                          const struct prl_packet *packet)
{
    if (!flow->relaying ||
        (is_waiting(flow) && flow->shadow.unfed->waiting.count >= dp->config.limits.packets_max))
        return false;
    flow->last_input_ns = dp->now_ns;
    if (packet->proto == IPPROTO_TCP) {
        hold->tcp_end += packet->tcp_flags & PRL_TCP_FIN ? 1 : 0;
        dp_flow_note_peer(flow, packet);
    } else { /* its place in the stream is unknown */
        hold->tcp_seq = hold->tcp_end = flow->shadow.relay_next;
    }
    prl_chain_push(&dp_shadow_lend(dp, flow)->waiting, hold);
    feed_waiting(dp, flow);
    return true;
}

/* The old owner knows a flow by the handle that it had as a shadow. */
static struct dp_flow *moved_flow(struct prl_dp *dp, uint32_t handle)
{
    struct dp_flow *flow = dp_flow_by_handle(dp, handle);

    if (!flow)
        flow = dp_flow_by_former(dp, handle);
    return flow && (flow->relaying || flow->spec.handle == handle) ? flow : NULL;
}

static void relayed(struct prl_dp *dp, const struct prl_msg *msg)
{
    struct dp_flow *flow = moved_flow(dp, msg->handle);
    struct iovec piece = {.iov_base = (void *)(uintptr_t)msg->data, .iov_len = msg->data_bytes};
    struct prl_packet packet;

    if (!flow || !flow->secondary || flow->secondary_core.state != PRL_SECONDARY_OWNER) {
        dp->counters.relayed_late++; /* protected again, or ended; TCP sends it again */
        return;
    }
    if (prl_packet_parse(msg->data, msg->data_bytes, msg->data_bytes, false, &packet) ||
        packet.l3_bytes != msg->data_bytes || msg->lif >= dp->config.lifs ||
        !dp_flow_has_packet(flow, msg->data, &packet, msg->lif, msg->packet_flags)) {
        dp->counters.rx_malformed++;
        return;
    }
    dp->counters.relayed_packets++;
    dp_flow_note_peer(flow, &packet);
    dp_secondary_feed(dp, flow, &piece, 1, &packet, msg->lif);
    if (packet.proto == IPPROTO_TCP)
        flow->shadow.relay_next = prl_serial_max(
            flow->shadow.relay_next, packet.seq + packet.payload_bytes + (packet.tcp_flags & PRL_TCP_FIN ? 1 : 0));
    feed_waiting(dp, flow);
}

static void feed_all(struct prl_dp *dp, uint32_t service)
{
    for (uint32_t i = 0; i < dp->flows_top; i++)
        if (is_of(&dp->flows[i], service) && dp->flows[i].relaying)
            feed_waiting(dp, &dp->flows[i]);
}

/* The switch from our hands to the stack must not let newer input overtake: only in a quiet moment. */
void dp_switchover_settle(struct prl_dp *dp, struct dp_flow *flow)
{
    if (!flow->relaying || is_waiting(flow) || move_of(dp, flow->service)->state == PRL_MOVE_TAKING ||
        dp->now_ns < flow->last_input_ns + DP_RELAY_QUIET_NS)
        return;
    flow->relaying = false;
    dp_flush_input(dp);
    dp_flow_set_flags(flow);
}

void dp_switchover_forget(struct prl_dp *dp, struct dp_flow *flow)
{
    while (is_waiting(flow)) {
        struct prl_hold *hold = prl_chain_pop(&flow->shadow.unfed->waiting);

        prl_umem_free_packet(dp->umem, (uint32_t)hold->frame);
        prl_pool_put(&dp->holds, hold);
    }
    dp_shadow_settle(dp, flow);
}

/* Input is captured from before the address can be claimed: nothing may slip between shadow and session. */
static void capture_flows(struct prl_dp *dp, uint32_t service)
{
    for (uint32_t i = 0; i < dp->flows_top; i++) {
        struct dp_flow *flow = &dp->flows[i];

        if (!is_of(flow, service) || !is_usable(dp, flow))
            continue;
        flow->relaying = true;
        flow->last_input_ns = dp->now_ns;
        dp_flow_wake(dp, flow);
        __atomic_store_n(&flow->kernel->flags, PRL_FLOW_RELAY, __ATOMIC_RELEASE);
    }
}

static void uncapture_flows(struct prl_dp *dp, uint32_t service)
{
    for (uint32_t i = 0; i < dp->flows_top; i++) {
        if (!is_of(&dp->flows[i], service) || !dp->flows[i].relaying)
            continue;
        dp->flows[i].relaying = false;
        dp_flow_set_flags(&dp->flows[i]);
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
        say(dp, service, PRL_PHASE_REFUSED, number, 0, reason, 0);
        return;
    }
    dp_switchover_do(dp, service, prl_move_take(move_of(dp, service), &dp->config.move, dp->now_ns));
    say(dp, service, PRL_PHASE_TAKEN, number, 0, PRL_REASON_OK, 0);
    prl_link_flush(&dp->link);
}

/* ---- both ---- */

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
        say(dp, service, PRL_PHASE_REFUSED, move->number, 0, move->reason, 0); /* to who may have asked for it */
    dp_event(dp, &event, NULL, 0);
}

void dp_switchover_do(struct prl_dp *dp, uint32_t service, uint32_t todo)
{
    struct prl_move *move = move_of(dp, service);

    if (todo & PRL_MOVE_DO_REQUEST)
        say(dp, service, PRL_PHASE_REQUEST, 0, 0, PRL_REASON_OK, move->flags);
    if (todo & PRL_MOVE_DO_PREPARE)
        say(dp, service, PRL_PHASE_PREPARE, move->number, 0, PRL_REASON_OK, move->flags);
    if (todo & PRL_MOVE_DO_HOLD)
        every_primary(dp, service, hold_back);
    if (todo & PRL_MOVE_DO_COMMIT)
        commit(dp, service, move);
    if (todo & PRL_MOVE_DO_RELEASE)
        every_primary(dp, service, release);
    if (todo & PRL_MOVE_DO_RESUME) {
        prl_owner_given_is_taken(&dp->owner, service);
        dp_owner_set(dp, service, PRL_OWNER_OWNER);
        every_primary(dp, service, resume);
    }
    if (todo & PRL_MOVE_DO_TAKEN) {
        prl_owner_given_is_taken(&dp->owner, service);
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

/* The owner's own reasons against a move; OK when there are none. */
static uint8_t why_not_moved(struct prl_dp *dp, uint32_t service, uint8_t flags)
{
    uint32_t others;

    if (!dp->link_up || dp->owner.link != PRL_LINK_UP)
        return PRL_REASON_LINK_LOST;
    if (!(dp->capabilities & PRL_CAP_SWITCHOVER))
        return PRL_REASON_REQUESTED;
    if (dp->owner.state[service] != PRL_OWNER_OWNER)
        return PRL_REASON_NOT_OWNER;
    count_primaries(dp, service, &others);
    return others && !(flags & PRL_MOVE_FORCED) ? PRL_REASON_UNPROTECTED : PRL_REASON_OK;
}

static void requested(struct prl_dp *dp, const struct prl_msg *msg)
{
    uint8_t reason = why_not_moved(dp, msg->service, msg->bits);
    uint32_t todo = 0;

    if (reason == PRL_REASON_OK)
        todo = prl_move_request(move_of(dp, msg->service), &dp->config.move, true, msg->bits, dp->now_ns, &reason);
    if (reason != PRL_REASON_OK)
        say(dp, msg->service, PRL_PHASE_REFUSED, msg->move, 0, reason, 0);
    dp_switchover_do(dp, msg->service, todo);
}

static void prepared(struct prl_dp *dp, const struct prl_msg *msg)
{
    struct prl_move *move = move_of(dp, msg->service);
    uint8_t reason = why_not_moved(dp, msg->service, move->flags);
    uint32_t others, flows = count_primaries(dp, msg->service, &others);

    dp_switchover_do(dp, msg->service,
                     reason == PRL_REASON_OK ? prl_move_prepared(move, msg->move, msg->flows, flows)
                                             : prl_move_fail(move, reason));
}

void dp_switchover_message(struct prl_dp *dp, const struct prl_msg *msg)
{
    uint32_t service = msg->service;
    struct prl_move *move;

    if (msg->type == PRL_MSG_RELAY) {
        relayed(dp, msg);
        return;
    }
    if (service >= dp->config.owner.services)
        return;
    move = move_of(dp, service);
    switch (msg->phase) {
    case PRL_PHASE_REQUEST:
        requested(dp, msg);
        break;
    case PRL_PHASE_PREPARE: {
        uint8_t reason = why_not_taken(dp, service, 0, true);

        say(dp, service, reason ? PRL_PHASE_REFUSED : PRL_PHASE_PREPARED, msg->move, count_shadows(dp, service),
            reason, 0);
        break;
    }
    case PRL_PHASE_PREPARED:
        prepared(dp, msg);
        break;
    case PRL_PHASE_COMMIT:
        take(dp, service, msg->move, msg->flows, msg->bits & PRL_MOVE_FORCED);
        break;
    case PRL_PHASE_TAKEN:
        dp_switchover_do(dp, service, prl_move_taken(move, &dp->config.move, msg->move, dp->now_ns));
        break;
    case PRL_PHASE_REFUSED:
        dp_switchover_do(dp, service, prl_move_refused(move, msg->move, msg->reason));
        break;
    case PRL_PHASE_RELAY_END:
        dp_switchover_do(dp, service, prl_move_relay_end(move));
        break;
    default:
        break;
    }
}

void dp_switchover_link_down(struct prl_dp *dp)
{
    for (uint32_t service = 0; service < dp->config.owner.services; service++)
        dp_switchover_do(dp, service, prl_move_link_down(move_of(dp, service), dp->now_ns));
}

bool dp_switchover_is_idle(const struct prl_dp *dp, uint32_t service)
{
    return dp->moves[service].state == PRL_MOVE_IDLE;
}

void dp_switchover_disturbed(struct prl_dp *dp, uint32_t service)
{
    dp_switchover_do(dp, service, prl_move_fail(move_of(dp, service), PRL_REASON_UNPROTECTED));
}

void dp_switchover_pass(struct prl_dp *dp)
{
    for (uint32_t service = 0; service < dp->config.owner.services; service++) {
        struct prl_move *move = move_of(dp, service);
        uint32_t others;

        if (move->state == PRL_MOVE_IDLE)
            continue;
        if (move->state == PRL_MOVE_DRAINING) {
            if (count_primaries(dp, service, &others) < move->flows)
                dp_switchover_disturbed(dp, service); /* a flow failed, or ended */
            else if (is_drained(dp, service))
                dp_switchover_do(dp, service, prl_move_drained(move, dp->now_ns));
        }
        if ((prl_move_is_given(move) || move->state == PRL_MOVE_RELAYING) && dp_owner_is_claimed(dp, service))
            dp_switchover_do(dp, service, prl_move_claimed(move, &dp->config.move, dp->now_ns));
        dp_switchover_do(dp, service,
                         prl_move_tick(move, &dp->config.move, prl_owner_open_at_ns(&dp->owner), dp->now_ns));
    }
}

static uint8_t request(struct prl_dp *dp, uint32_t service, uint8_t flags)
{
    uint8_t reason = why_not_moved(dp, service, flags);
    uint32_t todo = 0;

    if (reason == PRL_REASON_OK ||
        (reason == PRL_REASON_NOT_OWNER && dp->owner.state[service] == PRL_OWNER_STANDBY))
        todo = prl_move_request(move_of(dp, service), &dp->config.move, reason == PRL_REASON_OK, flags, dp->now_ns,
                                &reason);
    dp_switchover_do(dp, service, todo);
    return reason;
}

/* L11: none is forced: a session that is not protected would be lost, and the LAN may come back. */
void dp_switchover_hand_over(struct prl_dp *dp)
{
    dp_alarm(dp, "nobody on the LAN answers, but the other node is there: what this node owns is handed over");
    for (uint32_t service = 0; service < dp->config.owner.services; service++)
        if (dp->owner.state[service] == PRL_OWNER_OWNER)
            request(dp, service, 0);
}

/* ---- the control plane's calls ---- */

int prl_dp_switchover(struct prl_dp *dp, uint32_t service, int forced)
{
    uint8_t reason;

    if (service >= dp->config.owner.services)
        return -EINVAL;
    dp_lock(dp);
    dp->now_ns = dp_clock_ns(dp);
    reason = request(dp, service, forced ? PRL_MOVE_FORCED : 0);
    prl_link_flush(&dp->link);
    dp_unlock(dp);
    dp->io->wake(dp->host);
    return reason;
}

int prl_dp_renounce(struct prl_dp *dp, uint32_t service)
{
    uint8_t reason = PRL_REASON_OK;
    int err = 0;

    if (service >= dp->config.owner.services)
        return -EINVAL;
    dp_lock(dp);
    dp->now_ns = dp_clock_ns(dp);
    if (dp->owner.state[service] != PRL_OWNER_OWNER)
        err = -EINVAL;
    else if (!dp->link_up)
        err = -ENOTCONN;
    else if (dp->capabilities & PRL_CAP_SWITCHOVER)
        dp_switchover_do(dp, service, prl_move_give(move_of(dp, service), dp->now_ns, &reason));
    else
        err = dp_owner_renounce(dp, service);
    dp_unlock(dp);
    dp->io->wake(dp->host);
    return reason == PRL_REASON_OK ? err : -EBUSY;
}

int prl_dp_switchover_resolve(struct prl_dp *dp, uint32_t service, int taken, int by_hello)
{
    int err = 0;

    if (service >= dp->config.owner.services)
        return -EINVAL;
    dp_lock(dp);
    dp->now_ns = dp_clock_ns(dp);
    if (!taken && !by_hello &&
        (dp->now_ns < prl_owner_open_at_ns(&dp->owner) || !prl_owner_hears_lan(&dp->owner, dp->now_ns)))
        err = -EAGAIN; /* we were not running meanwhile: the wait began anew (L3); or no probe got out (L6) */
    else
        dp_switchover_do(dp, service, prl_move_resolve(move_of(dp, service), &dp->config.move, taken, dp->now_ns));
    dp_unlock(dp);
    dp->io->wake(dp->host);
    return err;
}

int prl_dp_is_given(struct prl_dp *dp, uint32_t service)
{
    int given;

    if (service >= dp->config.owner.services)
        return -EINVAL;
    dp_lock(dp);
    given = prl_move_is_given(move_of(dp, service));
    dp_unlock(dp);
    return given;
}
