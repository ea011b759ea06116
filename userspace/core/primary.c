/* SPDX-License-Identifier: BSD-2-Clause */
#include "core/primary.h"

#include <assert.h>
#include <string.h>

#include "tcp/serial.h"
#include "wire/wire.h"

static struct prl_action *add(struct prl_actions *out, uint8_t kind)
{
    struct prl_action *action = &out->action[out->count++];

    assert(out->count <= PRL_ACTIONS_MAX);
    memset(action, 0, sizeof(*action));
    action->kind = kind;
    return action;
}

/* Hands a whole chain to the datapath; nothing when it is empty. */
static void add_chain(struct prl_actions *out, uint8_t kind, struct prl_chain *chain)
{
    if (!chain->head)
        return;
    add(out, kind)->chain = *chain;
    memset(chain, 0, sizeof(*chain));
}

/* Hands one entry to the datapath, in the chain of the action before when that is of the same kind. */
static void add_one(struct prl_actions *out, uint8_t kind, struct prl_hold *hold)
{
    struct prl_action *last = out->count ? &out->action[out->count - 1] : NULL;

    if (!last || last->kind != kind)
        last = add(out, kind);
    prl_chain_push(&last->chain, hold);
}

/* Drops are handed to the datapath with the name of the counter that counts them. */
static void drop_one(struct prl_actions *out, struct prl_hold *hold, uint32_t *counter, const char *name)
{
    struct prl_action *last = out->count ? &out->action[out->count - 1] : NULL;

    (*counter)++;
    if (!last || last->kind != PRL_DO_DROP || last->counter != name)
        last = add(out, PRL_DO_DROP);
    last->counter = name;
    prl_chain_push(&last->chain, hold);
}

static void drop_chain(struct prl_actions *out, struct prl_chain *chain, uint32_t *counter, const char *name)
{
    *counter += chain->count;
    if (chain->head) {
        add_chain(out, PRL_DO_DROP, chain);
        out->action[out->count - 1].counter = name;
    }
}

/* The peer sent more than both sides can take: that is answered, or a peer that probes a closed window takes us for dead. */
static void refuse_one(struct prl_actions *out, struct prl_hold *hold, uint32_t *counter, const char *name)
{
    drop_one(out, hold, counter, name);
    out->action[out->count - 1].reason = PRL_REASON_NO_SPACE;
}

#define REFUSE_ONE(out, hold, counters, member) refuse_one(out, hold, &(counters)->member, #member)
#define DROP_ONE(out, hold, counters, member) drop_one(out, hold, &(counters)->member, #member)
#define DROP_CHAIN(out, chain, counters, member) drop_chain(out, chain, &(counters)->member, #member)

static void set_state(struct prl_primary *flow, uint8_t state, uint8_t reason, struct prl_actions *out)
{
    flow->state = state;
    flow->reason = reason;
    add(out, PRL_DO_STATE)->reason = reason;
}

static bool is_full(const struct prl_chain *pending, const struct prl_chain *held, uint32_t bytes,
                    const struct prl_primary_limits *limits)
{
    uint64_t sum_bytes = (uint64_t)pending->bytes + held->bytes + bytes;

    return (uint64_t)pending->count + held->count >= limits->packets_max || sum_bytes > limits->bytes_max;
}

static void disarm(struct prl_primary *flow)
{
    flow->deadline_ns = 0;
    if (flow->queues)
        flow->queues->in_deadline_ns = flow->queues->out_deadline_ns = 0;
}

static bool all_empty(const struct prl_queues *queues)
{
    return !queues->in_pending.head && !queues->in_held.head && !queues->relayed.head &&
           !queues->out_pending.head && !queues->out_held.head;
}

bool prl_primary_is_quiet(const struct prl_primary *flow)
{
    return !flow->queues || all_empty(flow->queues);
}

/* R6: the deadline is that of the oldest unanswered message; arrived_ns of a held entry is when it was sent. */
static uint64_t oldest_deadline_ns(const struct prl_chain *held, const struct prl_primary_limits *limits)
{
    return held->head ? held->head->arrived_ns + limits->answer_ns : 0;
}

void prl_primary_enter(struct prl_primary *flow, uint32_t handle, uint32_t generation)
{
    if (flow->state != PRL_PRIMARY_GONE)
        return;
    flow->handle = handle;
    flow->generation = generation;
    flow->state = PRL_PRIMARY_OPEN;
}

void prl_primary_open(struct prl_primary *flow, uint32_t handle, uint32_t generation, uint64_t now_ns,
                      const struct prl_primary_limits *limits, struct prl_actions *out)
{
    struct prl_primary_counters counters = flow->counters;
    struct prl_queues *queues = flow->queues;
    bool same_flow = flow->handle == handle;

    out->count = 0;
    if (flow->state != PRL_PRIMARY_GONE && flow->state != PRL_PRIMARY_OPEN)
        return;
    memset(flow, 0, sizeof(*flow));
    if (same_flow)
        flow->counters = counters;
    flow->queues = queues;
    flow->handle = handle;
    flow->generation = generation;
    flow->in_next = flow->out_next = PRL_SEQ_FIRST;
    flow->in_acked = flow->out_acked = PRL_SEQ_FIRST - 1;
    flow->deadline_ns = now_ns + limits->setup_ns;
    set_state(flow, PRL_PRIMARY_SETUP, PRL_REASON_OK, out);
}

/* R3: one packet through the normal path. */
static void send_input(struct prl_primary *flow, struct prl_hold *hold, uint64_t now_ns,
                       const struct prl_primary_limits *limits, struct prl_actions *out)
{
    bool has_payload = hold->tcp_end != hold->tcp_seq;
    uint32_t edge = prl_serial_min(flow->own_edge, flow->peer_edge);

    if (flow->space_known && has_payload && prl_serial_lt(edge, hold->tcp_end)) {
        REFUSE_ONE(out, hold, &flow->counters, dropped_space);
        return;
    }
    hold->seq = flow->in_next++;
    hold->arrived_ns = now_ns;
    prl_chain_push(&flow->queues->in_held, hold);
    flow->queues->in_deadline_ns = oldest_deadline_ns(&flow->queues->in_held, limits);
    flow->counters.replicated_packets++;
    flow->counters.replicated_bytes += hold->bytes;
    add(out, PRL_DO_REPLICATE)->hold = hold;
}

/* R19: one segment; what the shadow has sent already (or what says nothing) need not wait. */
static void send_output(struct prl_primary *flow, struct prl_hold *hold, uint64_t now_ns,
                        const struct prl_primary_limits *limits, struct prl_actions *out)
{
    bool is_empty = hold->tcp_end == hold->tcp_seq;

    if (!hold->bits && (is_empty || prl_serial_le(hold->tcp_end, flow->committed))) {
        flow->counters.output_released++;
        add_one(out, PRL_DO_RELEASE_OUTPUT, hold);
        return;
    }
    if (!(hold->bits & PRL_OUTPUT_RST)) {
        if (prl_serial_lt(flow->out_tcp_next, hold->tcp_seq)) {
            DROP_ONE(out, hold, &flow->counters, dropped_hole);
            return;
        }
        flow->out_tcp_next = prl_serial_max(flow->out_tcp_next, hold->tcp_end);
    }
    hold->seq = flow->out_next++;
    hold->arrived_ns = now_ns;
    prl_chain_push(&flow->queues->out_held, hold);
    flow->queues->out_deadline_ns = oldest_deadline_ns(&flow->queues->out_held, limits);
    flow->counters.output_packets++;
    flow->counters.output_bytes += hold->bytes;
    add(out, PRL_DO_OUTPUT)->hold = hold;
}

/* Everything that waits goes where it was bound for, in order, before the kernel lets newer packets pass. */
static void open_up(struct prl_primary *flow, uint8_t reason, struct prl_actions *out)
{
    struct prl_queues *queues = flow->queues;

    if (queues) {
        prl_chain_append(&queues->in_held, &queues->relayed);
        prl_chain_append(&queues->in_held, &queues->in_pending);
        prl_chain_append(&queues->out_held, &queues->out_pending);
        flow->counters.flushed_packets += queues->in_held.count;
        flow->counters.output_flushed += queues->out_held.count;
        add_chain(out, PRL_DO_RELEASE_INPUT, &queues->in_held);
        add_chain(out, PRL_DO_RELEASE_OUTPUT, &queues->out_held);
    }
    disarm(flow);
    flow->resume = PRL_RESUME_NOT;
    set_state(flow, PRL_PRIMARY_OPEN, reason, out);
}

/* Whether a packet must wait or be replicated; one that need not, or cannot, is dealt with here: a flow that is open
 * passes it (`release`), one that is gone drops it, and one whose queue is full drops it, too. */
static bool must_wait(struct prl_primary *flow, struct prl_hold *hold, uint8_t release,
                      const struct prl_chain *pending, const struct prl_chain *held,
                      const struct prl_primary_limits *limits, struct prl_actions *out)
{
    struct prl_primary_counters *counters = &flow->counters;

    if (flow->state == PRL_PRIMARY_OPEN || flow->state == PRL_PRIMARY_ALONE) {
        (*(hold->is_output ? &counters->output_flushed : &counters->flushed_packets))++;
        add_one(out, release, hold);
        if (flow->state == PRL_PRIMARY_ALONE) /* L10: its shadow will never have this one */
            open_up(flow, flow->reason, out);
        return false;
    }
    if (flow->state == PRL_PRIMARY_GONE) {
        DROP_ONE(out, hold, counters, dropped_fenced);
        return false;
    }
    if (is_full(pending, held, hold->bytes, limits)) {
        DROP_ONE(out, hold, counters, dropped_full);
        return false;
    }
    return true;
}

void prl_primary_input(struct prl_primary *flow, struct prl_hold *hold, uint32_t own_edge, uint64_t now_ns,
                       const struct prl_primary_limits *limits, struct prl_actions *out)
{
    struct prl_queues *queues = flow->queues;

    assert(queues);
    out->count = 0;
    hold->is_output = 0;
    hold->arrived_ns = now_ns;
    if (!must_wait(flow, hold, PRL_DO_RELEASE_INPUT, &queues->in_pending, &queues->in_held, limits, out))
        return;
    if (flow->state == PRL_PRIMARY_ACTIVE && !queues->in_pending.head && !flow->held_back) {
        flow->own_edge = own_edge;
        send_input(flow, hold, now_ns, limits, out);
    } else {
        prl_chain_push(&queues->in_pending, hold);
    }
}

void prl_primary_output(struct prl_primary *flow, struct prl_hold *hold, uint64_t now_ns,
                        const struct prl_primary_limits *limits, struct prl_actions *out)
{
    struct prl_queues *queues = flow->queues;

    assert(queues);
    out->count = 0;
    hold->is_output = 1;
    hold->arrived_ns = now_ns;
    if (!must_wait(flow, hold, PRL_DO_RELEASE_OUTPUT, &queues->out_pending, &queues->out_held, limits, out))
        return;
    if (flow->state == PRL_PRIMARY_ACTIVE && !queues->out_pending.head && !flow->held_back)
        send_output(flow, hold, now_ns, limits, out);
    else
        prl_chain_push(&queues->out_pending, hold);
}

void prl_primary_activate(struct prl_primary *flow, uint32_t committed, uint32_t own_edge, uint32_t peer_edge,
                          int space_known, uint64_t now_ns, struct prl_actions *out)
{
    (void)now_ns;
    out->count = 0;
    if (flow->state != PRL_PRIMARY_SETUP)
        return;
    disarm(flow);
    flow->committed = committed;
    flow->out_tcp_next = committed;
    flow->own_edge = own_edge;
    flow->peer_edge = peer_edge;
    flow->space_known = space_known != 0;
    add(out, PRL_DO_COMMIT)->seq = committed;
    add(out, PRL_DO_SEND_ACTIVE);
    set_state(flow, PRL_PRIMARY_ACTIVE, PRL_REASON_OK, out);
}

static bool may_send_input(const struct prl_primary *flow, uint64_t now_ns)
{
    const struct prl_queues *queues = flow->queues;

    return queues->retry_at_ns <= now_ns ||
           (queues->in_pending.head && prl_serial_le(queues->in_pending.head->tcp_end, flow->peer_edge) &&
            prl_serial_lt(queues->retry_edge, flow->peer_edge));
}

bool prl_primary_wants_drain(const struct prl_primary *flow, uint64_t now_ns)
{
    const struct prl_queues *queues = flow->queues;

    if (!queues)
        return false;
    if (flow->state == PRL_PRIMARY_MOVED)
        return queues->in_pending.head;
    return flow->state == PRL_PRIMARY_ACTIVE && !flow->held_back &&
           (queues->out_pending.head || (queues->in_pending.head && may_send_input(flow, now_ns)));
}

/* R21: one packet after the other to the new owner; a copy stays until that one has spoken. */
static bool relay_pending(struct prl_primary *flow, struct prl_actions *out)
{
    struct prl_queues *queues = flow->queues;

    while (out->count + 2 <= PRL_ACTIONS_MAX && queues->in_pending.head) {
        struct prl_hold *hold = prl_chain_pop(&queues->in_pending);

        flow->counters.relayed++;
        add(out, PRL_DO_RELAY)->hold = hold;
        if (flow->held_back)
            prl_chain_push(&queues->relayed, hold);
        else
            DROP_ONE(out, hold, &flow->counters, dropped_moved);
    }
    return queues->in_pending.head;
}

bool prl_primary_drain(struct prl_primary *flow, uint32_t own_edge, uint64_t now_ns,
                       const struct prl_primary_limits *limits, struct prl_actions *out)
{
    struct prl_queues *queues = flow->queues;

    out->count = 0;
    if (!queues)
        return false;
    if (flow->state == PRL_PRIMARY_MOVED)
        return relay_pending(flow, out);
    if (flow->state != PRL_PRIMARY_ACTIVE || flow->held_back)
        return false;
    flow->own_edge = own_edge;
    while (out->count < PRL_ACTIONS_MAX && queues->out_pending.head)
        send_output(flow, prl_chain_pop(&queues->out_pending), now_ns, limits, out);
    if (!may_send_input(flow, now_ns))
        return queues->out_pending.head;
    queues->retry_at_ns = 0;
    while (out->count < PRL_ACTIONS_MAX && queues->in_pending.head)
        send_input(flow, prl_chain_pop(&queues->in_pending), now_ns, limits, out);
    return queues->out_pending.head || queues->in_pending.head;
}

static void send_void(struct prl_primary *flow, uint64_t now_ns, int link_up, struct prl_actions *out)
{
    flow->deadline_ns = now_ns + PRL_VOID_RETRY_NS;
    if (link_up && flow->resume != PRL_RESUME_AWAITED)
        add(out, PRL_DO_SEND_VOID)->reason = flow->reason;
}

static void fail(struct prl_primary *flow, uint8_t reason, int link_up, uint64_t now_ns, struct prl_actions *out)
{
    bool is_link = reason == PRL_REASON_LINK_LOST;

    if (flow->state == PRL_PRIMARY_SETUP || (flow->state == PRL_PRIMARY_ALONE && !is_link)) {
        open_up(flow, reason, out);
    } else if (flow->state == PRL_PRIMARY_ACTIVE) {
        disarm(flow);
        flow->resume = is_link && flow->space_known ? PRL_RESUME_MAY : PRL_RESUME_NOT;
        set_state(flow, PRL_PRIMARY_VOIDING, reason, out);
        send_void(flow, now_ns, link_up, out);
    } else if (flow->state == PRL_PRIMARY_VOIDING && !is_link) {
        flow->resume = PRL_RESUME_NOT;
    }
}

/* Takes everything up to `seq` out of `held`; false when `seq` was never sent. */
static bool take_acked(struct prl_chain *held, uint32_t seq, uint32_t next, uint32_t *acked,
                       struct prl_chain *done)
{
    if (!prl_serial_lt(seq, next))
        return false;
    prl_chain_split(held, seq, done);
    *acked = prl_serial_max(*acked, seq);
    return true;
}

static void count_hold(struct prl_primary_counters *counters, const struct prl_chain *chain, uint64_t now_ns)
{
    for (const struct prl_hold *hold = chain->head; hold; hold = hold->next) {
        uint64_t hold_ns = now_ns - hold->arrived_ns;

        counters->hold_ns_sum += hold_ns;
        if (counters->hold_us_max < hold_ns / 1000)
            counters->hold_us_max = (uint32_t)(hold_ns / 1000);
    }
    counters->released_packets += chain->count;
    counters->released_bytes += chain->bytes;
}

/* R5, nack = retry: everything from `seq` on is sent again, under the same numbers, once there may be space. The
 * secondary refuses all that it was sent behind `seq` until then. */
static void go_back(struct prl_primary *flow, uint32_t seq, uint64_t now_ns,
                    const struct prl_primary_limits *limits, struct prl_actions *out)
{
    struct prl_queues *queues = flow->queues;

    queues->retry_tries = queues->retry_seq == seq ? queues->retry_tries + 1 : 1;
    queues->retry_seq = seq;
    if (queues->retry_tries > limits->retries_max) {
        fail(flow, PRL_REASON_NO_SPACE, 1, now_ns, out);
        return;
    }
    flow->counters.retried += queues->in_held.count;
    prl_chain_append(&queues->in_held, &queues->in_pending);
    prl_chain_append(&queues->in_pending, &queues->in_held);
    flow->in_next = seq;
    queues->in_deadline_ns = 0;
    queues->retry_edge = flow->peer_edge;
    queues->retry_at_ns = now_ns + limits->retry_ns;
}

void prl_primary_ack(struct prl_primary *flow, uint32_t seq, uint8_t reason, uint32_t space, uint64_t now_ns,
                     const struct prl_primary_limits *limits, struct prl_actions *out)
{
    struct prl_queues *queues = flow->queues;
    bool is_nack = reason != PRL_REASON_OK;
    struct prl_chain done = {0};
    struct prl_hold *refused;

    out->count = 0;
    if (flow->state != PRL_PRIMARY_ACTIVE)
        return;
    /* A NACK is for one message that is still unanswered; the next one after it may not be answered first. */
    if (!prl_serial_lt(seq, flow->in_next) || (is_nack && (!queues || prl_serial_le(seq, flow->in_acked)))) {
        flow->counters.stale_acks++;
        return;
    }
    if (queues)
        take_acked(&queues->in_held, is_nack ? seq - 1 : seq, flow->in_next, &flow->in_acked, &done);
    count_hold(&flow->counters, &done, now_ns);
    add_chain(out, PRL_DO_RELEASE_INPUT, &done);
    if (!is_nack) {
        flow->counters.acks++;
        prl_primary_flowctl(flow, space);
    } else {
        flow->counters.nacks++;
        if (reason != PRL_REASON_NO_SPACE) {
            fail(flow, reason, 1, now_ns, out);
            return;
        }
        prl_primary_flowctl(flow, space);
        if (limits->nack_retry && flow->space_known) { /* a datagram for which there is no room is lost */
            go_back(flow, seq, now_ns, limits, out);
            return;
        }
        refused = prl_chain_take(&queues->in_held, seq);
        flow->in_acked = seq;
        if (refused)
            REFUSE_ONE(out, refused, &flow->counters, dropped_nack);
    }
    if (queues)
        queues->in_deadline_ns = oldest_deadline_ns(&queues->in_held, limits);
}

/* I3: the shadow must have sent every acknowledged byte; what it says beyond that is not believed. */
static bool commit(struct prl_primary *flow, const struct prl_chain *done, uint32_t tcp_seq,
                   struct prl_actions *out)
{
    uint32_t end = flow->committed;

    for (const struct prl_hold *hold = done->head; hold; hold = hold->next) {
        if (hold->bits & PRL_OUTPUT_RST)
            continue; /* its sequence number need not be the stream's */
        end = prl_serial_max(end, hold->tcp_end);
    }
    if (end == flow->committed)
        return true;
    if (prl_serial_lt(tcp_seq, end))
        return false;
    flow->committed = end;
    add(out, PRL_DO_COMMIT)->seq = end;
    return true;
}

void prl_primary_output_ack(struct prl_primary *flow, uint32_t seq, uint8_t reason, uint32_t tcp_seq,
                            uint64_t now_ns, const struct prl_primary_limits *limits, struct prl_actions *out)
{
    struct prl_queues *queues = flow->queues;
    bool is_nack = reason != PRL_REASON_OK;
    struct prl_chain done = {0};

    out->count = 0;
    if (flow->state != PRL_PRIMARY_ACTIVE)
        return;
    if (!prl_serial_lt(seq, flow->out_next) || (is_nack && (!queues || prl_serial_le(seq, flow->out_acked)))) {
        flow->counters.stale_acks++;
        return;
    }
    if (is_nack)
        flow->counters.nacks++;
    else
        flow->counters.acks++;
    if (!queues)
        return;
    take_acked(&queues->out_held, is_nack ? seq - 1 : seq, flow->out_next, &flow->out_acked, &done);
    if (!commit(flow, &done, tcp_seq, out)) {
        prl_chain_append(&done, &queues->out_held); /* still unreplicated: back in front */
        queues->out_held = done;
        fail(flow, PRL_REASON_DIVERGED, 1, now_ns, out);
        return;
    }
    flow->counters.output_released += done.count;
    add_chain(out, PRL_DO_RELEASE_OUTPUT, &done);
    if (is_nack) {
        fail(flow, reason, 1, now_ns, out);
        return;
    }
    queues->out_deadline_ns = oldest_deadline_ns(&queues->out_held, limits);
}

void prl_primary_flowctl(struct prl_primary *flow, uint32_t space)
{
    if (flow->state == PRL_PRIMARY_ACTIVE && flow->space_known)
        flow->peer_edge = prl_serial_max(flow->peer_edge, space);
}

void prl_primary_fail(struct prl_primary *flow, uint8_t reason, int link_up, uint64_t now_ns,
                      struct prl_actions *out)
{
    out->count = 0;
    fail(flow, reason, link_up, now_ns, out);
}

void prl_primary_void_done(struct prl_primary *flow, bool is_kept, uint64_t now_ns, struct prl_actions *out)
{
    (void)now_ns;
    out->count = 0;
    if (flow->state != PRL_PRIMARY_VOIDING)
        return;
    if (is_kept && flow->resume != PRL_RESUME_NOT && prl_primary_is_quiet(flow)) {
        disarm(flow);
        set_state(flow, PRL_PRIMARY_ALONE, flow->reason, out);
    } else {
        open_up(flow, flow->reason, out);
    }
}

bool prl_primary_await(struct prl_primary *flow)
{
    bool waits = flow->state == PRL_PRIMARY_VOIDING || flow->state == PRL_PRIMARY_ALONE;

    if (!waits || flow->resume == PRL_RESUME_NOT)
        return false;
    flow->resume = PRL_RESUME_AWAITED;
    return true;
}

void prl_primary_give_up(struct prl_primary *flow, uint64_t now_ns, struct prl_actions *out)
{
    out->count = 0;
    if (flow->state == PRL_PRIMARY_ALONE) {
        open_up(flow, flow->reason, out);
    } else if (flow->state == PRL_PRIMARY_VOIDING && flow->resume != PRL_RESUME_NOT) {
        flow->resume = PRL_RESUME_NOT;
        flow->deadline_ns = now_ns; /* VOID is said with the next tick */
    }
}

/* Whether the secondary expects a number that this side has yet: behind what was acknowledged, and not beyond what was sent. */
static bool is_expected(uint32_t number, uint32_t acked, uint32_t next)
{
    return prl_serial_lt(acked, number) && prl_serial_le(number, next);
}

static bool fits(const struct prl_primary *flow, const struct prl_position *position)
{
    if (flow->resume != PRL_RESUME_AWAITED)
        return false;
    if (!is_expected(position->in_next, flow->in_acked, flow->in_next) ||
        !is_expected(position->out_next, flow->out_acked, flow->out_next))
        return false;
    /* A NACK that was lost with the link: for the secondary the number is used, and its socket does not have the packet. */
    return !position->has_refused || prl_serial_le(position->refused, flow->in_acked);
}

/* From `next` on everything waits to be sent, in front of what waits already; the rest of `held` is to be answered from now on. */
static void send_again(struct prl_chain *held, struct prl_chain *pending, uint32_t next, uint64_t now_ns)
{
    struct prl_chain has = {0};

    prl_chain_split(held, next - 1, &has);
    prl_chain_append(held, pending);
    prl_chain_append(pending, held);
    *held = has;
    for (struct prl_hold *hold = held->head; hold; hold = hold->next)
        hold->arrived_ns = now_ns;
}

bool prl_primary_resume(struct prl_primary *flow, const struct prl_position *position, uint64_t now_ns,
                        const struct prl_primary_limits *limits, struct prl_actions *out)
{
    struct prl_queues *queues = flow->queues;

    out->count = 0;
    if (!fits(flow, position)) {
        prl_primary_give_up(flow, now_ns, out);
        return false;
    }
    disarm(flow);
    flow->resume = PRL_RESUME_NOT;
    flow->held_back = 0;
    flow->in_next = position->in_next;
    flow->out_next = position->out_next;
    flow->peer_edge = prl_serial_max(flow->peer_edge, position->space);
    if (queues) {
        flow->counters.resent += queues->in_held.count + queues->out_held.count;
        send_again(&queues->in_held, &queues->in_pending, position->in_next, now_ns);
        send_again(&queues->out_held, &queues->out_pending, position->out_next, now_ns);
        flow->counters.resent -= queues->in_held.count + queues->out_held.count;
        flow->out_tcp_next = flow->committed;
        for (const struct prl_hold *hold = queues->out_held.head; hold; hold = hold->next)
            if (!(hold->bits & PRL_OUTPUT_RST)) /* its sequence number need not be the stream's */
                flow->out_tcp_next = prl_serial_max(flow->out_tcp_next, hold->tcp_end);
        queues->in_deadline_ns = oldest_deadline_ns(&queues->in_held, limits);
        queues->out_deadline_ns = oldest_deadline_ns(&queues->out_held, limits);
    }
    add(out, PRL_DO_SEND_ACTIVE);
    set_state(flow, PRL_PRIMARY_ACTIVE, PRL_REASON_OK, out);
    return true;
}

void prl_primary_hold_back(struct prl_primary *flow, bool on)
{
    if (flow->state == PRL_PRIMARY_ACTIVE)
        flow->held_back = on;
}

bool prl_primary_is_drained(const struct prl_primary *flow)
{
    return !flow->queues || (!flow->queues->in_held.head && !flow->queues->out_held.head);
}

void prl_primary_move(struct prl_primary *flow, struct prl_actions *out)
{
    out->count = 0;
    if (flow->state != PRL_PRIMARY_ACTIVE)
        return;
    disarm(flow);
    flow->held_back = 1;
    set_state(flow, PRL_PRIMARY_MOVED, PRL_REASON_OK, out);
}

void prl_primary_taken(struct prl_primary *flow, struct prl_actions *out)
{
    struct prl_chain all = {0};

    out->count = 0;
    if (flow->state != PRL_PRIMARY_MOVED)
        return;
    flow->held_back = 0;
    if (!flow->queues)
        return;
    prl_chain_append(&all, &flow->queues->in_held);
    prl_chain_append(&all, &flow->queues->relayed);
    prl_chain_append(&all, &flow->queues->out_held);
    prl_chain_append(&all, &flow->queues->out_pending);
    DROP_CHAIN(out, &all, &flow->counters, dropped_moved);
}

void prl_primary_unmove(struct prl_primary *flow, bool is_void, uint64_t now_ns, struct prl_actions *out)
{
    out->count = 0;
    if (flow->state != PRL_PRIMARY_MOVED || !flow->held_back)
        return;
    flow->held_back = 0;
    if (is_void) {
        open_up(flow, PRL_REASON_LINK_LOST, out);
        return;
    }
    if (flow->queues) {
        prl_chain_append(&flow->queues->relayed, &flow->queues->in_pending);
        prl_chain_append(&flow->queues->in_pending, &flow->queues->relayed);
    }
    flow->state = PRL_PRIMARY_ACTIVE;
    if (prl_primary_is_drained(flow))
        set_state(flow, PRL_PRIMARY_ACTIVE, PRL_REASON_OK, out);
    else /* answers that came meanwhile are lost */
        fail(flow, PRL_REASON_TIMEOUT, 1, now_ns, out);
}

void prl_primary_fence(struct prl_primary *flow, struct prl_actions *out)
{
    struct prl_chain all = {0};

    out->count = 0;
    if (flow->state == PRL_PRIMARY_GONE)
        return;
    if (flow->queues) {
        prl_chain_append(&all, &flow->queues->in_held);
        prl_chain_append(&all, &flow->queues->relayed);
        prl_chain_append(&all, &flow->queues->in_pending);
        prl_chain_append(&all, &flow->queues->out_held);
        prl_chain_append(&all, &flow->queues->out_pending);
    }
    DROP_CHAIN(out, &all, &flow->counters, dropped_fenced);
    disarm(flow);
    set_state(flow, PRL_PRIMARY_GONE, PRL_REASON_OK, out);
}

static uint64_t earlier(uint64_t a_ns, uint64_t b_ns)
{
    return a_ns && (!b_ns || a_ns < b_ns) ? a_ns : b_ns;
}

/* 0: none. */
static uint64_t deadline_ns(const struct prl_primary *flow)
{
    const struct prl_queues *queues = flow->queues;
    uint64_t answer_ns = queues ? earlier(queues->in_deadline_ns, queues->out_deadline_ns) : 0;

    return earlier(flow->deadline_ns, answer_ns);
}

void prl_primary_tick(struct prl_primary *flow, int link_up, uint64_t now_ns, struct prl_actions *out)
{
    uint64_t due_ns = deadline_ns(flow);

    out->count = 0;
    if (!due_ns || now_ns < due_ns)
        return;
    if (flow->state == PRL_PRIMARY_VOIDING)
        send_void(flow, now_ns, link_up, out);
    else
        fail(flow, PRL_REASON_TIMEOUT, link_up, now_ns, out);
}

uint64_t prl_primary_deadline(const struct prl_primary *flow)
{
    uint64_t due_ns = deadline_ns(flow);

    return due_ns ? due_ns : UINT64_MAX;
}
