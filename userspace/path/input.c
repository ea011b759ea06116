/* SPDX-License-Identifier: BSD-2-Clause */
#include "path/input.h"

#include <netinet/in.h>
#include <string.h>

#include "flow/dp.h"
#include "flow/lend.h"
#include "flow/send.h"
#include "flow/udp.h"
#include "path/apply.h"
#include "path/mirror.h"
#include "path/primary.h"
#include "path/relay.h"
#include "path/secondary.h"

static bool takes_too_much(struct prl_dp *dp, const struct dp_flow *flow)
{
    const struct prl_pool *pool = &dp->held.pool;
    const struct prl_queues *queues = dp_primary_of(flow)->queues;
    bool is_short = prl_umem_free_frames(dp->umem) < PRL_DP_FRAMES / DP_RESERVE_SHARE ||
                    pool->used > pool->capacity - pool->capacity / DP_RESERVE_SHARE;

    return is_short && queues && queues->in_held.count + queues->in_pending.count > DP_FAIR_PACKETS;
}

/* Of a session that has moved away: what came late goes to the new owner. */
static void relay(struct prl_dp *dp, struct dp_flow *flow)
{
    dp->moves[flow->service].last_input_ns = dp->now_ns;
    dp_primary_drain(dp, flow);
}

/* It came by the cable, for a shadow (docs/mirror.md). */
static bool is_frame(const struct dp_flow *flow, const struct prl_received *received)
{
    return received->mirrored && flow->secondary && dp_secondary_of(flow)->state == PRL_SECONDARY_ACTIVE;
}

/* Of a shadow nothing is captured; but what was, of a session that moved here, while that was given to the stack. A frame of the cable's that
 * is read when its shadow has been taken over is nobody's any more: no message has named it. */
static bool is_captured(const struct dp_flow *flow, const struct prl_received *received)
{
    if (!flow->secondary)
        return true;
    return !received->mirrored && (flow->relaying || dp_secondary_of(flow)->state == PRL_SECONDARY_OWNER);
}

/* A packet that waits in the kernel says in which slot its flow was when it came, and no more. */
static bool is_of(const struct dp_flow *flow, const uint8_t *l3, const struct prl_packet *packet)
{
    uint16_t flags = prl_packet_is_icmp(packet) ? PRL_PACKET_ICMP : 0;

    return dp_flow_has_packet(flow, l3, packet, flow->kernel->key.lif, flags);
}

/* Whether a packet of which prld has the headers alone can be replicated, or let go on. */
static bool goes_by_cable(const struct prl_dp *dp, const struct dp_flow *flow, const struct prl_received *received,
                          const struct prl_packet *packet)
{
    return received->mirrored && !flow->secondary && packet->proto == IPPROTO_TCP && packet->payload_bytes &&
           dp_mirror_goes_now(dp, flow);
}

/* Datagrams of UDP_SEGMENT, several in a packet, become several in the stack here; of bytes that are written to the other node's, one is
 * made (I1). So the flow is given up, and they go on without the other node; not what that one is to get by a relay. */
static bool goes_uncut(struct prl_dp *dp, struct dp_flow *flow)
{
    dp->counters.rx_uncut++;
    dp_primary_fail(dp, flow, PRL_REASON_UNCUT);
    return dp_primary_of(flow)->state != PRL_PRIMARY_MOVED;
}

void dp_input(struct prl_dp *dp, const struct prl_received *received)
{
    struct iovec piece[PRL_PACKET_PIECES_MAX];
    uint32_t pieces = prl_umem_pieces(dp->umem, received->packet, piece);
    struct dp_flow *flow = dp_flow_of_frame(dp, &received->meta);
    struct prl_actions actions = {0};
    struct prl_packet packet;
    enum prl_checksum checksum = PRL_CHECKSUM_FULL;
    struct prl_hold *hold;
    uint64_t sum = 0; /* of the payload; only wanted of a packet that waits in the kernel */

    dp->counters.rx_packets++;
    dp->counters.rx_bytes += received->bytes;
    if (!flow || !(is_captured(flow, received) ||
                   is_frame(flow, received))) { /* forgotten since: the peer's stack sends it again */
        DP_DROP(dp, rx_unknown_flow, flow ? flow->spec.handle : 0, received->bytes);
        goto drop;
    }
    PRL_PROBE2(classify, flow->spec.handle, received->bytes);
    if (prl_packet_parse(piece[0].iov_base, (uint32_t)piece[0].iov_len, received->bytes, true, &packet)) {
        DP_DROP(dp, rx_malformed, flow->spec.handle, received->bytes);
        goto drop;
    }
    if (received->queued && !is_of(flow, (const uint8_t *)piece[0].iov_base + packet.l2_bytes, &packet)) {
        DP_DROP(dp, rx_unknown_flow, flow->spec.handle, received->bytes);
        goto drop;
    }
    if (is_frame(flow, received)) {
        if (packet.proto != IPPROTO_TCP || !packet.payload_bytes) {
            DP_DROP(dp, rx_malformed, flow->spec.handle, received->bytes);
            goto drop;
        }
        dp_secondary_frame(dp, flow, received->mirrored, received->queued, &packet);
        prl_umem_free_packet(dp->umem, received->packet); /* of its bytes nothing is needed here */
        return;
    }
    if (received->is_cut && !goes_by_cable(dp, flow, received, &packet)) { /* the peer's stack sends it again */
        DP_DROP(dp, mirror_dropped, flow->spec.handle, received->bytes);
        goto drop;
    }
    if (received->is_uncut && packet.proto == IPPROTO_UDP && !flow->secondary && !goes_uncut(dp, flow)) {
        PRL_PROBE3(drop, "rx_uncut", flow->spec.handle, received->bytes);
        goto drop;
    }
    if (!received->mirrored) /* else its source address is its number */
        memcpy(flow->peer_mac, (const uint8_t *)piece[0].iov_base + sizeof(flow->peer_mac),
               sizeof(flow->peer_mac));
    prl_umem_trim(dp->umem, received->packet, packet.l2_bytes, packet.l3_bytes);
    piece[0].iov_base = (uint8_t *)piece[0].iov_base + packet.l2_bytes;
    piece[0].iov_len -= packet.l2_bytes;
    packet.l2_bytes = 0; /* it is held, and goes on, from L3 on */
    if (received->queued && !received->is_cut)
        sum = prl_packet_payload_sum(piece, pieces, &packet);
    if ((packet.proto == IPPROTO_TCP || packet.proto == IPPROTO_UDP) && !received->is_cut)
        checksum = received->queued ? prl_packet_checksum_by(piece[0].iov_base, &packet, sum)
                                    : prl_packet_checksum(piece, pieces, &packet);
    if (checksum == PRL_CHECKSUM_BAD) {
        DP_DROP(dp, rx_bad_checksum, flow->spec.handle, received->bytes);
        goto drop;
    }
    if (packet.proto == IPPROTO_UDP && !flow->secondary && !dp_udp_has_room(dp, flow, packet.l3_bytes)) {
        dp_primary_of(flow)->counters.dropped_space++;
        PRL_PROBE3(drop, "dropped_space", flow->spec.handle, received->bytes);
        goto drop;
    }
    if (!flow->secondary && dp_primary_of(flow)->state == PRL_PRIMARY_ACTIVE &&
        !dp_has_bulk_room(dp, received->is_cut ? packet.data_offset : packet.l3_bytes)) {
        DP_DROP(dp, link_tx_full, flow->spec.handle, received->bytes);
        goto drop;
    }
    if (!flow->secondary && takes_too_much(dp, flow)) {
        DP_DROP(dp, over_share, flow->spec.handle, received->bytes);
        goto drop;
    }
    hold = dp_hold_input(dp, received->packet, received->queued, packet.l3_bytes, flow->kernel->key.lif, &packet);
    if (!hold) {
        DP_DROP(dp, rx_no_hold, flow->spec.handle, received->bytes);
        goto drop;
    }
    hold->packet_flags = (checksum == PRL_CHECKSUM_PARTIAL ? PRL_PACKET_CSUM_PARTIAL : 0) |
                         (prl_packet_is_icmp(&packet) ? PRL_PACKET_ICMP : 0);
    dp_hold_sum(dp, hold, sum);
    if (received->is_cut)
        dp_hold_mirrored(dp, hold, received->mirrored);
    if (flow->secondary) {
        if (!dp_relay_direct(dp, flow, hold)) {
            DP_DROP(dp, rx_no_hold, flow->spec.handle, received->bytes);
            dp_hold_free(dp, hold);
        }
        return;
    }
    dp_flow_note_peer(flow, &packet);
    if (flow->relaying) /* nothing waits for the other node; the core lets it pass */
        flow->last_input_ns = dp->now_ns;
    PRL_PROBE2(hold, flow->spec.handle, hold->bytes);
    dp_primary_lend(dp, flow);
    prl_primary_input(dp_primary_of(flow), hold, dp_flow_own_edge(flow), dp->now_ns, &dp->config.limits, &actions);
    dp_apply(dp, flow, &actions);
    if (!received->is_cut)
        dp_mirror_begin(dp, flow, &packet);
    if (dp_primary_of(flow)->state == PRL_PRIMARY_MOVED)
        relay(dp, flow);
    return;

drop:
    if (received->queued)
        dp->io->settle(dp->host, received->queued, false);
    prl_umem_free_packet(dp->umem, received->packet);
}
