/* SPDX-License-Identifier: BSD-2-Clause */
#include "path/relay.h"

#include <netinet/in.h>

#include "flow/dp.h"
#include "flow/lend.h"
#include "flow/wake.h"
#include "path/reinject.h"
#include "path/takeover.h"
#include "tcp/serial.h"

/* A flow in our hands is given to the stack when no input has come for so long … */
#define DP_RELAY_QUIET_NS 20000000ull
/* … or after so many ticks, 1 s, in any case: an unprotected session is to depend on no prld. What was captured in this moment may
 * be overtaken. */
#define DP_RELAY_TICKS_MAX 200

void dp_relay_begin(struct prl_dp *dp, struct dp_flow *flow)
{
    flow->relaying = true;
    flow->relay_ticks = 0;
    flow->last_input_ns = dp->now_ns;
    dp_flow_wake(dp, flow);
    __atomic_store_n(&flow->kernel->flags, PRL_FLOW_RELAY, __ATOMIC_RELEASE);
}

void dp_relay_end(struct prl_dp *dp, struct dp_flow *flow)
{
    dp_reinject_flush(dp);
    flow->relaying = false;
    dp_flow_set_flags(flow);
}

static bool is_waiting(const struct dp_flow *flow)
{
    const struct dp_unfed *unfed = dp_shadow_of(flow)->unfed;

    return unfed && unfed->waiting.head;
}

static void feed(struct prl_dp *dp, struct dp_flow *flow, struct prl_hold *hold)
{
    struct iovec piece[PRL_PACKET_PIECES_MAX];
    uint32_t pieces = dp_hold_pieces(dp, hold, piece);
    struct dp_shadow *shadow = dp_shadow_of(flow);

    shadow->relay_next = prl_serial_max(shadow->relay_next, hold->tcp_end);
    dp_reinject_held(dp, flow, hold, piece, pieces);
}

void dp_relay_feed(struct prl_dp *dp, struct dp_flow *flow)
{
    const struct dp_shadow *shadow = dp_shadow_of(flow);
    bool in_any_order =
        dp->moves[flow->service].state != PRL_MOVE_TAKING || flow->kernel->key.proto != IPPROTO_TCP;

    while (is_waiting(flow) &&
           (in_any_order || prl_serial_le(shadow->unfed->waiting.head->tcp_seq, shadow->relay_next)))
        feed(dp, flow, prl_chain_pop(&shadow->unfed->waiting));
    dp_shadow_settle(dp, flow);
}

bool dp_relay_direct(struct prl_dp *dp, struct dp_flow *flow, struct prl_hold *hold)
{
    const struct prl_packet *packet = dp_hold_packet(&dp->held, hold);

    if (is_waiting(flow) && dp_shadow_of(flow)->unfed->waiting.count >= dp->config.limits.packets_max)
        return false;
    dp_takeover_turn(dp, flow);
    flow->last_input_ns = dp->now_ns;
    if (packet->proto == IPPROTO_TCP) {
        hold->tcp_end += packet->tcp_flags & PRL_TCP_FIN ? 1 : 0;
        dp_flow_note_peer(flow, packet);
    } else { /* its place in the stream is unknown */
        hold->tcp_seq = hold->tcp_end = dp_shadow_of(flow)->relay_next;
    }
    prl_chain_push(&dp_shadow_lend(dp, flow)->waiting, hold);
    dp_relay_feed(dp, flow);
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

void dp_relay_message(struct prl_dp *dp, const struct prl_msg *msg)
{
    struct dp_flow *flow = moved_flow(dp, msg->handle);
    struct iovec piece = {.iov_base = (void *)(uintptr_t)msg->data, .iov_len = msg->data_bytes};
    struct prl_packet packet;

    if (flow)
        dp_takeover_turn(dp, flow);
    if (!flow || !flow->secondary || dp_secondary_of(flow)->state != PRL_SECONDARY_OWNER) {
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
    dp_reinject(dp, flow, &piece, 1, &packet, msg->lif);
    if (packet.proto == IPPROTO_TCP)
        dp_shadow_of(flow)->relay_next =
            prl_serial_max(dp_shadow_of(flow)->relay_next,
                           packet.seq + packet.payload_bytes + (packet.tcp_flags & PRL_TCP_FIN ? 1 : 0));
    dp_relay_feed(dp, flow);
}

bool dp_relay_is_on(const struct dp_flow *flow)
{
    return flow->relaying && (flow->secondary || dp_primary_of(flow)->state == PRL_PRIMARY_OPEN);
}

/* What comes to it would be dropped, or overtake what waits. */
static bool has_no_turn_yet(const struct prl_dp *dp, const struct dp_flow *flow)
{
    return flow->secondary && (is_waiting(flow) || dp->moves[flow->service].state == PRL_MOVE_TAKING ||
                               dp_secondary_of(flow)->state == PRL_SECONDARY_TAKING);
}

/* The switch from our hands to the stack must not let newer input overtake: only in a quiet moment. */
void dp_relay_settle(struct prl_dp *dp, struct dp_flow *flow)
{
    if (!dp_relay_is_on(flow))
        return;
    if (flow->relay_ticks < DP_RELAY_TICKS_MAX)
        flow->relay_ticks++;
    if (has_no_turn_yet(dp, flow) ||
        (dp->now_ns < flow->last_input_ns + DP_RELAY_QUIET_NS && flow->relay_ticks < DP_RELAY_TICKS_MAX))
        return;
    dp_relay_end(dp, flow);
}
