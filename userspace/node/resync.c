/* SPDX-License-Identifier: BSD-2-Clause */
#include "node/resync.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>

#include "flow/dp.h"
#include "flow/send.h"
#include "node/move.h"
#include "path/apply.h"
#include "path/mirror.h"
#include "path/primary.h"
#include "path/shadow.h"
#include "path/verify.h"
#include "path/window.h"
#include "tcp/serial.h"

struct dp_resync {
    bool says; /* standby: not all that is suspended was told of yet, from `next` on */
    uint32_t next;
    uint64_t awaited_by_ns; /* owner: until when the standby may say what it has; 0 = nothing is awaited */
    uint64_t suspended_by_ns, alone_by_ns; /* how long what is suspended, or alone, may stay so; 0 = nothing is */
    uint64_t began_ns, took_ns; /* owner: the epoch; from then until the standby had said all, 0 = it has not */
};

int dp_resync_open(struct prl_dp *dp)
{
    dp->resync = calloc(1, sizeof(*dp->resync));
    return dp->resync ? 0 : -ENOMEM;
}

void dp_resync_close(struct prl_dp *dp)
{
    free(dp->resync);
}

/* ---- standby ---- */

void dp_resync_suspend(struct prl_dp *dp)
{
    bool is_known = dp->capabilities & PRL_CAP_RESYNC;

    dp->resync->says = false;
    dp_verify_flush(dp); /* what was fed just now is looked at while its bytes are here: it stays kept (R8) */
    for (uint32_t i = 0; i < dp->flows_top; i++) {
        struct dp_flow *flow = &dp->flows[i];

        if (!flow->used || !flow->secondary || dp_shadow_is_suspended(flow))
            continue;
        dp_mirror_forget(dp, flow);
        if (is_known && flow->kernel->key.proto == IPPROTO_TCP && dp_shadow_suspend(dp, flow)) {
            dp->counters.suspended++;
            dp->resync->suspended_by_ns = dp->now_ns + PRL_RESYNC_KEEP_NS;
        } else {
            dp_shadow_void(dp, flow, PRL_REASON_LINK_LOST);
        }
    }
}

static void void_suspended(struct prl_dp *dp)
{
    dp->resync->suspended_by_ns = 0;
    for (uint32_t i = 0; i < dp->flows_top; i++)
        if (dp_shadow_is_suspended(&dp->flows[i])) {
            dp->counters.suspended_void++;
            dp_shadow_give_up(dp, &dp->flows[i], PRL_REASON_LINK_LOST);
        }
}

static void say_end(struct prl_dp *dp)
{
    struct prl_msg msg = {.type = PRL_MSG_RESYNC, .bits = PRL_RESYNC_END};

    dp->resync->says = false;
    dp_send(dp, &msg);
}

static void say(struct prl_dp *dp, const struct dp_flow *flow)
{
    const struct prl_secondary *core = dp_secondary_of(flow);
    struct prl_msg msg = {
        .type = PRL_MSG_RESYNC,
        .handle = flow->spec.handle,
        .seq = core->in_next,
        .generation = flow->spec.generation,
        .out_seq = core->out_next,
        .space = core->announced_edge,
        .refused = core->refused,
        .bits = core->has_refused ? PRL_RESYNC_REFUSED : 0,
        .hash = flow->compare.hash,
    };

    dp_send(dp, &msg);
}

static bool may_say(const struct prl_dp *dp)
{
    return dp->resync->says && dp->link_up && prl_link_room(&dp->link, PRL_RESYNC_BATCH * PRL_WIRE_PREFIX_MAX);
}

static bool say_some(struct prl_dp *dp)
{
    struct dp_resync *resync = dp->resync;
    uint32_t said = 0;

    if (!may_say(dp))
        return false;
    for (; resync->next < dp->flows_top && said < PRL_RESYNC_BATCH; resync->next++) {
        const struct dp_flow *flow = &dp->flows[resync->next];

        if (!dp_shadow_is_suspended(flow))
            continue;
        say(dp, flow);
        said++;
    }
    if (resync->next >= dp->flows_top && said < PRL_RESYNC_BATCH)
        say_end(dp);
    return true;
}

bool dp_resync_goes_on(const struct prl_dp *dp)
{
    return may_say(dp);
}

/* ---- owner ---- */

static void give_up_all(struct prl_dp *dp)
{
    dp->resync->awaited_by_ns = dp->resync->alone_by_ns = 0;
    for (uint32_t i = 0; i < dp->flows_top; i++) {
        struct dp_flow *flow = &dp->flows[i];
        struct prl_actions actions = {0};

        if (!flow->used || flow->secondary)
            continue;
        prl_primary_give_up(dp_primary_of(flow), dp->now_ns, &actions);
        if (actions.count)
            dp->counters.opened_alone++;
        dp_apply(dp, flow, &actions);
    }
}

void dp_resync_alone(struct prl_dp *dp)
{
    dp_primary_open_all(dp);
    dp->resync->alone_by_ns = dp->now_ns + PRL_RESYNC_KEEP_NS;
}

/* Whether all that is to be sent again is here: of a packet that waits in the kernel (carrier "kernel") the copy goes once it
 * was sent. */
static bool has_all_from(const struct prl_primary *core, uint32_t seq)
{
    if (!core->queues)
        return true;
    for (const struct prl_hold *hold = core->queues->in_held.head; hold; hold = hold->next)
        if (prl_serial_le(seq, hold->seq) && !dp_hold_has_bytes(hold))
            return false;
    return true;
}

static bool fits(const struct prl_dp *dp, const struct dp_flow *flow, const struct prl_msg *msg)
{
    const struct prl_primary *core = dp_primary_of(flow);

    if (flow->spec.generation != msg->generation || flow->key_changed ||
        dp->owner.state[flow->service] != PRL_OWNER_OWNER ||
        __atomic_load_n(&dp->node->bypassed, __ATOMIC_ACQUIRE)) /* the kernel has let packets pass (L9) */
        return false;
    if (!has_all_from(core, msg->seq))
        return false;
    /* R12a: what was acknowledged here is all that the shadow has. */
    return core->in_acked + 1 != msg->seq || flow->compare.hash == msg->hash;
}

static bool resume(struct prl_dp *dp, struct dp_flow *flow, const struct prl_msg *msg)
{
    const struct prl_position position = {
        .in_next = msg->seq,
        .out_next = msg->out_seq,
        .refused = msg->refused,
        .space = msg->space,
        .has_refused = msg->bits & PRL_RESYNC_REFUSED,
    };
    struct prl_primary *core = dp_primary_of(flow);
    struct prl_actions actions = {0};
    bool goes_on = fits(dp, flow, msg);

    if (goes_on)
        goes_on = prl_primary_resume(core, &position, dp->now_ns, &dp->config.limits, &actions);
    else if (flow->spec.generation == msg->generation)
        prl_primary_give_up(core, dp->now_ns, &actions);
    dp_apply(dp, flow, &actions);
    if (goes_on) {
        dp_move_disturbed(dp, flow->service);
        prl_owner_has_shadow(&dp->owner, flow->service);
        flow->compare.sent_in = core->in_next; /* the sockets are compared at once, or when it is quiet */
        dp_window_note_space(dp, flow);
        dp_primary_drain(dp, flow);
    }
    return goes_on;
}

uint64_t dp_resync_took_ns(const struct prl_dp *dp)
{
    return dp->resync->took_ns;
}

/* ---- both ---- */

void dp_resync_begin(struct prl_dp *dp)
{
    struct dp_resync *resync = dp->resync;

    resync->says = false;
    resync->took_ns = 0;
    if (!(dp->capabilities & PRL_CAP_RESYNC)) {
        give_up_all(dp);
        void_suspended(dp);
        return;
    }
    resync->says = true;
    resync->next = 0;
    resync->began_ns = dp->now_ns;
    resync->awaited_by_ns = 0;
    for (uint32_t i = 0; i < dp->flows_top; i++)
        if (dp->flows[i].used && !dp->flows[i].secondary && prl_primary_await(dp_primary_of(&dp->flows[i])))
            resync->awaited_by_ns = dp->now_ns + PRL_RESYNC_WAIT_NS;
}

bool dp_resync_pass(struct prl_dp *dp)
{
    struct dp_resync *resync = dp->resync;

    if (resync->awaited_by_ns && dp->link_up && dp->now_ns >= resync->awaited_by_ns)
        give_up_all(dp);
    if (resync->alone_by_ns && dp->now_ns >= resync->alone_by_ns)
        give_up_all(dp);
    if (resync->suspended_by_ns && dp->now_ns >= resync->suspended_by_ns)
        void_suspended(dp);
    return say_some(dp);
}

void dp_resync_message(struct prl_dp *dp, const struct prl_msg *msg)
{
    struct prl_msg refusal = {
        .type = PRL_MSG_VOID,
        .handle = msg->handle,
        .generation = msg->generation,
        .reason = PRL_REASON_LINK_LOST,
    };
    struct dp_flow *flow;

    if (msg->bits & PRL_RESYNC_END) {
        give_up_all(dp);
        dp->resync->took_ns = dp->now_ns - dp->resync->began_ns;
        return;
    }
    flow = dp_flow_by_handle(dp, msg->handle);
    if (flow && !flow->secondary && resume(dp, flow, msg)) {
        dp->counters.resumed++;
        return;
    }
    dp->counters.resume_refused++;
    if (flow && !flow->secondary && flow->spec.generation == msg->generation &&
        dp_primary_of(flow)->state == PRL_PRIMARY_ACTIVE)
        dp_primary_fail(dp, flow, PRL_REASON_DIVERGED); /* it has no shadow, whatever this side believes */
    dp_send(dp, &refusal);
}
