/* SPDX-License-Identifier: BSD-2-Clause */
#include "flow/dp.h"

#include <errno.h>
#include <linux/virtio_net.h>
#include <netinet/in.h>
#include <string.h>

#include "wire/elide.h"

/* A window that was clamped is announced again when it grew by this many segments (RFC 9293, 3.8.6.2.2). */
#define REOPEN_SEGMENTS 2
/* While the peer may still send so much, the own stack's next ACK is soon enough. */
#define REOPEN_BELOW_BYTES 65536u

/* ---- frames and buffers ---- */

static void free_hold(struct prl_dp *dp, struct prl_hold *hold)
{
    if (dp->link.referred)
        prl_link_settle(&dp->link);
    if (hold->frame & DP_FRAME_IS_BUFFER)
        dp->buffer_free[dp->buffers_free++] = (uint32_t)hold->frame;
    else
        prl_umem_free_packet(dp->umem, (uint32_t)hold->frame);
    prl_pool_put(&dp->holds, hold);
}

static uint8_t *buffer_at(struct prl_dp *dp, uint32_t buffer)
{
    return dp->buffers + (size_t)buffer * PRL_TAP_BUFFER_BYTES;
}

/* ---- what the state machine asks for ---- */

/* R15: leaves the L3 header out where it comes back exactly. piece[0] is for the fields that take its place, the
 * packet begins in piece[1]. Returns the first piece to send. */
static uint32_t elide(const struct prl_dp *dp, const struct dp_flow *flow, struct iovec *piece,
                      uint8_t fields[PRL_ELIDED_FIELDS], struct prl_msg *msg)
{
    struct prl_packet packet;
    int left_out;

    if (!(dp->capabilities & PRL_CAP_L3_ELISION) || prl_key_is_unconnected(&flow->kernel->key) ||
        prl_packet_parse(piece[1].iov_base, (uint32_t)piece[1].iov_len, msg->data_bytes, false, &packet))
        return 1;
    left_out = prl_elide(piece[1].iov_base, &packet, &flow->kernel->key, fields);
    if (!left_out)
        return 1;
    piece[0] = (struct iovec){.iov_base = fields, .iov_len = PRL_ELIDED_FIELDS};
    piece[1].iov_base = (uint8_t *)piece[1].iov_base + left_out;
    piece[1].iov_len -= (uint32_t)left_out;
    msg->data_type = PRL_TLV_ELIDED;
    msg->data_bytes -= (uint32_t)left_out - PRL_ELIDED_FIELDS;
    return 0;
}

static void do_replicate(struct prl_dp *dp, struct dp_flow *flow, const struct prl_hold *hold)
{
    struct iovec piece[1 + PRL_PACKET_PIECES_MAX];
    uint32_t pieces = 1 + prl_umem_pieces(dp->umem, (uint32_t)hold->frame, piece + 1);
    uint8_t fields[PRL_ELIDED_FIELDS];
    uint32_t first;
    struct prl_msg msg = {
        .type = PRL_MSG_REPLICATE,
        .handle = flow->spec.handle,
        .seq = hold->seq,
        .space = flow->primary.own_edge,
        .lif = hold->lif,
        .packet_flags = hold->packet_flags,
        .data_bytes = hold->bytes,
    };

    PRL_PROBE3(replicate, flow->spec.handle, hold->seq, hold->bytes);
    first = elide(dp, flow, piece, fields, &msg);
    if (dp_put(dp, &msg, piece + first, pieces - first) == 0 && msg.data_type == PRL_TLV_ELIDED) {
        dp->counters.link_elided_packets++;
        dp->counters.link_elided_bytes += hold->bytes - msg.data_bytes;
    }
}

static void do_relay(struct prl_dp *dp, struct dp_flow *flow, const struct prl_hold *hold)
{
    struct iovec piece[PRL_PACKET_PIECES_MAX];
    uint32_t pieces = prl_umem_pieces(dp->umem, (uint32_t)hold->frame, piece);
    struct prl_msg msg = {
        .type = PRL_MSG_RELAY,
        .handle = flow->spec.handle,
        .lif = hold->lif,
        .packet_flags = hold->packet_flags,
        .data_bytes = hold->bytes,
    };

    dp_put(dp, &msg, piece, pieces);
}

static void do_output(struct prl_dp *dp, struct dp_flow *flow, const struct prl_hold *hold)
{
    uint32_t buffer = (uint32_t)hold->frame;
    const uint8_t *frame = buffer_at(dp, buffer) + sizeof(struct virtio_net_hdr);
    uint32_t bytes = dp->buffer_bytes[buffer] - (uint32_t)sizeof(struct virtio_net_hdr);
    struct prl_packet packet;
    struct prl_msg msg = {
        .type = PRL_MSG_OUTPUT,
        .handle = flow->spec.handle,
        .seq = hold->seq,
        .tcp_seq = hold->tcp_seq,
        .bits = hold->bits,
    };
    struct iovec piece;

    if (prl_packet_parse(frame, bytes, bytes, true, &packet))
        return; /* it was parsed on arrival */
    piece.iov_base = (void *)(uintptr_t)(frame + packet.l2_bytes + packet.data_offset);
    piece.iov_len = packet.payload_bytes;
    msg.data = piece.iov_base;
    msg.data_bytes = packet.payload_bytes;
    msg.urgent = packet.urgent <= packet.payload_bytes ? packet.urgent : 0; /* else a later segment says it */
    PRL_PROBE3(output, flow->spec.handle, hold->seq, packet.payload_bytes);
    dp_put(dp, &msg, &piece, 1);
}

static void release_input(struct prl_dp *dp, struct dp_flow *flow, struct prl_chain *chain)
{
    struct prl_hold *hold;

    while ((hold = prl_chain_pop(chain))) {
        struct iovec piece[PRL_PACKET_PIECES_MAX];
        uint32_t pieces = prl_umem_pieces(dp->umem, (uint32_t)hold->frame, piece);
        struct prl_reinject how = {
            .lif = hold->lif,
            .vlans = flow->kernel->key.vlans,
            .mss = flow->spec.mss,
            .checked = true,
        };
        struct prl_packet packet;

        if (chain->head)
            prl_umem_prefetch(dp->umem, (uint32_t)chain->head->frame);
        PRL_PROBE3(reinject, flow->spec.handle, hold->seq, dp->now_ns - hold->arrived_ns);
        if (prl_packet_parse(piece[0].iov_base, (uint32_t)piece[0].iov_len, hold->bytes, false, &packet)) {
            dp->counters.reinject_failed++; /* cannot be: it was parsed on arrival */
            free_hold(dp, hold);
            continue;
        }
        if (flow->primary.state == PRL_PRIMARY_ACTIVE) {
            dp_verify_hash(flow, piece, pieces, &packet);
            dp_verify_released(dp, flow, hold->seq);
        }
        dp->counters.reinjected_packets++;
        dp->counters.reinjected_bytes += hold->bytes;
        prl_hold_times_add(&dp->held_in, dp->now_ns - hold->arrived_ns);
        prl_gro_add(&dp->gro, flow->slot, &how, piece, pieces, &packet);
        prl_chain_push(&dp->released, hold);
    }
}

void dp_flush_input(struct prl_dp *dp)
{
    struct prl_hold *hold;

    prl_gro_flush(&dp->gro);
    while ((hold = prl_chain_pop(&dp->released)))
        free_hold(dp, hold);
}

static void release_output(struct prl_dp *dp, struct dp_flow *flow, struct prl_chain *chain)
{
    struct prl_hold *hold;

    while ((hold = prl_chain_pop(chain))) {
        uint32_t buffer = (uint32_t)hold->frame;

        PRL_PROBE3(output_release, flow->spec.handle, hold->tcp_end, dp->now_ns - hold->arrived_ns);
        dp_sign_release(dp, flow, buffer_at(dp, buffer), dp->buffer_bytes[buffer]);
        if (dp->io->hold_write(dp->host, buffer_at(dp, buffer), dp->buffer_bytes[buffer]))
            dp->counters.release_failed++; /* TCP sends it again: it is committed and passes unheld */
        dp->counters.released_out_packets++;
        prl_hold_times_add(&dp->held_out, dp->now_ns - hold->arrived_ns);
        free_hold(dp, hold);
    }
}

static void send_void(struct prl_dp *dp, struct dp_flow *flow, uint8_t reason)
{
    struct prl_msg msg = {
        .type = PRL_MSG_VOID,
        .handle = flow->spec.handle,
        .generation = flow->spec.generation,
        .reason = reason,
    };

    dp_send(dp, &msg);
}

static void send_active(struct prl_dp *dp, struct dp_flow *flow)
{
    struct prl_msg msg = {
        .type = PRL_MSG_SETUP_DONE,
        .handle = flow->spec.handle,
        .generation = flow->spec.generation,
        .space = flow->primary.own_edge,
    };

    dp_send(dp, &msg);
}

/* An ACK of ours, in which tc fills in the newest numbers (R10), unless the flow is signed. */
static void say_window(struct prl_dp *dp, struct dp_flow *flow)
{
    struct prl_flow *kernel = flow->kernel;
    uint8_t frame[sizeof(struct virtio_net_hdr) + 14 + PRL_CRAFT_MAX] = {0};
    uint8_t *eth = frame + sizeof(struct virtio_net_hdr);
    struct prl_craft craft = {
        .key = &flow->kernel->key,
        .seq = kernel->sock.snd_nxt,
        .ack = kernel->last_ack,
        .window = (uint16_t)kernel->last_window,
        .tcp_flags = PRL_TCP_ACK,
        .has_timestamps = flow->spec.timestamps,
        .tsval = kernel->last_tsval,
        .tsecr = kernel->last_tsecr,
        .md5 = dp_sign_key(flow),
    };
    uint32_t bytes;

    if (flow->kernel->key.proto != IPPROTO_TCP || !(kernel->last_valid & PRL_LAST_ACK))
        return; /* it has said nothing yet */
    if (craft.md5) {
        craft.window = dp_sign_window(flow, craft.ack, craft.window);
        kernel->clamped = craft.window != (uint16_t)kernel->last_window;
    }
    memcpy(eth, flow->peer_mac, 6);
    memcpy(eth + 6, dp->config.lif[flow->kernel->key.lif].mac, 6);
    eth[12] = prl_addr_is_v4(flow->kernel->key.local) ? 0x08 : 0x86;
    eth[13] = prl_addr_is_v4(flow->kernel->key.local) ? 0x00 : 0xdd;
    bytes = prl_packet_craft(&craft, eth + 14);
    if (dp->io->hold_write(dp->host, frame, (uint32_t)sizeof(struct virtio_net_hdr) + 14 + bytes) == 0)
        dp->counters.crafted_acks++;
}

void dp_apply(struct prl_dp *dp, struct dp_flow *flow, struct prl_actions *actions)
{
    dp_flow_wake(dp, flow);
    for (uint32_t i = 0; i < actions->count; i++) {
        struct prl_action *action = &actions->action[i];
        struct prl_hold *hold;

        switch (action->kind) {
        case PRL_DO_REPLICATE:
            do_replicate(dp, flow, action->hold);
            break;
        case PRL_DO_OUTPUT:
            do_output(dp, flow, action->hold);
            break;
        case PRL_DO_RELEASE_INPUT:
            release_input(dp, flow, &action->chain);
            break;
        case PRL_DO_RELEASE_OUTPUT:
            release_output(dp, flow, &action->chain);
            break;
        case PRL_DO_DROP:
            while ((hold = prl_chain_pop(&action->chain))) {
                PRL_PROBE3(drop, action->counter, flow->spec.handle, hold->bytes);
                free_hold(dp, hold);
            }
            if (action->reason == PRL_REASON_NO_SPACE)
                say_window(dp, flow);
            break;
        case PRL_DO_COMMIT:
            __atomic_store_n(&flow->kernel->out_committed, action->seq, __ATOMIC_RELEASE);
            break;
        case PRL_DO_SEND_VOID:
            send_void(dp, flow, action->reason);
            break;
        case PRL_DO_SEND_ACTIVE:
            send_active(dp, flow);
            break;
        case PRL_DO_RELAY:
            do_relay(dp, flow, action->hold);
            break;
        case PRL_DO_STATE:
            dp_flush_input(dp);
            dp_flow_set_flags(flow);
            dp_event_flow(dp, PRL_EVENT_PRIMARY, flow, flow->primary.state, action->reason);
            break;
        default:
            break;
        }
    }
    actions->count = 0;
    dp_primary_settle(dp, flow);
}

void dp_primary_drain(struct prl_dp *dp, struct dp_flow *flow)
{
    struct prl_actions actions = {0};
    bool more = flow->primary.state != PRL_PRIMARY_MOVED || dp->link_up;

    for (uint32_t i = 0; more && i < PRL_DP_HOLDS; i++) {
        if (!prl_link_room(&dp->link, PRL_ACTIONS_MAX * PRL_PACKET_MAX) && prl_link_flush(&dp->link) == 0 &&
            !prl_link_room(&dp->link, PRL_ACTIONS_MAX * PRL_PACKET_MAX))
            break; /* dp_flows_tick() goes on with it */
        more = prl_primary_drain(&flow->primary, dp_flow_own_edge(flow), dp->now_ns, &dp->config.limits, &actions);
        dp_apply(dp, flow, &actions);
    }
}

/* ---- packets ---- */

static bool takes_too_much(struct prl_dp *dp, const struct dp_flow *flow)
{
    bool is_short = prl_umem_free_frames(dp->umem) < PRL_DP_FRAMES / DP_RESERVE_SHARE ||
                    dp->holds.used > dp->holds.capacity - dp->holds.capacity / DP_RESERVE_SHARE;

    const struct prl_queues *queues = flow->primary.queues;

    return is_short && queues && queues->in_held.count + queues->in_pending.count > DP_FAIR_PACKETS;
}

void dp_input(struct prl_dp *dp, uint16_t lif, const struct prl_received *received)
{
    struct iovec piece[PRL_PACKET_PIECES_MAX];
    uint32_t pieces = prl_umem_pieces(dp->umem, received->packet, piece);
    struct dp_flow *flow = dp_flow_of_frame(dp, &received->meta);
    struct prl_actions actions = {0};
    struct prl_packet packet;
    enum prl_checksum checksum = PRL_CHECKSUM_FULL;
    struct prl_hold *hold;

    dp->counters.rx_packets++;
    dp->counters.rx_bytes += received->bytes;
    if (!flow || (flow->secondary && !flow->relaying)) { /* forgotten since: the peer's stack sends it again */
        DP_DROP(dp, rx_unknown_flow, flow ? flow->spec.handle : 0, received->bytes);
        goto drop;
    }
    PRL_PROBE2(classify, flow->spec.handle, received->bytes);
    if (prl_packet_parse(piece[0].iov_base, (uint32_t)piece[0].iov_len, received->bytes, true, &packet)) {
        DP_DROP(dp, rx_malformed, flow->spec.handle, received->bytes);
        goto drop;
    }
    memcpy(flow->peer_mac, (const uint8_t *)piece[0].iov_base + sizeof(flow->peer_mac), sizeof(flow->peer_mac));
    prl_umem_trim(dp->umem, received->packet, packet.l2_bytes, packet.l3_bytes);
    piece[0].iov_base = (uint8_t *)piece[0].iov_base + packet.l2_bytes;
    piece[0].iov_len -= packet.l2_bytes;
    if (packet.proto == IPPROTO_TCP || packet.proto == IPPROTO_UDP)
        checksum = prl_packet_checksum(piece, pieces, &packet);
    if (checksum == PRL_CHECKSUM_BAD) {
        DP_DROP(dp, rx_bad_checksum, flow->spec.handle, received->bytes);
        goto drop;
    }
    if (packet.proto == IPPROTO_UDP && !flow->secondary && !dp_udp_has_room(dp, flow, packet.l3_bytes)) {
        flow->primary.counters.dropped_space++;
        PRL_PROBE3(drop, "dropped_space", flow->spec.handle, received->bytes);
        goto drop;
    }
    if (!flow->secondary && flow->primary.state == PRL_PRIMARY_ACTIVE &&
        !prl_link_room(&dp->link, packet.l3_bytes)) {
        DP_DROP(dp, link_tx_full, flow->spec.handle, received->bytes);
        goto drop;
    }
    if (!flow->secondary && takes_too_much(dp, flow)) {
        DP_DROP(dp, over_share, flow->spec.handle, received->bytes);
        goto drop;
    }
    hold = prl_pool_get(&dp->holds);
    if (!hold) {
        DP_DROP(dp, rx_no_hold, flow->spec.handle, received->bytes);
        goto drop;
    }
    hold->arrived_ns = dp->now_ns;
    hold->frame = received->packet;
    hold->bytes = packet.l3_bytes;
    hold->lif = lif;
    hold->packet_flags = checksum == PRL_CHECKSUM_PARTIAL ? PRL_PACKET_CSUM_PARTIAL : 0;
    if (packet.proto == IPPROTO_TCP) {
        hold->tcp_seq = packet.seq;
        hold->tcp_end = packet.seq + packet.payload_bytes;
    } else if (prl_packet_is_icmp(&packet)) {
        hold->packet_flags |= PRL_PACKET_ICMP;
    }
    if (flow->secondary) {
        if (dp_switchover_direct(dp, flow, hold, &packet))
            return;
        DP_DROP(dp, rx_no_hold, flow->spec.handle, received->bytes);
        prl_pool_put(&dp->holds, hold);
        goto drop;
    }
    dp_flow_note_peer(flow, &packet);
    PRL_PROBE2(hold, flow->spec.handle, hold->bytes);
    dp_primary_lend(dp, flow);
    prl_primary_input(&flow->primary, hold, dp_flow_own_edge(flow), dp->now_ns, &dp->config.limits, &actions);
    dp_apply(dp, flow, &actions);
    if (flow->primary.state == PRL_PRIMARY_MOVED)
        dp_switchover_relayed(dp, flow);
    return;

drop:
    prl_umem_free_packet(dp->umem, received->packet);
}

/* The logical interface that a frame on its way out was taken from: the one with its source address. */
static uint16_t lif_of(const struct prl_dp *dp, const uint8_t *frame)
{
    for (uint32_t i = 1; i < dp->config.lifs; i++)
        if (memcmp(frame + sizeof(dp->config.lif[i].mac), dp->config.lif[i].mac, sizeof(dp->config.lif[i].mac)) ==
            0)
            return (uint16_t)i;
    return 0;
}

bool dp_output(struct prl_dp *dp)
{
    struct prl_actions actions = {0};
    struct prl_packet packet;
    struct prl_flow_key key;
    struct dp_flow *flow;
    struct prl_hold *hold;
    const uint8_t *frame;
    uint32_t buffer, frame_bytes;
    int bytes;

    if (dp->buffers_free == 0 || !prl_link_room(&dp->link, PRL_PACKET_MAX))
        return false; /* left in the TAP's queue: its loss is repaired by dp_flows_tick() */
    buffer = dp->buffer_free[dp->buffers_free - 1];
    bytes = dp->io->hold_read(dp->host, buffer_at(dp, buffer), PRL_TAP_BUFFER_BYTES);
    if (bytes < (int)sizeof(struct virtio_net_hdr))
        return false;
    dp->buffer_bytes[buffer] = (uint32_t)bytes;
    dp->counters.held_out_packets++;
    dp->counters.held_out_bytes += (uint32_t)bytes;
    frame = buffer_at(dp, buffer) + sizeof(struct virtio_net_hdr);
    frame_bytes = (uint32_t)bytes - (uint32_t)sizeof(struct virtio_net_hdr);
    if (prl_packet_parse(frame, frame_bytes, frame_bytes, true, &packet) || packet.proto != IPPROTO_TCP)
        return true;
    prl_packet_key(frame + packet.l2_bytes, &packet, false, lif_of(dp, frame), &key);
    flow = dp_flow_by_key(dp, &key);
    if (!flow || flow->secondary)
        return true; /* forgotten since; its socket sends again, unheld */
    if (dp->buffers_free < PRL_DP_OUTPUT_BUFFERS / DP_RESERVE_SHARE && flow->primary.queues &&
        flow->primary.queues->out_held.count + flow->primary.queues->out_pending.count > DP_FAIR_BUFFERS) {
        DP_DROP(dp, over_share, flow->spec.handle,
                (uint32_t)bytes); /* dp_flows_tick() lets the kernel hold it again */
        return true;
    }
    hold = prl_pool_get(&dp->holds);
    if (!hold) {
        DP_DROP(dp, rx_no_hold, flow->spec.handle, (uint32_t)bytes);
        return true;
    }
    dp->buffers_free--;
    hold->arrived_ns = dp->now_ns;
    hold->frame = buffer | DP_FRAME_IS_BUFFER;
    hold->bytes = (uint32_t)bytes;
    hold->tcp_seq = packet.seq;
    hold->tcp_end = packet.seq + packet.payload_bytes + (packet.tcp_flags & PRL_TCP_FIN ? 1 : 0);
    hold->bits = (uint8_t)((packet.tcp_flags & PRL_TCP_FIN ? PRL_OUTPUT_FIN : 0) |
                           (packet.tcp_flags & PRL_TCP_RST ? PRL_OUTPUT_RST : 0));
    hold->is_output = 1;
    PRL_PROBE3(output_hold, flow->spec.handle, hold->tcp_end, packet.payload_bytes);
    dp_primary_lend(dp, flow);
    prl_primary_output(&flow->primary, hold, dp->now_ns, &dp->config.limits, &actions);
    dp_apply(dp, flow, &actions);
    return true;
}

/* ---- messages ---- */

/* The other side's space grew after we had to lower the advertised window: the own stack believes that its window is
 * open and would say nothing, so the peer is told with a segment of ours. */
static void reopen_window(struct prl_dp *dp, struct dp_flow *flow)
{
    struct prl_flow *kernel = flow->kernel;

    if (!kernel->clamped || !(kernel->last_valid & PRL_LAST_ACK) ||
        prl_serial_lt(kernel->edge_limit, kernel->last_edge + REOPEN_SEGMENTS * flow->spec.mss) ||
        (flow->peer_tcp_end && prl_serial_lt(flow->peer_tcp_end + REOPEN_BELOW_BYTES, kernel->last_edge)))
        return;
    kernel->clamped = 0;
    say_window(dp, flow);
}

static void note_space(struct prl_dp *dp, struct dp_flow *flow)
{
    if (!flow->primary.space_known)
        return;
    __atomic_store_n(&flow->kernel->edge_limit, flow->primary.peer_edge, __ATOMIC_RELEASE);
    reopen_window(dp, flow);
}

void dp_primary_message(struct prl_dp *dp, const struct prl_msg *msg)
{
    struct dp_flow *flow = dp_flow_by_handle(dp, msg->handle);
    struct prl_actions actions = {0};

    if (!flow || flow->secondary)
        return; /* forgotten since */
    switch (msg->type) {
    case PRL_MSG_ACK:
        PRL_PROBE3(ack, msg->handle, msg->seq, msg->reason);
        prl_primary_ack(&flow->primary, msg->seq, msg->reason, msg->space, dp->now_ns, &dp->config.limits,
                        &actions);
        dp_apply(dp, flow, &actions);
        note_space(dp, flow);
        if (prl_primary_wants_drain(&flow->primary, dp->now_ns))
            dp_primary_drain(dp, flow);
        break;
    case PRL_MSG_FLOWCTL:
        prl_primary_flowctl(&flow->primary, msg->space);
        note_space(dp, flow);
        break;
    case PRL_MSG_OUTPUT_ACK:
        PRL_PROBE3(output_ack, msg->handle, msg->seq, msg->reason);
        prl_primary_output_ack(&flow->primary, msg->seq, msg->reason, msg->tcp_seq, dp->now_ns, &dp->config.limits,
                               &actions);
        dp_apply(dp, flow, &actions);
        break;
    case PRL_MSG_VOID_ACK:
        if (msg->generation != flow->spec.generation)
            break;
        prl_primary_void_done(&flow->primary, dp->now_ns, &actions);
        dp_apply(dp, flow, &actions);
        break;
    case PRL_MSG_ERROR:
        prl_primary_fail(&flow->primary, msg->reason, dp->link_up, dp->now_ns, &actions);
        dp_apply(dp, flow, &actions);
        break;
    default:
        break;
    }
}

/* ---- all flows at once ---- */

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
                dp_secondary_fence(dp, flow);
            continue;
        }
        if (what == SWEEP_FAIL)
            prl_primary_fail(&flow->primary, reason, dp->link_up, dp->now_ns, &actions);
        else if (what == SWEEP_OPEN)
            prl_primary_void_done(&flow->primary, dp->now_ns, &actions);
        else if (flow->service == service)
            prl_primary_fence(&flow->primary, &actions);
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
