/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Does the shadow's kernel really have what was acknowledged, and do both sides have the same?
 *
 *     R8    The kernel can drop a reinjected packet. What a batch fed is compared with the sockets while its bytes are
 *           still in the link's buffer; what they do not cover is kept (copied into the UMEM), fed again when it is
 *           next in line and still missing, and the shadow is void if that does not help.
 *     R12a  Both sides hash the packets in order. The primary sends its hash every DP_COMPARE_EVERY packets, and with
 *           rcv_nxt and snd_una whenever the flow is quiet; a difference voids the shadow.
 */
#include "flow/dp.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>

#define HASH_FACTOR 0x9e3779b97f4a7c15ull

static uint64_t mix(uint64_t hash, uint64_t word)
{
    hash = (hash ^ word) * HASH_FACTOR;
    return hash ^ hash >> 29;
}

void dp_verify_hash(struct dp_flow *flow, const struct iovec *piece, uint32_t pieces,
                    const struct prl_packet *packet)
{
    uint64_t hash = flow->compare.hash;

    hash = mix(hash, (uint64_t)packet->seq << 32 | packet->payload_bytes);
    hash = mix(hash, (uint64_t)packet->ack << 32 | packet->tcp_flags);
    flow->compare.hash = mix(hash, prl_packet_payload_sum(piece, pieces, packet));
}

/* ---- R8 ---- */

static bool covered(const struct dp_flow *flow, uint32_t tcp_end)
{
    return prl_serial_le(tcp_end, flow->kernel->sock.rcv_nxt);
}

static bool has_kept(const struct dp_flow *flow)
{
    return flow->shadow.unfed && flow->shadow.unfed->kept.head;
}

static void keep(struct prl_dp *dp, struct dp_flow *flow, const struct dp_fed *fed)
{
    struct prl_hold *hold = NULL;
    uint32_t packet = PRL_FRAME_NONE;

    uint32_t kept_bytes = flow->shadow.unfed ? flow->shadow.unfed->kept.bytes : 0;

    if (kept_bytes + fed->bytes <= dp->config.limits.bytes_max)
        packet = prl_umem_copy(dp->umem, fed->data, fed->bytes);
    if (packet != PRL_FRAME_NONE)
        hold = prl_pool_get(&dp->holds);
    if (!hold) {
        if (packet != PRL_FRAME_NONE)
            prl_umem_free_packet(dp->umem, packet);
        dp_secondary_give_up(dp, flow, PRL_REASON_NO_MEMORY); /* it could not be repaired if it were lost */
        return;
    }
    hold->arrived_ns = dp->now_ns;
    hold->frame = packet;
    hold->bytes = fed->bytes;
    hold->tcp_seq = fed->tcp_seq;
    hold->tcp_end = fed->tcp_end;
    hold->lif = fed->lif;
    prl_chain_push(&dp_shadow_lend(dp, flow)->kept, hold);
    dp->counters.kept_packets++;
}

/* Between the other states there is more than one way, and their numbers tell less. */
static bool is_comparable(uint32_t state)
{
    return state == TCP_ESTABLISHED || state == TCP_CLOSE_WAIT || state == TCP_FIN_WAIT2;
}

static void differs(struct prl_dp *dp, struct dp_flow *flow)
{
    dp->counters.differences++;
    dp_secondary_give_up(dp, flow, PRL_REASON_DIVERGED);
}

/* The shadow's socket, as it was just looked at, must come to the primary's numbers, unless newer packets have come in
 * between. */
static void find_in_view(struct prl_dp *dp, struct dp_flow *flow)
{
    struct dp_shadow *shadow = &flow->shadow;
    const struct prl_sock_view *view = &flow->kernel->sock;

    if (shadow->tries == 0 || flow->secondary_core.in_next - 1 != shadow->in_seq) {
        shadow->tries = 0;
        return;
    }
    if (!is_comparable(view->state) || (view->rcv_nxt == shadow->rcv_nxt && view->snd_una == shadow->snd_una)) {
        shadow->tries = 0;
        dp->counters.compared++;
    } else if (--shadow->tries == 0) {
        differs(dp, flow);
    }
}

void dp_verify_fed(struct prl_dp *dp, struct dp_flow *flow, const struct prl_msg *msg,
                   const struct prl_packet *packet)
{
    uint32_t length = packet->payload_bytes + (packet->tcp_flags & PRL_TCP_FIN ? 1 : 0);

    if (packet->proto != IPPROTO_TCP || length == 0)
        return; /* an ACK that is lost is covered by the next one */
    if (dp->fed_count == DP_FED_MAX)
        dp_verify_flush(dp);
    dp->fed[dp->fed_count++] = (struct dp_fed){
        .slot = flow->slot,
        .bytes = msg->data_bytes,
        .tcp_seq = packet->seq,
        .tcp_end = packet->seq + length,
        .data = msg->data,
        .lif = msg->lif,
    };
}

void dp_verify_flush(struct prl_dp *dp)
{
    uint32_t slots[PRL_SAMPLE_MAX], count = 0;

    dp_flush_input(dp);
    for (uint32_t i = 0; i < dp->fed_count; i++) {
        if (i == 0 || dp->fed[i].slot != dp->fed[i - 1].slot)
            slots[count++] = dp->fed[i].slot;
        if (count == PRL_SAMPLE_MAX || (count && i + 1 == dp->fed_count)) {
            dp->io->sample(dp->host, slots, count);
            count = 0;
        }
    }
    for (uint32_t i = 0; i < dp->fed_count; i++) {
        struct dp_flow *flow = &dp->flows[dp->fed[i].slot];

        if (!flow->used || !flow->secondary || flow->secondary_core.state != PRL_SECONDARY_ACTIVE)
            continue;
        if (dp->fed[i].bytes == 0) {
            find_in_view(dp, flow);
            if (flow->shadow.tries)
                dp_flow_wake(dp, flow);
        } else if (!covered(flow, dp->fed[i].tcp_end)) {
            keep(dp, flow, &dp->fed[i]);
        }
    }
    dp->fed_count = 0;
}

static void feed_kept(struct prl_dp *dp, struct dp_flow *flow, const struct prl_hold *hold)
{
    struct iovec piece[PRL_PACKET_PIECES_MAX];
    uint32_t pieces = prl_umem_pieces(dp->umem, (uint32_t)hold->frame, piece);
    struct prl_packet packet;

    if (prl_packet_parse(piece[0].iov_base, (uint32_t)piece[0].iov_len, hold->bytes, false, &packet) == 0)
        dp_secondary_feed(dp, flow, piece, pieces, &packet, hold->lif);
    dp_flush_input(dp);
    dp->counters.refed_packets++;
}

bool dp_verify_lacks(struct prl_dp *dp, struct dp_flow *flow)
{
    if (!has_kept(flow))
        return false;
    dp_flow_sample(dp, flow);
    for (const struct prl_hold *hold = flow->shadow.unfed->kept.head; hold; hold = hold->next)
        if (!covered(flow, hold->tcp_end) && prl_serial_le(hold->tcp_seq, flow->kernel->sock.rcv_nxt))
            return true;
    return false;
}

/* The former owner's stack has acknowledged it, so that the peer will not send it again, and the session would wait for ever. */
static void lose(struct prl_dp *dp, struct dp_flow *flow)
{
    struct prl_event event = {.kind = PRL_EVENT_HOLE, .handle = flow->spec.handle};

    dp->counters.holes++;
    dp_event(dp, &event, NULL, 0);
    dp_verify_forget(dp, flow);
}

static void free_kept(struct prl_dp *dp, struct prl_hold *hold)
{
    prl_umem_free_packet(dp->umem, (uint32_t)hold->frame);
    prl_pool_put(&dp->holds, hold);
}

/* Feeds again what is next in line and missing, and what follows it without a hole. What lies behind a hole waits: the
 * peer fills the hole. */
static void check_kept(struct prl_dp *dp, struct dp_flow *flow)
{
    struct dp_unfed *unfed = flow->shadow.unfed;
    uint64_t wait_ns = DP_KEPT_WAIT_NS << unfed->kept_tries;
    struct prl_chain left = {0};
    bool fed_again = false, is_owner = flow->secondary_core.state == PRL_SECONDARY_OWNER;
    struct prl_hold *hold;
    uint32_t next;

    dp_flow_sample(dp, flow);
    next = flow->kernel->sock.rcv_nxt;
    while ((hold = prl_chain_pop(&unfed->kept))) {
        if (covered(flow, hold->tcp_end)) {
            free_kept(dp, hold);
            unfed->kept_tries = 0;
            continue;
        }
        if (prl_serial_le(hold->tcp_seq, next) && dp->now_ns - hold->arrived_ns >= wait_ns) {
            feed_kept(dp, flow, hold);
            next = prl_serial_max(next, hold->tcp_end);
            hold->arrived_ns = dp->now_ns;
            fed_again = true;
        }
        prl_chain_push(&left, hold);
    }
    unfed->kept = left;
    if (fed_again && !(is_owner && flow->kernel->sock.rmem_bytes)) /* a session's reader may take its time */
        unfed->kept_tries++;
    if (unfed->kept_tries <= DP_KEPT_TRIES)
        dp_shadow_settle(dp, flow);
    else if (is_owner)
        lose(dp, flow);
    else
        dp_secondary_give_up(dp, flow, PRL_REASON_DIVERGED);
}

/* What was fed just now may wait behind the application's lock on the socket: fed again, the peer would be told of it. */
void dp_verify_refeed(struct prl_dp *dp, struct dp_flow *flow)
{
    flow->shadow.tries = 0;
    if (!has_kept(flow))
        return;
    flow->shadow.unfed->kept_tries = 0;
    check_kept(dp, flow);
    if (has_kept(flow))
        dp_flow_wake(dp, flow);
}

void dp_verify_forget(struct prl_dp *dp, struct dp_flow *flow)
{
    while (has_kept(flow))
        free_kept(dp, prl_chain_pop(&flow->shadow.unfed->kept));
    dp_shadow_settle(dp, flow);
}

/* ---- R12a ---- */

static void send_compare(struct prl_dp *dp, struct dp_flow *flow, uint32_t seq, uint32_t flags)
{
    struct prl_msg msg = {
        .type = PRL_MSG_COMPARE,
        .handle = flow->spec.handle,
        .seq = seq,
        .out_seq = flow->primary.out_next - 1,
        .rcv_nxt = flow->kernel->sock.rcv_nxt,
        .snd_una = flow->kernel->sock.snd_una,
        .compare_flags = flags,
        .hash = flow->compare.hash,
    };

    if (dp->capabilities & PRL_CAP_COMPARE)
        dp_send(dp, &msg);
}

void dp_verify_released(struct prl_dp *dp, struct dp_flow *flow, uint32_t seq)
{
    flow->last_input_ns = dp->now_ns;
    if (seq % DP_COMPARE_EVERY == 0)
        send_compare(dp, flow, seq, 0);
}

void dp_verify_accepted(struct dp_flow *flow, uint32_t seq)
{
    uint32_t at = seq / DP_COMPARE_EVERY % 2;

    if (seq % DP_COMPARE_EVERY != 0)
        return;
    flow->shadow.check_seq[at] = seq;
    flow->shadow.check_hash[at] = flow->compare.hash;
}

/* The primary: nothing is on its way, so the sockets must agree as well. */
static void compare_when_quiet(struct prl_dp *dp, struct dp_flow *flow)
{
    const struct prl_primary *primary = &flow->primary;
    uint32_t in = primary->in_next - 1, out = primary->out_next - 1;
    bool quiet = prl_primary_is_quiet(primary) && dp->now_ns - flow->last_input_ns >= DP_COMPARE_QUIET_NS;

    if (primary->state != PRL_PRIMARY_ACTIVE || flow->kernel->key.proto != IPPROTO_TCP || !quiet ||
        (in == flow->compare.sent_in && out == flow->compare.sent_out))
        return;
    flow->compare.sent_in = in;
    flow->compare.sent_out = out;
    dp->compare_due[dp->compare_due_count++] = flow->slot;
    if (dp->compare_due_count == PRL_SAMPLE_MAX)
        dp_verify_send_due(dp);
}

void dp_verify_send_due(struct prl_dp *dp)
{
    if (dp->compare_due_count)
        dp->io->sample(dp->host, dp->compare_due, dp->compare_due_count);
    for (uint32_t i = 0; i < dp->compare_due_count; i++) {
        struct dp_flow *flow = &dp->flows[dp->compare_due[i]];

        if (flow->primary.state == PRL_PRIMARY_ACTIVE && is_comparable(flow->kernel->sock.state))
            send_compare(dp, flow, flow->primary.in_next - 1, PRL_COMPARE_SOCKET);
    }
    dp->compare_due_count = 0;
}

static void find_in_socket(struct prl_dp *dp, struct dp_flow *flow)
{
    if (flow->shadow.tries)
        dp_flow_sample(dp, flow);
    find_in_view(dp, flow);
}

void dp_verify_compare(struct prl_dp *dp, struct dp_flow *flow, const struct prl_msg *msg)
{
    struct dp_shadow *shadow = &flow->shadow;
    const struct prl_secondary *core = &flow->secondary_core;

    if (core->state != PRL_SECONDARY_ACTIVE)
        return;
    if (msg->compare_flags & PRL_COMPARE_SOCKET) {
        if (core->in_next - 1 != msg->seq || core->out_next - 1 != msg->out_seq)
            return; /* not the same moment */
        if (flow->compare.hash != msg->hash) {
            differs(dp, flow);
            return;
        }
        shadow->in_seq = msg->seq;
        shadow->rcv_nxt = msg->rcv_nxt;
        shadow->snd_una = msg->snd_una;
        shadow->tries = DP_COMPARE_TRIES;
        if (dp->fed_count == DP_FED_MAX)
            dp_verify_flush(dp);
        dp->fed[dp->fed_count++] = (struct dp_fed){.slot = flow->slot};
        return;
    }
    for (int i = 0; i < 2; i++) {
        if (shadow->check_seq[i] != msg->seq || msg->seq == 0)
            continue;
        if (shadow->check_hash[i] != msg->hash)
            differs(dp, flow);
        else
            dp->counters.compared++;
    }
}

/* A shadow, or a session that was one: what it was fed is to be in its socket. */
static bool is_fed(const struct dp_flow *flow)
{
    return flow->secondary_core.state == PRL_SECONDARY_ACTIVE || flow->secondary_core.state == PRL_SECONDARY_OWNER;
}

bool dp_verify_is_due(const struct dp_flow *flow)
{
    const struct dp_compare *compare = &flow->compare;

    if (flow->secondary)
        return is_fed(flow) && (has_kept(flow) || flow->shadow.tries);
    return flow->primary.state == PRL_PRIMARY_ACTIVE && flow->kernel->key.proto == IPPROTO_TCP &&
           (flow->primary.in_next - 1 != compare->sent_in || flow->primary.out_next - 1 != compare->sent_out);
}

void dp_verify_tick(struct prl_dp *dp, struct dp_flow *flow)
{
    if (!flow->secondary) {
        compare_when_quiet(dp, flow);
        return;
    }
    if (!is_fed(flow))
        return;
    if (has_kept(flow))
        check_kept(dp, flow);
    if (flow->secondary_core.state == PRL_SECONDARY_ACTIVE)
        find_in_socket(dp, flow);
}
