/* SPDX-License-Identifier: BSD-2-Clause */
#include "flow/dp.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <zlib.h>

#include "wire/elide.h"
#include "tcp/moment.h"
#include "core/names.h"

static void mark_dirty(struct prl_dp *dp, struct dp_flow *flow)
{
    if (flow->dirty)
        return;
    flow->dirty = true;
    flow->next_dirty = dp->dirty;
    dp->dirty = flow->slot;
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

static void send_ack(struct prl_dp *dp, struct dp_flow *flow)
{
    struct prl_msg msg = {.handle = flow->spec.handle};

    if (prl_secondary_take_ack(&flow->secondary_core, dp_flow_own_edge(flow), &msg.seq, &msg.space)) {
        msg.type = PRL_MSG_ACK;
        dp_send(dp, &msg);
    }
    if (flow->secondary_core.out_ack_due &&
        prl_secondary_take_output_ack(&flow->secondary_core, push_out(dp, flow), &msg.seq, &msg.tcp_seq)) {
        msg.type = PRL_MSG_OUTPUT_ACK;
        dp_send(dp, &msg);
    }
}

void dp_secondary_flush_acks(struct prl_dp *dp)
{
    uint32_t slot = dp->dirty;

    dp->dirty = DP_LIST_END;
    while (slot != DP_LIST_END) {
        struct dp_flow *flow = &dp->flows[slot];

        slot = flow->next_dirty;
        flow->dirty = false;
        if (flow->secondary_core.state != PRL_SECONDARY_ACTIVE)
            continue;
        send_ack(dp, flow);
        if (flow->secondary_core.out_ack_due) /* not all of it is sent: looked at again in the next pass */
            mark_dirty(dp, flow);
    }
}

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
        send_ack(dp, flow);
        msg.space = dp_flow_own_edge(flow);
        msg.tcp_seq = flow->secondary_core.out_tcp_next;
    }
    dp_send(dp, &msg);
}

void dp_secondary_void(struct prl_dp *dp, struct dp_flow *flow, uint8_t reason)
{
    if (!prl_secondary_void(&flow->secondary_core, reason))
        return;
    dp_flow_set_flags(flow);
    dp_event_flow(dp, PRL_EVENT_SECONDARY, flow, flow->secondary_core.state, reason);
}

void dp_secondary_fence(struct prl_dp *dp, struct dp_flow *flow)
{
    if (!prl_secondary_fence(&flow->secondary_core))
        return;
    dp_flow_set_flags(flow);
    dp_event_flow(dp, PRL_EVENT_PRIMARY, flow, PRL_PRIMARY_GONE, PRL_REASON_OK);
}

void dp_secondary_give_up(struct prl_dp *dp, struct dp_flow *flow, uint8_t reason)
{
    struct prl_msg msg = {.type = PRL_MSG_ERROR, .handle = flow->spec.handle, .reason = reason};

    dp_secondary_void(dp, flow, reason);
    dp_send(dp, &msg);
}

void dp_secondary_void_all(struct prl_dp *dp, uint8_t reason)
{
    for (uint32_t i = 0; i < dp->flows_top; i++)
        if (dp->flows[i].used && dp->flows[i].secondary)
            dp_secondary_void(dp, &dp->flows[i], reason);
}

static void refuse(struct prl_dp *dp, struct dp_flow *flow, const struct prl_msg *msg, enum prl_verdict verdict,
                   uint8_t reason)
{
    send_nack(dp, flow, msg, reason);
    if (verdict == PRL_VERDICT_VOID)
        dp_secondary_void(dp, flow, reason);
}

/* ---- input ---- */

void dp_secondary_feed(struct prl_dp *dp, struct dp_flow *flow, struct iovec *piece, uint32_t pieces,
                       const struct prl_packet *packet, uint16_t lif)
{
    struct prl_reinject how = {
        .lif = lif,
        .vlans = flow->kernel->key.vlans,
        .mss = flow->spec.mss,
        .checked = packet->proto == IPPROTO_TCP || packet->proto == IPPROTO_UDP,
    };

    prl_gro_add(&dp->gro, flow->slot, &how, piece, pieces, packet);
    dp->counters.reinjected_packets++;
    dp->counters.reinjected_bytes += packet->l3_bytes;
}

static void replicate(struct prl_dp *dp, struct dp_flow *flow, const struct prl_msg *msg)
{
    struct iovec piece = {.iov_base = (void *)(uintptr_t)msg->data, .iov_len = msg->data_bytes};
    uint8_t reason = PRL_REASON_OK;
    struct prl_packet packet;
    enum prl_verdict verdict;
    uint32_t payload = 0;

    if (prl_packet_parse(msg->data, msg->data_bytes, msg->data_bytes, false, &packet) ||
        packet.l3_bytes != msg->data_bytes || msg->lif >= dp->config.lifs) {
        refuse(dp, flow, msg, PRL_VERDICT_VOID, PRL_REASON_MALFORMED);
        return;
    }
    if (!dp_flow_has_packet(flow, msg->data, &packet, msg->lif, msg->packet_flags)) {
        refuse(dp, flow, msg, PRL_VERDICT_VOID, PRL_REASON_MALFORMED);
        return;
    }
    if (!(msg->packet_flags & PRL_PACKET_ICMP)) {
        payload = packet.proto == IPPROTO_TCP ? packet.payload_bytes : !dp_udp_has_room(dp, flow, msg->data_bytes);
    }
    verdict = prl_secondary_replicate(&flow->secondary_core, msg->seq, msg->space, packet.seq + payload, payload,
                                      msg->data_bytes, dp_flow_own_edge(flow), &reason);
    if (verdict == PRL_VERDICT_IGNORE)
        return;
    if (verdict != PRL_VERDICT_ACCEPT) {
        refuse(dp, flow, msg, verdict, reason);
        return;
    }
    dp_flow_note_peer(flow, &packet);
    flow->last_input_ns = dp->now_ns;
    dp_verify_hash(flow, &piece, 1, &packet);
    dp_verify_accepted(flow, msg->seq);
    if (payload && packet.proto == IPPROTO_TCP) {
        flow->shadow.in_end = flow->shadow.in_end_known ? prl_serial_max(flow->shadow.in_end, packet.seq + payload)
                                                        : packet.seq + payload;
        flow->shadow.in_end_known = true;
    }
    PRL_PROBE3(reinject, flow->spec.handle, msg->seq, 0);
    dp_secondary_feed(dp, flow, &piece, 1, &packet, msg->lif);
    dp_verify_fed(dp, flow, msg, &packet);
    mark_dirty(dp, flow);
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

/* ---- output ---- */

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
    enum prl_verdict verdict = prl_secondary_reset(&flow->secondary_core, msg->seq, &reason);

    if (verdict != PRL_VERDICT_ACCEPT) {
        refuse(dp, flow, msg, verdict, reason);
        return;
    }
    send_ack(dp, flow);
    if (flow->secondary_core.out_ack_due)
        send_nack(dp, flow, msg, PRL_REASON_ENDED);
    dp_secondary_void(dp, flow, PRL_REASON_ENDED);
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
    verdict = prl_secondary_output(&flow->secondary_core, msg->seq, msg->tcp_seq, msg->data_bytes, &skip, &reason);
    if (verdict != PRL_VERDICT_ACCEPT) {
        refuse(dp, flow, msg, verdict, reason);
        return;
    }
    urgent = msg->urgent > skip && msg->urgent <= msg->data_bytes ? msg->urgent - skip : 0;
    dp_flush_input(dp); /* the ACK that opens the peer's window comes first */
    if (append(dp, flow, msg->data + skip, msg->data_bytes - skip, urgent, fin)) {
        dp->counters.append_short++;
        refuse(dp, flow, msg, PRL_VERDICT_VOID, PRL_REASON_NO_SPACE);
        return;
    }
    if (flow->spec.hash_output && msg->data_bytes > skip) /* crc32() of a NULL buffer begins anew */
        flow->shadow.out_hash = (uint32_t)crc32(flow->shadow.out_hash, msg->data + skip, msg->data_bytes - skip);
    prl_secondary_output_done(&flow->secondary_core, msg->data_bytes - skip, fin);
    mark_dirty(dp, flow);
}

/* ---- messages ---- */

void dp_secondary_message(struct prl_dp *dp, const struct prl_msg *msg)
{
    struct dp_flow *flow = dp_flow_by_handle(dp, msg->handle);

    if (flow && !flow->secondary)
        flow = NULL;
    if (flow)
        dp_flow_wake(dp, flow);
    switch (msg->type) {
    case PRL_MSG_REPLICATE:
    case PRL_MSG_OUTPUT:
        if (!flow)
            send_nack(dp, NULL, msg, PRL_REASON_INVALID_HANDLE);
        else if (msg->data_type == PRL_TLV_ELIDED)
            replicate_elided(dp, flow, msg);
        else if (msg->type == PRL_MSG_REPLICATE)
            replicate(dp, flow, msg);
        else
            output(dp, flow, msg);
        break;
    case PRL_MSG_VOID: {
        struct prl_msg answer = {.type = PRL_MSG_VOID_ACK, .handle = msg->handle, .generation = msg->generation};

        if (flow && flow->secondary_core.state == PRL_SECONDARY_OWNER)
            break; /* taken over: no word of ours may let the old primary open (I7) */
        if (flow && flow->spec.generation == msg->generation)
            dp_secondary_void(dp, flow, msg->reason);
        dp_send(dp, &answer);
        break;
    }
    case PRL_MSG_SETUP_DONE:
        if (flow)
            prl_secondary_confirm(&flow->secondary_core, msg->generation, msg->space);
        break;
    case PRL_MSG_COMPARE:
        if (flow)
            dp_verify_compare(dp, flow, msg);
        break;
    case PRL_MSG_CLOSE:
        if (flow && flow->spec.generation == msg->generation)
            dp_secondary_void(dp, flow, PRL_REASON_ENDED);
        break;
    default:
        break;
    }
}

void dp_secondary_space(struct prl_dp *dp, struct dp_flow *flow)
{
    struct prl_msg msg = {.type = PRL_MSG_FLOWCTL, .handle = flow->spec.handle};

    if (flow->secondary_core.state == PRL_SECONDARY_ACTIVE &&
        prl_secondary_space_grew(&flow->secondary_core, dp_flow_own_edge(flow), &msg.space))
        dp_send(dp, &msg);
}

/* ---- segments of our own making, as though from the peer ---- */

static int feed_crafted(struct prl_dp *dp, const struct dp_flow *flow, const struct prl_craft *craft)
{
    struct prl_reinject how = {.lif = flow->kernel->key.lif, .vlans = flow->kernel->key.vlans};
    uint8_t bytes[PRL_CRAFT_MAX];
    struct iovec piece = {.iov_base = bytes, .iov_len = prl_packet_craft(craft, bytes)};
    struct prl_packet packet;
    int err = prl_packet_parse(bytes, (uint32_t)piece.iov_len, (uint32_t)piece.iov_len, false, &packet);

    return err ? err : prl_tap_reinject(&dp->gro.tap, &how, &piece, 1, &packet);
}

/* The restored socket is ESTABLISHED. A segment without timestamps is accepted even where they are agreed upon
 * (net/ipv4/tcp_input.c, tcp_validate_incoming), and nothing is known of the peer's clock. */
int dp_secondary_replay(struct prl_dp *dp, struct dp_flow *flow, const struct prl_flow_spec *spec)
{
    struct prl_craft craft = {
        .key = &spec->key,
        .from_peer = true,
        .seq = spec->peer_seq,
        .window = (uint16_t)spec->peer_window,
        .tcp_flags = PRL_TCP_ACK,
        .md5 = dp_sign_key(flow),
    };

    if (spec->replay & PRL_REPLAY_OWN_FIN) {
        if (dp->io->sock_end(dp->host, flow->spec.fd))
            return -EAGAIN;
        prl_secondary_has_ended(&flow->secondary_core);
        craft.ack = spec->committed;
        if ((spec->replay & PRL_REPLAY_OWN_FIN_ACK) && feed_crafted(dp, flow, &craft))
            return -EAGAIN;
    }
    if (spec->replay & PRL_REPLAY_PEER_FIN) {
        craft.tcp_flags = PRL_TCP_ACK | PRL_TCP_FIN;
        craft.ack = flow->kernel->sock.snd_una;
        if (feed_crafted(dp, flow, &craft))
            return -EAGAIN;
    }
    dp_flow_sample(dp, flow);
    if (((spec->replay & PRL_REPLAY_PEER_FIN) && flow->kernel->sock.state != TCP_CLOSE_WAIT) ||
        ((spec->replay & PRL_REPLAY_OWN_FIN_ACK) && flow->kernel->sock.state != TCP_FIN_WAIT2))
        return -EAGAIN;
    return 0;
}

/* ---- take-over ---- */

/* A keepalive as though from the peer (RFC 9293, 3.8.4): the shadow answers at once with its newest ACK and window, so
 * that a peer whose ACKs died with the primary goes on, and every table on the way learns where the address is. Without
 * repair mode, which an application's calls would notice (FACT). */
static void kick(struct prl_dp *dp, struct dp_flow *flow)
{
    struct prl_craft craft = {
        .key = &flow->kernel->key,
        .from_peer = true,
        .seq = flow->kernel->sock.rcv_wup - 1, /* before the window, also when an ACK of ours is due */
        .ack = flow->kernel->sock.snd_una,
        .window = flow->peer_window,
        .tcp_flags = PRL_TCP_ACK,
        .has_timestamps = flow->has_peer_ts,
        .tsval = flow->peer_tsval,
        .tsecr = flow->peer_tsecr,
        .md5 = dp_sign_key(flow),
    };

    if (flow->spec.timestamps && !flow->has_peer_ts)
        return; /* nothing known of the peer's clock: the shadow would take it for an old duplicate */
    if (feed_crafted(dp, flow, &craft) == 0)
        dp->counters.crafted_acks++;
}

void dp_secondary_takeover(struct prl_dp *dp, struct dp_flow *flow)
{
    struct prl_event event = {
        .kind = PRL_EVENT_TAKEN_FLOW,
        .handle = flow->spec.handle,
        .generation = flow->spec.generation,
    };

    if (flow->kernel->key.proto == IPPROTO_UDP && dp_udp_diverged(dp, flow))
        dp_secondary_void(dp, flow, PRL_REASON_DIVERGED);
    bool was_active = flow->secondary_core.state == PRL_SECONDARY_ACTIVE;
    if (!prl_secondary_takeover(&flow->secondary_core)) {
        if (was_active) { /* never confirmed: it must not speak, and its application must know (L8) */
            dp_flow_set_flags(flow);
            dp_event_flow(dp, PRL_EVENT_SECONDARY, flow, flow->secondary_core.state, PRL_REASON_NOT_ACTIVE);
        }
        return;
    }
    dp_flow_set_flags(flow);
    if (flow->kernel->key.proto == IPPROTO_TCP) {
        const char *congestion = dp->congestion[flow->shadow.congestion];

        dp->io->sock_set(dp->host, flow->spec.fd, IPPROTO_TCP, TCP_CONGESTION, congestion,
                         (uint32_t)strnlen(congestion, sizeof(dp->congestion[0])));
        if (flow->has_peer_ts)
            dp->io->moment_keep_ahead(dp->host, flow->spec.fd, flow->peer_tsecr,
                                      (uint32_t)((dp_clock_ns(dp) - flow->last_input_ns) / 1000000));
        dp_verify_refeed(dp, flow);
        dp_flow_sample(dp, flow);
        flow->shadow.relay_next = flow->kernel->sock.rcv_nxt;
        if (flow->shadow.in_end_known)
            flow->shadow.relay_next = prl_serial_max(flow->shadow.relay_next, flow->shadow.in_end);
        kick(dp, flow);
    } else {
        dp_udp_mark(dp, flow, false);
    }
    PRL_PROBE5(flow, "secondary", prl_secondary_state_name(flow->secondary_core.state), event.handle,
               event.generation, prl_reason_name(PRL_REASON_OK));
    event.value = flow->secondary_core.out_bytes;
    event.value2 = dp_clock_ns(dp);
    dp_event(dp, &event, NULL, 0);
}
