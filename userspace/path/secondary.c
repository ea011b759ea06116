/* SPDX-License-Identifier: BSD-2-Clause */
#include "path/secondary.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <zlib.h>

#include "flow/dp.h"
#include "flow/lend.h"
#include "flow/send.h"
#include "flow/udp.h"
#include "flow/wake.h"
#include "path/compare.h"
#include "path/mirror.h"
#include "path/reinject.h"
#include "path/shadow.h"
#include "path/verify.h"
#include "tcp/serial.h"
#include "wire/elide.h"

/* R9: what the flow owes is flushed before any NACK. `flow` may be NULL (invalid handle). */
static void send_nack(struct prl_dp *dp, struct dp_flow *flow, const struct prl_msg *refused, uint8_t reason)
{
    struct prl_msg msg = {
        .type = refused->type == PRL_MSG_OUTPUT ? PRL_MSG_OUTPUT_ACK : PRL_MSG_ACK,
        .handle = refused->handle,
        .seq = refused->seq,
        .reason = reason,
    };

    if (flow) {
        dp_shadow_send_ack(dp, flow);
        msg.space = dp_flow_own_edge(flow);
        msg.tcp_seq = dp_secondary_of(flow)->out_tcp_next;
    }
    dp_send(dp, &msg);
}

static void refuse(struct prl_dp *dp, struct dp_flow *flow, const struct prl_msg *msg, enum prl_verdict verdict,
                   uint8_t reason)
{
    send_nack(dp, flow, msg, reason);
    if (verdict == PRL_VERDICT_VOID)
        dp_shadow_void(dp, flow, reason);
}

/* A packet that a message of the primary's replicates. */
struct arrival {
    uint32_t seq, space;
    uint32_t number; /* of its frames on the cable (docs/mirror.md); 0: all of it is here */
    uint16_t lif, packet_flags;
    const uint8_t *data; /* all of it, or its headers, from L3 on */
    uint32_t data_bytes;
    const struct prl_packet *packet;
};

/* What of it takes receive space. */
static uint32_t payload_of(const struct prl_dp *dp, const struct dp_flow *flow, const struct arrival *arrival)
{
    const struct prl_packet *packet = arrival->packet;

    if (arrival->packet_flags & PRL_PACKET_ICMP)
        return 0;
    return packet->proto == IPPROTO_TCP ? packet->payload_bytes : !dp_udp_has_room(dp, flow, packet->l3_bytes);
}

static bool has_frames(const struct prl_dp *dp, const struct dp_flow *flow, const struct arrival *arrival)
{
    const struct prl_packet *packet = arrival->packet;

    return !arrival->number ||
           dp_mirror_has(dp, flow, arrival->number, packet->seq, packet->seq + packet->payload_bytes);
}

/* Whether it must wait: for its frames; or, if it will be refused, because a NACK acknowledges all that was before it, and the socket does
 * not have that yet. */
static bool must_wait(const struct prl_dp *dp, const struct dp_flow *flow, const struct arrival *arrival)
{
    const struct prl_packet *packet = arrival->packet;

    if (!has_frames(dp, flow, arrival))
        return true;
    return dp_shadow_of(flow)->unseen && packet->proto == IPPROTO_TCP && packet->payload_bytes &&
           prl_serial_lt(dp_flow_own_edge(flow), packet->seq + packet->payload_bytes);
}

static void feed(struct prl_dp *dp, struct dp_flow *flow, const struct arrival *arrival)
{
    struct iovec piece = {.iov_base = (void *)(uintptr_t)arrival->data, .iov_len = arrival->data_bytes};
    struct prl_chain frames;
    struct prl_hold *hold;

    if (!arrival->number) {
        dp_reinject(dp, flow, &piece, 1, arrival->packet, arrival->lif);
        return;
    }
    dp->counters.mirror_fed++;
    dp_mirror_take(dp, flow, arrival->number, &frames);
    while ((hold = prl_chain_pop(&frames)))
        dp_reinject_held(dp, flow, hold, NULL, 0); /* from where it waits */
}

/* Refused for want of its frames, a packet is one that there is no space for: dropped on both sides. */
static void work_on(struct prl_dp *dp, struct dp_flow *flow, const struct arrival *arrival, bool is_lost)
{
    const struct prl_packet *packet = arrival->packet;
    struct iovec piece = {.iov_base = (void *)(uintptr_t)arrival->data, .iov_len = arrival->data_bytes};
    const struct prl_msg refused = {.type = PRL_MSG_REPLICATE, .handle = flow->spec.handle, .seq = arrival->seq};
    uint32_t payload = payload_of(dp, flow, arrival), end = packet->seq + payload;
    uint8_t reason = PRL_REASON_OK;
    enum prl_verdict verdict =
        prl_secondary_replicate(dp_secondary_of(flow), arrival->seq, arrival->space, end, payload,
                                packet->l3_bytes, is_lost ? end - 1 : dp_flow_own_edge(flow), &reason);

    if (verdict != PRL_VERDICT_ACCEPT) {
        if (arrival->number)
            dp_mirror_drop(dp, flow, arrival->number);
        if (verdict != PRL_VERDICT_IGNORE)
            refuse(dp, flow, &refused, verdict, reason);
        return;
    }
    dp_flow_note_peer(flow, packet);
    flow->last_input_ns = dp->now_ns;
    dp_compare_hash(flow, arrival->number ? 0 : prl_packet_payload_sum(&piece, 1, packet), packet);
    dp_compare_accepted(flow, arrival->seq);
    if (payload && packet->proto == IPPROTO_TCP) {
        struct dp_shadow *shadow = dp_shadow_of(flow);

        shadow->in_end = shadow->in_end_known ? prl_serial_max(shadow->in_end, end) : end;
        shadow->in_end_known = true;
    }
    PRL_PROBE3(reinject, flow->spec.handle, arrival->seq, 0);
    feed(dp, flow, arrival);
    dp_verify_fed(dp, flow, arrival->seq, arrival->number ? NULL : arrival->data, arrival->lif, packet);
    dp_shadow_owes(dp, flow);
}

/* Behind what waits already. Whoever cannot wait, because there is no memory, or the primary sends more than it may have
 * unanswered, has missed something. */
static void wait_for_turn(struct prl_dp *dp, struct dp_flow *flow, const struct arrival *arrival)
{
    const struct dp_unfed *unfed = dp_shadow_of(flow)->unfed;
    uint32_t frame = PRL_FRAME_NONE;
    struct prl_hold *hold = NULL;

    if (!(unfed && unfed->unjoined.count >= dp->config.limits.packets_max))
        frame = prl_umem_copy(dp->umem, arrival->data, arrival->data_bytes);
    if (frame != PRL_FRAME_NONE)
        hold = dp_hold_input(dp, frame, 0, arrival->packet->l3_bytes, arrival->lif, arrival->packet);
    if (!hold) {
        if (frame != PRL_FRAME_NONE)
            prl_umem_free_packet(dp->umem, frame);
        dp_shadow_give_up(dp, flow, PRL_REASON_NO_MEMORY);
        return;
    }
    hold->seq = arrival->seq;
    hold->packet_flags = arrival->packet_flags;
    dp_hold_sum(dp, hold, arrival->space); /* its payload's is not needed of an entry that waits here */
    dp_hold_mirrored(dp, hold, arrival->number);
    dp_mirror_wait(dp, flow, hold);
}

static struct arrival arrival_of(struct prl_dp *dp, const struct prl_hold *hold)
{
    struct iovec piece[PRL_PACKET_PIECES_MAX];
    uint32_t pieces = dp_hold_pieces(dp, hold, piece), bytes = 0;
    const uint8_t *data = piece[0].iov_base;

    if (pieces > 1) {
        data = dp_mirror_whole(dp);
        for (uint32_t i = 0; i < pieces; bytes += (uint32_t)piece[i++].iov_len)
            memcpy(dp_mirror_whole(dp) + bytes, piece[i].iov_base, piece[i].iov_len);
    }
    return (struct arrival){
        .seq = hold->seq,
        .space = (uint32_t)dp->held.sum[hold - dp->held.pool.slab],
        .number = dp_hold_number(&dp->held, hold),
        .lif = hold->lif,
        .packet_flags = hold->packet_flags,
        .data = data,
        .data_bytes = pieces > 1 ? bytes : (uint32_t)piece[0].iov_len,
        .packet = dp_hold_packet(&dp->held, hold),
    };
}

/* Whether the frames of a message that waits will not come any more: it has waited for long, or those of a later one are here. */
static bool is_lost(struct prl_dp *dp, const struct dp_flow *flow, const struct prl_hold *first)
{
    uint64_t waited_ns = dp->now_ns - first->arrived_ns;

    if (waited_ns >= DP_MIRROR_WAIT_NS || waited_ns < DP_MIRROR_GAP_NS)
        return waited_ns >= DP_MIRROR_WAIT_NS;
    for (const struct prl_hold *hold = first->next; hold; hold = hold->next)
        if (dp_hold_number(&dp->held, hold) &&
            dp_mirror_has(dp, flow, dp_hold_number(&dp->held, hold), hold->tcp_seq, hold->tcp_end))
            return true;
    return false;
}

void dp_secondary_advance(struct prl_dp *dp, struct dp_flow *flow)
{
    struct prl_hold *hold;

    while ((hold = dp_mirror_waiting(flow))) {
        struct arrival arrival = arrival_of(dp, hold);
        bool lost;

        if (dp_secondary_of(flow)->state != PRL_SECONDARY_ACTIVE) {
            dp_mirror_forget(dp, flow);
            return;
        }
        lost = !has_frames(dp, flow, &arrival) && is_lost(dp, flow, hold);
        if (lost ? dp_shadow_of(flow)->unseen : must_wait(dp, flow, &arrival))
            break;
        dp->counters.mirror_lost += lost;
        dp_mirror_go(dp, flow);
        work_on(dp, flow, &arrival, lost);
        if (!arrival.number)
            dp_verify_flush(dp); /* before its bytes go */
        dp_hold_free(dp, hold);
    }
    dp_shadow_settle(dp, flow);
}

/* All of them are awake; who is not woken meanwhile stays in the list. */
void dp_secondary_advance_all(struct prl_dp *dp)
{
    for (uint32_t slot = dp->awake; slot != DP_LIST_END; slot = dp->flows[slot].next_awake)
        if (dp->flows[slot].used && dp->flows[slot].secondary)
            dp_secondary_advance(dp, &dp->flows[slot]);
    /* Or a tick would acknowledge what no look has seen yet, since it does not find it among what is kept. */
    dp_verify_flush(dp);
    dp_mirror_advanced(dp);
}

void dp_secondary_frame(struct prl_dp *dp, struct dp_flow *flow, uint32_t number, uint64_t queued,
                        const struct prl_packet *packet)
{
    struct prl_hold *hold;

    dp_mirror_make_room(dp);
    hold = dp_hold_input(dp, PRL_FRAME_NONE, queued, packet->l3_bytes, flow->kernel->key.lif, packet);
    if (!hold) {
        DP_DROP(dp, rx_no_hold, flow->spec.handle, packet->l3_bytes);
        dp->io->settle(dp->host, queued, false);
        return;
    }
    dp_flow_wake(dp, flow);
    dp_mirror_put(dp, flow, number, hold);
    dp_secondary_advance(dp, flow);
}

/* What MIRRORED says beside what REPLICATE does. */
static bool is_mirrored(const struct prl_dp *dp, const struct dp_flow *flow, const struct prl_msg *msg,
                        const struct prl_packet *packet)
{
    return dp->capabilities & PRL_CAP_MIRROR && !dp_secondary_of(flow)->nack_retry && msg->number &&
           packet->proto == IPPROTO_TCP && packet->payload_bytes && packet->data_offset <= msg->data_bytes;
}

static void replicate(struct prl_dp *dp, struct dp_flow *flow, const struct prl_msg *msg)
{
    uint32_t bytes = msg->type == PRL_MSG_MIRRORED ? msg->whole_bytes : msg->data_bytes;
    struct prl_packet packet;
    struct arrival arrival = {
        .seq = msg->seq,
        .space = msg->space,
        .number = msg->type == PRL_MSG_MIRRORED ? msg->number : 0,
        .lif = msg->lif,
        .packet_flags = msg->packet_flags,
        .data = msg->data,
        .data_bytes = msg->data_bytes,
        .packet = &packet,
    };

    if (prl_packet_parse(msg->data, msg->data_bytes, bytes, false, &packet) || packet.l3_bytes != bytes ||
        msg->lif >= dp->config.lifs || (msg->type == PRL_MSG_MIRRORED && !is_mirrored(dp, flow, msg, &packet)) ||
        !dp_flow_has_packet(flow, msg->data, &packet, msg->lif, msg->packet_flags)) {
        refuse(dp, flow, msg, PRL_VERDICT_VOID, PRL_REASON_MALFORMED);
        return;
    }
    if (arrival.number)
        dp_mirror_named(dp);
    if (dp_secondary_of(flow)->state == PRL_SECONDARY_ACTIVE &&
        (dp_mirror_waiting(flow) || must_wait(dp, flow, &arrival)))
        wait_for_turn(dp, flow, &arrival);
    else
        work_on(dp, flow, &arrival, false);
}

/* R15: puts the L3 header back, in the link's buffer. */
static void replicate_elided(struct prl_dp *dp, struct dp_flow *flow, const struct prl_msg *msg)
{
    uint8_t *value = (uint8_t *)msg->data; /* in the link's receive buffer, which is ours to write */
    int header = prl_key_is_unconnected(&flow->kernel->key) /* nothing here knows who sent it */
                     ? -EPROTO
                     : prl_unelide(value, msg->data_bytes, &flow->kernel->key);
    struct prl_msg whole = *msg;

    if (header < 0) {
        refuse(dp, flow, msg, PRL_VERDICT_VOID, PRL_REASON_MALFORMED);
        return;
    }
    whole.data = value + PRL_ELIDED_FIELDS - header;
    whole.data_bytes += (uint32_t)header - PRL_ELIDED_FIELDS;
    whole.data_type = PRL_TLV_PACKET;
    replicate(dp, flow, &whole);
}

static int append_bytes(const struct prl_dp *dp, int fd, const uint8_t *data, uint32_t bytes, int flags)
{
    while (bytes) {
        ssize_t sent = dp->io->sock_send(dp->host, fd, data, bytes, MSG_EOR | flags);

        if (sent <= 0)
            return sent < 0 ? (int)sent : -EPIPE;
        data += sent;
        bytes -= (uint32_t)sent;
    }
    return 0;
}

/* Puts output into the shadow's send queue. All of it must be sent (into tc, which steals it) before the peer's ACK
 * of it is fed: Linux throws away a segment whose ACK is beyond snd_nxt. So OUTPUT_ACK waits for push_out(). The first
 * `urgent` bytes end with an urgent one: a retransmission says so again (RFC 6093). */
static int append(const struct prl_dp *dp, const struct dp_flow *flow, const uint8_t *data, uint32_t bytes,
                  uint32_t urgent, bool fin)
{
    int err = append_bytes(dp, flow->spec.fd, data, urgent, MSG_OOB);

    if (!err)
        err = append_bytes(dp, flow->spec.fd, data + urgent, bytes - urgent, 0);
    if (!err && fin)
        err = dp->io->sock_end(dp->host, flow->spec.fd);
    return err;
}

/* The primary aborts the session: so ends the shadow, silently. What it has not sent yet it never will. */
static void output_reset(struct prl_dp *dp, struct dp_flow *flow, const struct prl_msg *msg)
{
    uint8_t reason = PRL_REASON_OK;
    enum prl_verdict verdict = prl_secondary_reset(dp_secondary_of(flow), msg->seq, &reason);

    if (verdict != PRL_VERDICT_ACCEPT) {
        refuse(dp, flow, msg, verdict, reason);
        return;
    }
    dp_shadow_send_ack(dp, flow);
    if (dp_secondary_of(flow)->out_ack_due)
        send_nack(dp, flow, msg, PRL_REASON_ENDED);
    dp_shadow_void(dp, flow, PRL_REASON_ENDED);
}

static void output(struct prl_dp *dp, struct dp_flow *flow, const struct prl_msg *msg)
{
    uint8_t reason = PRL_REASON_OK;
    uint32_t skip = 0, urgent;
    bool fin = msg->bits & PRL_OUTPUT_FIN;
    enum prl_verdict verdict;

    if (msg->bits & PRL_OUTPUT_RST) {
        output_reset(dp, flow, msg);
        return;
    }
    verdict = prl_secondary_output(dp_secondary_of(flow), msg->seq, msg->tcp_seq, msg->data_bytes, &skip, &reason);
    if (verdict != PRL_VERDICT_ACCEPT) {
        refuse(dp, flow, msg, verdict, reason);
        return;
    }
    urgent = msg->urgent > skip && msg->urgent <= msg->data_bytes ? msg->urgent - skip : 0;
    dp_reinject_flush(dp); /* the ACK that opens the peer's window comes first */
    if (append(dp, flow, msg->data + skip, msg->data_bytes - skip, urgent, fin)) {
        dp->counters.append_short++;
        refuse(dp, flow, msg, PRL_VERDICT_VOID, PRL_REASON_NO_SPACE);
        return;
    }
    if (flow->spec.hash_output && msg->data_bytes > skip) /* crc32() of a NULL buffer begins anew */
        dp_shadow_of(flow)->out_hash =
            (uint32_t)crc32(dp_shadow_of(flow)->out_hash, msg->data + skip, msg->data_bytes - skip);
    prl_secondary_output_done(dp_secondary_of(flow), msg->data_bytes - skip, fin);
    dp_shadow_owes(dp, flow);
}

static void confirm(struct prl_dp *dp, struct dp_flow *flow, const struct prl_msg *msg)
{
    struct prl_secondary *core = dp_secondary_of(flow);
    bool was_suspended = core->state == PRL_SECONDARY_SUSPENDED;

    if (!prl_secondary_confirm(core, msg->generation, msg->space) || !was_suspended)
        return;
    if (dp_shadow_of(flow)->unfed)
        dp_shadow_of(flow)->unfed->acked = 0; /* what was said of it may have been lost with the link */
    dp_flow_set_flags(flow);
    dp_event_flow(dp, PRL_EVENT_SECONDARY, flow, core->state, PRL_REASON_OK);
    dp_shadow_owes(dp, flow);
}

void dp_secondary_message(struct prl_dp *dp, const struct prl_msg *msg)
{
    struct dp_flow *flow = dp_flow_by_handle(dp, msg->handle);

    if (flow && !flow->secondary)
        flow = NULL;
    if (flow)
        dp_flow_wake(dp, flow);
    switch (msg->type) {
    case PRL_MSG_REPLICATE:
    case PRL_MSG_MIRRORED:
    case PRL_MSG_OUTPUT:
        if (!flow)
            send_nack(dp, NULL, msg, PRL_REASON_INVALID_HANDLE);
        else if (msg->data_type == PRL_TLV_ELIDED)
            replicate_elided(dp, flow, msg);
        else if (msg->type == PRL_MSG_OUTPUT)
            output(dp, flow, msg);
        else
            replicate(dp, flow, msg);
        break;
    case PRL_MSG_VOID: {
        struct prl_msg answer = {.type = PRL_MSG_VOID_ACK, .handle = msg->handle, .generation = msg->generation};

        if (flow && prl_secondary_is_taken(dp_secondary_of(flow)))
            break; /* taken over: no word of ours may let the old primary open (I7) */
        if (flow && flow->spec.generation == msg->generation)
            dp_shadow_void(dp, flow, msg->reason);
        dp_send(dp, &answer);
        break;
    }
    case PRL_MSG_SETUP_DONE:
        if (flow)
            confirm(dp, flow, msg);
        break;
    case PRL_MSG_COMPARE:
        if (flow)
            dp_verify_compare(dp, flow, msg);
        break;
    case PRL_MSG_CLOSE:
        if (flow && flow->spec.generation == msg->generation)
            dp_shadow_void(dp, flow, PRL_REASON_ENDED);
        break;
    default:
        break;
    }
}
