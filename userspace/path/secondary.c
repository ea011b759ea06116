/* SPDX-License-Identifier: BSD-2-Clause */
#include "path/secondary.h"

#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <zlib.h>

#include "flow/dp.h"
#include "flow/send.h"
#include "flow/udp.h"
#include "flow/wake.h"
#include "path/compare.h"
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
    verdict = prl_secondary_replicate(dp_secondary_of(flow), msg->seq, msg->space, packet.seq + payload, payload,
                                      msg->data_bytes, dp_flow_own_edge(flow), &reason);
    if (verdict == PRL_VERDICT_IGNORE)
        return;
    if (verdict != PRL_VERDICT_ACCEPT) {
        refuse(dp, flow, msg, verdict, reason);
        return;
    }
    dp_flow_note_peer(flow, &packet);
    flow->last_input_ns = dp->now_ns;
    dp_compare_hash(flow, prl_packet_payload_sum(&piece, 1, &packet), &packet);
    dp_compare_accepted(flow, msg->seq);
    if (payload && packet.proto == IPPROTO_TCP) {
        struct dp_shadow *shadow = dp_shadow_of(flow);
        uint32_t end = packet.seq + payload;

        shadow->in_end = shadow->in_end_known ? prl_serial_max(shadow->in_end, end) : end;
        shadow->in_end_known = true;
    }
    PRL_PROBE3(reinject, flow->spec.handle, msg->seq, 0);
    dp_reinject(dp, flow, &piece, 1, &packet, msg->lif);
    dp_verify_fed(dp, flow, msg, &packet);
    dp_shadow_owes(dp, flow);
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
