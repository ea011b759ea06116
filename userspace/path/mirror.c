/* SPDX-License-Identifier: BSD-2-Clause */
#include "path/mirror.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>

#include "flow/dp.h"
#include "flow/lend.h"
#include "flow/wake.h"
#include "tcp/serial.h"

_Static_assert((DP_MIRROR_FRAMES & (DP_MIRROR_FRAMES - 1)) == 0, "numbers go round: their places must, too");

/* The frames of one number, in the order in which they came. */
struct place {
    uint32_t number; /* 0: it is free */
    uint32_t slot;   /* of the flow */
    uint64_t came_ns;
    struct prl_chain frames;
};

struct dp_mirror {
    struct place place[DP_MIRROR_FRAMES];
    uint8_t whole[PRL_PACKET_MAX];
    uint32_t taken;    /* places */
    uint32_t oldest;   /* of their numbers; there may be none any more */
    uint32_t newest;   /* that has come since there were none */
    uint32_t pieces;   /* frames in them */
    uint32_t messages; /* that wait, of all flows */
    uint64_t advance_ns; /* when their flows are looked at next; 0: none waited at the last look */
    uint64_t look_ns; /* for what is too old */
    uint32_t refused; /* in a row; of that, the newest one's flow, and when it was refused */
    uint32_t refused_slot;
    uint64_t refused_ns;
    bool owns; /* packets of flows that mirror come from peers */
    uint64_t sent_ns; /* the newest message that names frames, while it is unanswered; 0: none is */
    uint64_t named_ns; /* the newest of the other node's */
};

int dp_mirror_open(struct prl_dp *dp)
{
    dp->mirror = calloc(1, sizeof(*dp->mirror));
    return dp->mirror ? 0 : -ENOMEM;
}

void dp_mirror_close(struct prl_dp *dp)
{
    free(dp->mirror);
}

/* ---- owner ---- */

bool dp_mirror_goes_now(const struct prl_dp *dp, const struct dp_flow *flow)
{
    const struct prl_primary *primary = dp_primary_of(flow);

    switch (primary->state) {
    case PRL_PRIMARY_ACTIVE:
        return dp->mirrors && !primary->held_back && !(primary->queues && primary->queues->in_pending.head);
    case PRL_PRIMARY_OPEN: /* it passes */
    case PRL_PRIMARY_ALONE:
        return true;
    default:
        return false;
    }
}

/* Flags that were set since are those of another state: each change writes all of them. */
void dp_mirror_begin(struct prl_dp *dp, struct dp_flow *flow, const struct prl_packet *packet)
{
    uint32_t flags = __atomic_load_n(&flow->kernel->flags, __ATOMIC_ACQUIRE);

    if (!dp->mirrors || packet->proto != IPPROTO_TCP || packet->l3_bytes <= PRL_MIRROR_COPY_BYTES ||
        flow->kernel->key.vlans || dp->config.limits.nack_retry || flags & PRL_FLOW_MIRRORS ||
        dp_primary_of(flow)->state != PRL_PRIMARY_ACTIVE || !dp_mirror_goes_now(dp, flow))
        return;
    dp->mirror->owns = true;
    __atomic_store_n(&flow->kernel->flags, flags | PRL_FLOW_MIRRORS, __ATOMIC_RELEASE);
}

void dp_mirror_end(const struct dp_flow *flow)
{
    __atomic_fetch_and(&flow->kernel->flags, ~(uint32_t)PRL_FLOW_MIRRORS, __ATOMIC_RELEASE);
}

static void turn_off(struct prl_dp *dp)
{
    const struct prl_event event = {.kind = PRL_EVENT_MIRROR_OFF};

    dp->mirrors = false;
    for (uint32_t i = 0; i < dp->flows_top; i++)
        if (dp->flows[i].used && !dp->flows[i].secondary)
            dp_mirror_end(&dp->flows[i]);
    dp_event(dp, &event, NULL, 0);
}

void dp_mirror_acknowledged(struct prl_dp *dp, const struct dp_flow *flow)
{
    if (flow->slot == dp->mirror->refused_slot)
        dp->mirror->refused = 0;
}

void dp_mirror_refused(struct prl_dp *dp, const struct dp_flow *flow, uint64_t sent_ns)
{
    struct dp_mirror *mirror = dp->mirror;

    if (!dp->mirrors || sent_ns < mirror->refused_ns)
        return;
    mirror->refused_ns = dp->now_ns;
    mirror->refused_slot = flow->slot;
    if (++mirror->refused == DP_MIRROR_REFUSED_MAX)
        turn_off(dp);
}

void dp_mirror_start(struct prl_dp *dp)
{
    dp->mirror->refused = 0;
    dp->mirrors = true;
}

void dp_mirror_sent(struct prl_dp *dp)
{
    dp->mirror->owns = true;
    dp->mirror->sent_ns = dp->now_ns;
}

void dp_mirror_named(struct prl_dp *dp)
{
    dp->mirror->named_ns = dp->now_ns;
    dp->mirror->owns = dp->mirror->owns && prl_owner_owns_any(&dp->owner); /* what it owned may have moved */
}

void dp_mirror_answered(struct prl_dp *dp)
{
    dp->mirror->sent_ns = 0;
}

bool dp_mirror_listens(const struct prl_dp *dp)
{
    const struct dp_mirror *mirror = dp->mirror;

    if (mirror->messages)
        return true;
    if (mirror->owns)
        return dp->now_ns - mirror->sent_ns >= DP_MIRROR_DEAF_NS;
    return dp->now_ns - mirror->named_ns >= DP_MIRROR_QUIET_NS;
}

bool dp_mirror_is_deaf(const struct prl_dp *dp)
{
    return dp->mirror->owns && !dp_mirror_listens(dp);
}

/* ---- standby: frames ---- */

static struct place *place_of(const struct prl_dp *dp, uint32_t number)
{
    return &dp->mirror->place[number & (DP_MIRROR_FRAMES - 1)];
}

static struct place *find(const struct prl_dp *dp, const struct dp_flow *flow, uint32_t number)
{
    struct place *place = place_of(dp, number);

    return place->number == number && place->slot == flow->slot ? place : NULL;
}

static void clear(struct prl_dp *dp, struct place *place)
{
    dp->mirror->pieces -= place->frames.count;
    place->number = 0;
    place->frames = (struct prl_chain){0};
    dp->mirror->taken--;
}

/* No message has named them. */
static void discard(struct prl_dp *dp, struct place *place)
{
    struct prl_chain frames = place->frames;

    dp->counters.mirror_unnamed += frames.count;
    clear(dp, place);
    dp_hold_free_all(dp, &frames);
}

void dp_mirror_make_room(struct prl_dp *dp)
{
    const struct prl_pool *pool = &dp->held.pool;
    struct dp_mirror *mirror = dp->mirror;

    /* Each place is gone by once, so that what is there is no newer than the number that it is looked at for. */
    if (mirror->newest - mirror->oldest >= DP_MIRROR_FRAMES)
        mirror->oldest = mirror->newest - DP_MIRROR_FRAMES + 1;
    while (mirror->taken &&
           (mirror->pieces >= DP_MIRROR_FRAMES || pool->capacity - pool->used <= DP_MIRROR_RESERVE)) {
        struct place *place = place_of(dp, mirror->oldest);

        if (place->number)
            discard(dp, place);
        mirror->oldest++;
    }
}

void dp_mirror_put(struct prl_dp *dp, const struct dp_flow *flow, uint32_t number, struct prl_hold *hold)
{
    struct place *place = place_of(dp, number);

    if (place->number && (place->number != number || place->slot != flow->slot)) {
        if (prl_serial_lt(number, place->number)) {
            dp->counters.mirror_unnamed++;
            dp_hold_free(dp, hold);
            return;
        }
        discard(dp, place);
    }
    if (!place->number) {
        *place = (struct place){.number = number, .slot = flow->slot, .came_ns = dp->now_ns};
        if (!dp->mirror->taken++)
            dp->mirror->oldest = dp->mirror->newest = number;
        if (prl_serial_lt(number, dp->mirror->oldest))
            dp->mirror->oldest = number;
        dp->mirror->newest = prl_serial_max(dp->mirror->newest, number);
    }
    if (place->frames.count == DP_MIRROR_PIECES) {
        dp->counters.mirror_unnamed++;
        dp_hold_free(dp, hold);
        return;
    }
    prl_chain_push(&place->frames, hold);
    dp->mirror->pieces++;
}

bool dp_mirror_has(const struct prl_dp *dp, const struct dp_flow *flow, uint32_t number, uint32_t tcp_seq,
                   uint32_t tcp_end)
{
    const struct place *place = find(dp, flow, number);

    if (!place)
        return false;
    for (const struct prl_hold *hold = place->frames.head; hold; hold = hold->next) {
        if (hold->tcp_seq != tcp_seq)
            return false;
        tcp_seq = hold->tcp_end;
    }
    return tcp_seq == tcp_end;
}

void dp_mirror_take(struct prl_dp *dp, const struct dp_flow *flow, uint32_t number, struct prl_chain *frames)
{
    struct place *place = find(dp, flow, number);

    *frames = (struct prl_chain){0};
    if (!place)
        return;
    *frames = place->frames;
    clear(dp, place);
}

uint32_t dp_mirror_count(const struct prl_dp *dp)
{
    uint32_t count = 0;

    for (uint32_t i = 0; dp->mirror->taken && i < DP_MIRROR_FRAMES; i++)
        count += dp->mirror->place[i].frames.count;
    return count;
}

void dp_mirror_drop(struct prl_dp *dp, const struct dp_flow *flow, uint32_t number)
{
    struct prl_chain frames;

    dp_mirror_take(dp, flow, number, &frames);
    dp_hold_free_all(dp, &frames);
}

void dp_mirror_tick(struct prl_dp *dp)
{
    dp_mirror_make_room(dp);
    if (!dp->mirror->taken || dp->now_ns < dp->mirror->look_ns)
        return;
    dp->mirror->look_ns = dp->now_ns + DP_MIRROR_FRAME_NS / 2;
    for (uint32_t i = 0; i < DP_MIRROR_FRAMES; i++) {
        struct place *place = &dp->mirror->place[i];

        if (place->number && dp->now_ns - place->came_ns >= DP_MIRROR_FRAME_NS)
            discard(dp, place);
    }
}

void dp_mirror_link_lost(struct prl_dp *dp)
{
    for (uint32_t i = 0; dp->mirror->taken && i < DP_MIRROR_FRAMES; i++)
        if (dp->mirror->place[i].number)
            discard(dp, &dp->mirror->place[i]);
}

/* ---- standby: messages ---- */

uint8_t *dp_mirror_whole(const struct prl_dp *dp)
{
    return dp->mirror->whole;
}

struct prl_hold *dp_mirror_waiting(const struct dp_flow *flow)
{
    const struct dp_unfed *unfed = dp_shadow_of(flow)->unfed;

    return unfed ? unfed->unjoined.head : NULL;
}

void dp_mirror_wait(struct prl_dp *dp, struct dp_flow *flow, struct prl_hold *hold)
{
    prl_chain_push(&dp_shadow_lend(dp, flow)->unjoined, hold);
    dp->mirror->messages++;
    dp_flow_wake(dp, flow);
    if (!dp->mirror->advance_ns)
        dp->mirror->advance_ns = dp->now_ns + DP_MIRROR_TICK_NS;
}

struct prl_hold *dp_mirror_go(struct prl_dp *dp, struct dp_flow *flow)
{
    dp->mirror->messages--;
    return prl_chain_pop(&dp_shadow_of(flow)->unfed->unjoined);
}

void dp_mirror_forget(struct prl_dp *dp, struct dp_flow *flow)
{
    while (dp_mirror_waiting(flow))
        dp_hold_free(dp, dp_mirror_go(dp, flow));
    dp_shadow_settle(dp, flow);
}

uint64_t dp_mirror_next_ns(const struct prl_dp *dp)
{
    return dp->mirror->messages ? dp->mirror->advance_ns : UINT64_MAX;
}

void dp_mirror_advanced(struct prl_dp *dp)
{
    dp->mirror->advance_ns = dp->mirror->messages ? dp->now_ns + DP_MIRROR_TICK_NS : 0;
}
