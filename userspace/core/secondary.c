/* SPDX-License-Identifier: BSD-2-Clause */
#include "core/secondary.h"

#include <string.h>

#include "tcp/serial.h"
#include "wire/wire.h"

void prl_secondary_open(struct prl_secondary *flow, uint32_t handle, uint32_t generation, uint32_t out_tcp_next,
                        uint32_t own_edge, int space_known)
{
    memset(flow, 0, sizeof(*flow));
    flow->handle = handle;
    flow->generation = generation;
    flow->state = PRL_SECONDARY_ACTIVE;
    flow->space_known = space_known != 0;
    flow->in_next = PRL_SEQ_FIRST;
    flow->out_next = PRL_SEQ_FIRST;
    flow->in_accepted = PRL_SEQ_FIRST - 1;
    flow->out_tcp_next = out_tcp_next;
    flow->announced_edge = own_edge;
    flow->primary_edge = own_edge;
}

void prl_secondary_has_ended(struct prl_secondary *flow)
{
    flow->fin_done = 1;
}

bool prl_secondary_confirm(struct prl_secondary *flow, uint32_t generation, uint32_t space)
{
    if ((flow->state != PRL_SECONDARY_ACTIVE && flow->state != PRL_SECONDARY_SUSPENDED) ||
        flow->generation != generation)
        return false;
    if (flow->state == PRL_SECONDARY_SUSPENDED)
        flow->ack_due = flow->out_ack_due = 1;
    flow->state = PRL_SECONDARY_ACTIVE;
    flow->confirmed = 1;
    flow->primary_edge = prl_serial_max(flow->primary_edge, space);
    return true;
}

/* The reason to refuse a message at all, or OK. */
static uint8_t not_active(struct prl_secondary *flow)
{
    if (flow->state == PRL_SECONDARY_ACTIVE)
        return PRL_REASON_OK;
    flow->counters.nacks_not_active++;
    return flow->state == PRL_SECONDARY_GONE ? PRL_REASON_INVALID_HANDLE : PRL_REASON_NOT_ACTIVE;
}

static enum prl_verdict diverged(struct prl_secondary *flow, uint8_t *reason)
{
    prl_secondary_void(flow, PRL_REASON_DIVERGED);
    *reason = PRL_REASON_DIVERGED;
    return PRL_VERDICT_VOID;
}

enum prl_verdict prl_secondary_replicate(struct prl_secondary *flow, uint32_t seq, uint32_t space,
                                         uint32_t tcp_end, uint32_t payload_bytes, uint32_t packet_bytes,
                                         uint32_t own_edge, uint8_t *reason)
{
    *reason = not_active(flow);
    if (*reason != PRL_REASON_OK)
        return PRL_VERDICT_NACK;
    if (flow->refusing && seq != flow->in_next && prl_serial_lt(flow->in_next, seq)) {
        flow->counters.ignored++;
        return PRL_VERDICT_IGNORE;
    }
    if (seq != flow->in_next)
        return diverged(flow, reason);
    flow->confirmed = 1;
    flow->primary_edge = prl_serial_max(flow->primary_edge, space);
    if (flow->space_known && payload_bytes && prl_serial_lt(own_edge, tcp_end)) {
        flow->counters.nacks_space++;
        flow->refusing = flow->nack_retry;
        if (!flow->nack_retry) {
            flow->has_refused = 1;
            flow->refused = seq;
        }
        flow->in_next += !flow->nack_retry;
        *reason = PRL_REASON_NO_SPACE;
        return PRL_VERDICT_NACK;
    }
    flow->refusing = 0;
    flow->in_next++;
    flow->in_accepted = seq;
    flow->ack_due = 1;
    flow->counters.accepted_packets++;
    flow->counters.accepted_bytes += packet_bytes;
    return PRL_VERDICT_ACCEPT;
}

enum prl_verdict prl_secondary_output(struct prl_secondary *flow, uint32_t seq, uint32_t tcp_seq,
                                      uint32_t payload_bytes, uint32_t *skip_bytes, uint8_t *reason)
{
    uint32_t data_end = flow->out_tcp_next - flow->fin_done;
    uint32_t known_bytes = prl_serial_lt(tcp_seq, data_end) ? data_end - tcp_seq : 0;

    *skip_bytes = 0;
    *reason = not_active(flow);
    if (*reason != PRL_REASON_OK)
        return PRL_VERDICT_NACK;
    if (seq != flow->out_next)
        return diverged(flow, reason);
    flow->confirmed = 1;
    if (prl_serial_lt(flow->out_tcp_next, tcp_seq))
        return diverged(flow, reason); /* a hole */
    *skip_bytes = known_bytes < payload_bytes ? known_bytes : payload_bytes;
    if (flow->fin_done && *skip_bytes < payload_bytes)
        return diverged(flow, reason); /* payload behind the FIN */
    return PRL_VERDICT_ACCEPT;
}

void prl_secondary_output_done(struct prl_secondary *flow, uint32_t appended_bytes, bool fin)
{
    flow->out_next++;
    flow->out_tcp_next += appended_bytes;
    flow->out_bytes += appended_bytes;
    if (fin && !flow->fin_done) {
        flow->fin_done = 1;
        flow->out_tcp_next++;
    }
    flow->out_ack_due = 1;
    flow->counters.output_packets++;
    flow->counters.output_bytes += appended_bytes;
}

enum prl_verdict prl_secondary_reset(struct prl_secondary *flow, uint32_t seq, uint8_t *reason)
{
    *reason = not_active(flow);
    if (*reason != PRL_REASON_OK)
        return PRL_VERDICT_NACK;
    if (seq != flow->out_next)
        return diverged(flow, reason);
    flow->confirmed = 1;
    flow->out_next++;
    flow->out_ack_due = 1;
    flow->counters.output_packets++;
    return PRL_VERDICT_ACCEPT;
}

bool prl_secondary_take_ack(struct prl_secondary *flow, uint32_t own_edge, uint32_t *seq, uint32_t *space)
{
    if (!flow->ack_due)
        return false;
    flow->ack_due = 0;
    flow->announced_edge = prl_serial_max(flow->announced_edge, own_edge);
    *seq = flow->in_accepted;
    *space = flow->announced_edge;
    flow->counters.acks++;
    return true;
}

bool prl_secondary_take_output_ack(struct prl_secondary *flow, uint32_t unsent_bytes, uint32_t *seq,
                                   uint32_t *tcp_seq)
{
    uint32_t sent = flow->out_tcp_next - unsent_bytes;
    bool reached = flow->marked && prl_serial_le(flow->out_mark_tcp, sent);

    if (!flow->out_ack_due)
        return false;
    if (unsent_bytes == 0) {
        flow->out_ack_due = 0;
        flow->marked = 0;
        *seq = flow->out_next - 1;
        *tcp_seq = flow->out_tcp_next;
    } else if (reached) {
        *seq = flow->out_mark;
        *tcp_seq = flow->out_mark_tcp;
    }
    if (unsent_bytes && (reached || !flow->marked)) { /* one mark at a time: a busy stream is never quite sent */
        flow->marked = 1;
        flow->out_mark = flow->out_next - 1;
        flow->out_mark_tcp = flow->out_tcp_next;
    }
    if (unsent_bytes && !reached)
        return false;
    flow->counters.acks++;
    return true;
}

bool prl_secondary_space_grew(struct prl_secondary *flow, uint32_t own_edge, uint32_t *space)
{
    if (flow->state != PRL_SECONDARY_ACTIVE || !flow->space_known ||
        !prl_serial_lt(flow->announced_edge, own_edge))
        return false;
    flow->announced_edge = own_edge;
    *space = own_edge;
    return true;
}

bool prl_secondary_suspend(struct prl_secondary *flow)
{
    if (flow->state != PRL_SECONDARY_ACTIVE || !flow->confirmed)
        return false;
    flow->state = PRL_SECONDARY_SUSPENDED;
    return true;
}

bool prl_secondary_void(struct prl_secondary *flow, uint8_t reason)
{
    if (flow->state != PRL_SECONDARY_ACTIVE && flow->state != PRL_SECONDARY_SUSPENDED)
        return false;
    flow->state = PRL_SECONDARY_VOID;
    flow->reason = reason;
    return true;
}

bool prl_secondary_fence(struct prl_secondary *flow)
{
    if (!prl_secondary_is_taken(flow))
        return false;
    flow->state = PRL_SECONDARY_VOID;
    return true;
}

bool prl_secondary_is_taken(const struct prl_secondary *flow)
{
    return flow->state == PRL_SECONDARY_TAKING || flow->state == PRL_SECONDARY_OWNER;
}

bool prl_secondary_takeover(struct prl_secondary *flow)
{
    if (flow->state == PRL_SECONDARY_ACTIVE && flow->confirmed) {
        flow->state = PRL_SECONDARY_TAKING;
        return true;
    }
    prl_secondary_void(flow, PRL_REASON_NOT_ACTIVE);
    return false;
}

bool prl_secondary_go_on(struct prl_secondary *flow)
{
    if (flow->state != PRL_SECONDARY_TAKING)
        return false;
    flow->state = PRL_SECONDARY_OWNER;
    return true;
}
