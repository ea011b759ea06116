/* SPDX-License-Identifier: BSD-2-Clause */
#include "path/apply.h"

#include <assert.h>
#include <linux/virtio_net.h>
#include <netinet/in.h>

#include "flow/dp.h"
#include "flow/lend.h"
#include "flow/send.h"
#include "flow/wake.h"
#include "path/birth.h"
#include "path/compare.h"
#include "path/mirror.h"
#include "path/reinject.h"
#include "path/shadow.h"
#include "path/sign.h"
#include "path/verify.h"
#include "path/window.h"
#include "wire/elide.h"

/* R15: leaves the L3 header out where it comes back exactly. piece[0] is for the fields that take its place, the
 * packet begins in piece[1]. Returns the first piece to send. */
static uint32_t elide(const struct prl_dp *dp, const struct dp_flow *flow, const struct prl_packet *packet,
                      struct iovec *piece, uint8_t fields[PRL_ELIDED_FIELDS], struct prl_msg *msg)
{
    int left_out;

    if (!(dp->capabilities & PRL_CAP_L3_ELISION) || prl_key_is_unconnected(&flow->kernel->key))
        return 1;
    left_out = prl_elide(piece[1].iov_base, packet, &flow->kernel->key, fields);
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
    uint32_t pieces = 1 + dp_hold_pieces(dp, hold, piece + 1);
    const struct prl_packet *packet = dp_hold_packet(&dp->held, hold);
    uint8_t fields[PRL_ELIDED_FIELDS];
    uint32_t first;
    struct prl_msg msg = {
        .type = PRL_MSG_REPLICATE,
        .handle = flow->spec.handle,
        .seq = hold->seq,
        .space = dp_primary_of(flow)->own_edge,
        .lif = hold->lif,
        .packet_flags = hold->packet_flags,
        .data_bytes = hold->bytes,
    };

    assert(dp_hold_has_bytes(hold));
    PRL_PROBE3(replicate, flow->spec.handle, hold->seq, hold->bytes);
    dp_hold_copied(dp, hold);
    msg.number = dp_hold_number(&dp->held, hold);
    if (msg.number) {
        msg.type = PRL_MSG_MIRRORED;
        msg.whole_bytes = hold->bytes;
        msg.data_bytes = piece[1].iov_len = packet->data_offset; /* all headers are in the first piece */
        dp->counters.mirrored_packets++;
        dp_mirror_sent(dp);
        dp_put(dp, &msg, piece + 1, 1);
        return;
    }
    first = elide(dp, flow, packet, piece, fields, &msg);
    if (dp_put(dp, &msg, piece + first, pieces - first) == 0 && msg.data_type == PRL_TLV_ELIDED) {
        dp->counters.link_elided_packets++;
        dp->counters.link_elided_bytes += hold->bytes - msg.data_bytes;
    }
}

static void do_relay(struct prl_dp *dp, struct dp_flow *flow, const struct prl_hold *hold)
{
    struct iovec piece[PRL_PACKET_PIECES_MAX];
    uint32_t pieces = dp_hold_pieces(dp, hold, piece);
    struct prl_msg msg = {
        .type = PRL_MSG_RELAY,
        .handle = flow->spec.handle,
        .lif = hold->lif,
        .packet_flags = hold->packet_flags,
        .data_bytes = hold->bytes,
    };

    assert(dp_hold_has_bytes(hold));
    dp_put(dp, &msg, piece, pieces);
}

static void do_output(struct prl_dp *dp, struct dp_flow *flow, const struct prl_hold *hold)
{
    const struct prl_packet *packet = dp_hold_packet(&dp->held, hold);
    uint32_t bytes;
    uint8_t *frame = dp_hold_frame(&dp->held, hold, &bytes) + sizeof(struct virtio_net_hdr);
    struct prl_msg msg = {
        .type = PRL_MSG_OUTPUT,
        .handle = flow->spec.handle,
        .seq = hold->seq,
        .tcp_seq = hold->tcp_seq,
        .bits = hold->bits,
        .data = frame + packet->l2_bytes + packet->data_offset,
        .data_bytes = packet->payload_bytes,
        .urgent = packet->urgent <= packet->payload_bytes ? packet->urgent : 0, /* else a later segment says it */
    };
    struct iovec piece = {
        .iov_base = frame + packet->l2_bytes + packet->data_offset,
        .iov_len = packet->payload_bytes,
    };

    PRL_PROBE3(output, flow->spec.handle, hold->seq, packet->payload_bytes);
    dp_put(dp, &msg, &piece, 1);
}

static void prefetch(const struct prl_dp *dp, const struct prl_hold *hold)
{
    if (dp_hold_has_bytes(hold))
        prl_umem_prefetch(dp->umem, (uint32_t)hold->frame);
    __builtin_prefetch(dp_hold_packet(&dp->held, hold));
}

static uint64_t sum_of(const struct prl_dp *dp, const struct prl_hold *hold, const struct iovec *piece,
                       uint32_t pieces)
{
    uint32_t entry = (uint32_t)(hold - dp->held.pool.slab);

    if (dp->held.queued[entry]) /* what goes to the stack is not here */
        return dp->held.sum[entry];
    return prl_packet_payload_sum(piece, pieces, dp_hold_packet(&dp->held, hold));
}

static void release_input(struct prl_dp *dp, struct dp_flow *flow, struct prl_chain *chain)
{
    struct prl_hold *hold;

    while ((hold = prl_chain_pop(chain))) {
        struct iovec piece[PRL_PACKET_PIECES_MAX];
        uint32_t pieces = dp_hold_pieces(dp, hold, piece);
        const struct prl_packet *packet = dp_hold_packet(&dp->held, hold);

        if (chain->head)
            prefetch(dp, chain->head);
        PRL_PROBE3(reinject, flow->spec.handle, hold->seq, dp->now_ns - hold->arrived_ns);
        if (dp_primary_of(flow)->state == PRL_PRIMARY_ACTIVE) {
            dp_compare_hash(flow, sum_of(dp, hold, piece, pieces), packet);
            dp_compare_released(dp, flow, hold->seq);
            if (dp_hold_number(&dp->held, hold))
                dp_mirror_acknowledged(dp, flow);
        }
        prl_hold_times_add(&dp->held.in, dp->now_ns - hold->arrived_ns);
        dp_reinject_held(dp, flow, hold, piece, pieces);
    }
}

static void release_output(struct prl_dp *dp, struct dp_flow *flow, struct prl_chain *chain)
{
    struct prl_hold *hold;

    while ((hold = prl_chain_pop(chain))) {
        uint32_t bytes;
        uint8_t *frame = dp_hold_frame(&dp->held, hold, &bytes);

        PRL_PROBE3(output_release, flow->spec.handle, hold->tcp_end, dp->now_ns - hold->arrived_ns);
        dp_sign_release(dp, flow, frame, dp_hold_packet(&dp->held, hold));
        if (dp->io->hold_write(dp->host, frame, bytes))
            dp->counters.release_failed++; /* TCP sends it again: it is committed and passes unheld */
        dp->counters.released_out_packets++;
        prl_hold_times_add(&dp->held.out, dp->now_ns - hold->arrived_ns);
        dp_hold_free(dp, hold);
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
        .space = dp_primary_of(flow)->own_edge,
    };

    dp_send(dp, &msg);
}

/* What was captured and not read yet would be overtaken by what passes by itself: a session that opens stays in our hands until it is
 * quiet (dp_relay_settle). */
static void keep_in_hands(struct prl_dp *dp, struct dp_flow *flow)
{
    if (dp_primary_of(flow)->state != PRL_PRIMARY_OPEN || flow->kernel->key.proto != IPPROTO_TCP ||
        !(flow->kernel->flags & PRL_FLOW_CAPTURED))
        return;
    flow->relaying = true;
    flow->relay_ticks = 0;
    flow->last_input_ns = dp->now_ns;
}

/* Whether what was let go has to be the stack's before the state counts. Not where input goes on coming by us, behind it: then it
 * waits for what the other flows of a sweep let go, for all at once takes the kernel much less time (io/queue.c). */
static bool comes_first(const struct dp_flow *flow)
{
    uint8_t state = dp_primary_of(flow)->state;

    return state != PRL_PRIMARY_ALONE && !(state == PRL_PRIMARY_OPEN && flow->relaying);
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
                dp_hold_free(dp, hold);
            }
            if (action->reason == PRL_REASON_NO_SPACE)
                dp_window_say(dp, flow);
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
            keep_in_hands(dp, flow);
            if (comes_first(flow))
                dp_reinject_flush(dp);
            dp_flow_set_flags(flow);
            if (dp_primary_of(flow)->state == PRL_PRIMARY_OPEN) {
                dp_birth_say(dp, flow);
                dp_window_reopen(dp, flow);
            }
            dp_event_flow(dp, PRL_EVENT_PRIMARY, flow, dp_primary_of(flow)->state, action->reason);
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
    bool more = dp_primary_of(flow)->state != PRL_PRIMARY_MOVED || dp->link_up;

    for (uint32_t i = 0; more && i < PRL_DP_HOLDS; i++) {
        if (!dp_has_bulk_room(dp, PRL_ACTIONS_MAX * PRL_PACKET_MAX) && prl_link_flush(&dp->link) == 0 &&
            !dp_has_bulk_room(dp, PRL_ACTIONS_MAX * PRL_PACKET_MAX))
            break; /* dp_flows_tick() goes on with it */
        more = prl_primary_drain(dp_primary_of(flow), dp_flow_own_edge(flow), dp->now_ns, &dp->config.limits,
                                 &actions);
        dp_apply(dp, flow, &actions);
    }
}

void dp_flow_forget(struct prl_dp *dp, struct dp_flow *flow)
{
    struct prl_actions actions = {0};

    if (flow->secondary) {
        struct dp_unfed *unfed = dp_shadow_of(flow)->unfed;

        if (unfed)
            dp_hold_free_all(dp, &unfed->waiting);
        dp_verify_forget(dp, flow);
        dp_mirror_forget(dp, flow);
        dp_shadow_settle(dp, flow);
        assert(!dp_shadow_of(flow)->unfed);
    } else {
        prl_primary_fence(dp_primary_of(flow), &actions);
        dp_apply(dp, flow, &actions);
        assert(!dp_primary_of(flow)->queues);
    }
    dp_shadow_owes_nothing(dp, flow);
    dp_reinject_flush(dp);
    dp_flow_remove(dp, flow);
}
