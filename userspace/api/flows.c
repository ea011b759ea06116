/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>
#include <netinet/in.h>
#include <string.h>

#include "api/datapath.h"
#include "flow/dp.h"
#include "flow/send.h"
#include "loop/lock.h"
#include "node/enter.h"
#include "node/ownership.h"
#include "node/setup.h"
#include "path/apply.h"
#include "path/birth.h"
#include "path/primary.h"
#include "path/shadow.h"

/* ---- sessions are set up ---- */

int prl_dp_await(struct prl_dp *dp, const struct prl_flow_key *endpoint, uint64_t wait_ns)
{
    int err;

    dp_lock(dp);
    err = dp->io->await(dp->host, endpoint, wait_ns);
    dp_unlock(dp);
    return err;
}

int prl_dp_primary_prepare(struct prl_dp *dp, struct prl_flow_spec *spec)
{
    int err;

    dp_lock(dp);
    err = dp_primary_prepare(dp, spec);
    dp_unlock(dp);
    return err;
}

int prl_dp_primary_setup(struct prl_dp *dp, struct prl_flow_spec *spec)
{
    int err;

    dp_lock(dp);
    err = dp_primary_setup(dp, spec);
    dp_unlock(dp);
    return err;
}

int prl_dp_primary_moment(struct prl_dp *dp, const struct prl_moment_spec *spec, struct prl_moment_counts *counts,
                          uint32_t *committed)
{
    bool is_left;
    int err;

    dp_lock(dp);
    err = dp_setup_send_moment(dp, spec, counts, committed);
    is_left = prl_link_pending(&dp->link);
    dp_unlock(dp);
    if (is_left)
        dp->io->wake(dp->host);
    return err;
}

int prl_dp_secondary_prepare(struct prl_dp *dp, const struct prl_flow_spec *spec, const struct prl_ready *ready)
{
    int err;

    dp_lock(dp);
    err = dp_setup_prepare(dp, spec, ready);
    dp_unlock(dp);
    return err;
}

int prl_dp_secondary_unprepare(struct prl_dp *dp, uint32_t handle, uint32_t generation)
{
    int err;

    dp_lock(dp);
    err = dp_setup_unprepare(dp, handle, generation);
    dp_unlock(dp);
    return err;
}

int prl_dp_flow_adopt(struct prl_dp *dp, uint32_t handle, uint32_t *own)
{
    int err;

    dp_lock(dp);
    err = dp_flow_adopt(dp, handle, own);
    dp_unlock(dp);
    return err;
}

int prl_dp_primary_activate(struct prl_dp *dp, uint32_t handle, uint32_t generation, uint32_t committed,
                            uint32_t peer_edge)
{
    struct dp_flow *flow;
    int err = 0;

    dp_lock(dp);
    flow = dp_flow_by_handle(dp, handle);
    if (!flow || flow->secondary || flow->spec.generation != generation ||
        dp_primary_of(flow)->state != PRL_PRIMARY_SETUP || dp_owner_is_bypassed(dp)) {
        err = -ESTALE;
        goto out;
    }
    dp->now_ns = dp_clock_ns(dp);
    dp_primary_activate(dp, flow, committed, peer_edge);
out:
    dp_unlock(dp);
    dp->io->wake(dp->host);
    return err;
}

int prl_dp_primary_fail(struct prl_dp *dp, uint32_t handle, uint8_t reason)
{
    struct dp_flow *flow;

    dp_lock(dp);
    flow = dp_flow_by_handle(dp, handle);
    if (flow && !flow->secondary) {
        dp->now_ns = dp_clock_ns(dp);
        dp_primary_fail(dp, flow, reason);
        if (dp_primary_of(flow)->state == PRL_PRIMARY_OPEN) { /* also one that was never set up */
            dp_birth_end(dp, flow);
            dp_birth_say(dp, flow);
        }
    }
    dp_unlock(dp);
    return flow ? 0 : -ENOENT;
}

int prl_dp_secondary_open(struct prl_dp *dp, const struct prl_flow_spec *spec, uint32_t *space)
{
    int err;

    dp_lock(dp);
    err = dp_secondary_enter(dp, spec, space);
    dp_unlock(dp);
    return err;
}

int prl_dp_secondary_void(struct prl_dp *dp, uint32_t handle, uint8_t reason)
{
    struct dp_flow *flow;

    dp_lock(dp);
    flow = dp_flow_by_handle(dp, handle);
    if (flow && flow->secondary)
        dp_shadow_give_up(dp, flow, reason);
    dp_unlock(dp);
    return flow ? 0 : -ENOENT;
}

int prl_dp_flow_close(struct prl_dp *dp, uint32_t handle)
{
    struct dp_flow *flow;

    dp_lock(dp);
    flow = dp_flow_by_handle(dp, handle);
    if (flow) {
        if (!flow->secondary && dp_primary_of(flow)->state == PRL_PRIMARY_ACTIVE) {
            struct prl_msg msg = {.type = PRL_MSG_CLOSE, .handle = handle, .generation = flow->spec.generation};

            dp_send(dp, &msg);
        }
        dp_flow_forget(dp, flow);
    }
    dp_unlock(dp);
    return flow ? 0 : -ENOENT;
}

/* ---- what is asked of a flow ---- */

uint32_t prl_dp_flow_of(struct prl_dp *dp, const struct prl_flow_key *key)
{
    const struct dp_flow *flow;
    uint32_t handle;

    dp_lock(dp);
    flow = dp_flow_by_key(dp, key);
    handle = flow ? flow->spec.handle : 0;
    dp_unlock(dp);
    return handle;
}

int prl_dp_flow_socket(struct prl_dp *dp, uint32_t handle)
{
    const struct dp_flow *flow;
    int fd = -ENOENT;

    dp_lock(dp);
    flow = dp_flow_by_handle(dp, handle);
    if (flow)
        fd = dp->io->sock_dup(dp->host, flow->spec.fd);
    dp_unlock(dp);
    return fd;
}

int prl_dp_flow_has_hole(struct prl_dp *dp, uint32_t handle)
{
    struct dp_flow *flow;
    int has_hole = -ENOENT;

    dp_lock(dp);
    flow = dp_flow_by_handle(dp, handle);
    if (flow) {
        dp_flow_sample(dp, flow);
        has_hole = flow->kernel->sock.stamp_ns && flow->kernel->sock.has_ooo;
    }
    dp_unlock(dp);
    return has_hole;
}

int prl_dp_flow_orphan(struct prl_dp *dp, uint32_t handle)
{
    struct dp_flow *flow;
    int err = -ENOENT;

    dp_lock(dp);
    flow = dp_flow_by_handle(dp, handle);
    if (flow && !flow->secondary && flow->kernel->key.proto == IPPROTO_TCP && flow->spec.fd >= 0) {
        err = dp->io->gate_cookie(dp->host, flow->spec.fd, &flow->orphan_cookie);
        if (!err) {
            dp->io->sock_close(dp->host, flow->spec.fd);
            flow->spec.fd = -1;
        }
    }
    dp_unlock(dp);
    return err;
}

int prl_dp_flow_key(struct prl_dp *dp, uint32_t handle, struct prl_flow_key *key)
{
    const struct dp_flow *flow;

    dp_lock(dp);
    flow = dp_flow_by_handle(dp, handle);
    if (flow)
        *key = flow->kernel->key;
    dp_unlock(dp);
    return flow ? 0 : -ENOENT;
}

uint32_t prl_dp_flow_handles(struct prl_dp *dp, uint32_t *handles, uint32_t capacity)
{
    uint32_t count = 0;

    dp_lock(dp);
    for (uint32_t i = 0; i < dp->flows_top; i++) {
        if (i && i % DP_LOOK_FLOWS == 0) {
            dp_unlock(dp);
            dp_lock(dp);
        }
        if (!dp->flows[i].used)
            continue;
        if (count < capacity)
            handles[count] = dp->flows[i].spec.handle;
        count++;
    }
    dp_unlock(dp);
    return count;
}

uint32_t prl_dp_flow_page(struct prl_dp *dp, uint32_t after, uint32_t *handles, uint32_t capacity)
{
    uint32_t count = 0;

    dp_lock(dp);
    for (uint32_t i = 0; i < dp->flows_top; i++) {
        uint32_t handle = dp->flows[i].spec.handle, at;

        if (i && i % DP_LOOK_FLOWS == 0) {
            dp_unlock(dp);
            dp_lock(dp);
        }
        if (!dp->flows[i].used || handle <= after || (count == capacity && handle >= handles[count - 1]))
            continue;
        at = count < capacity ? count++ : count - 1;
        for (; at > 0 && handles[at - 1] > handle; at--)
            handles[at] = handles[at - 1];
        handles[at] = handle;
    }
    dp_unlock(dp);
    return count;
}

static void tell_shadow(const struct dp_flow *flow, struct prl_flow_info *info)
{
    info->secondary = *dp_secondary_of(flow);
    info->state = info->secondary.state;
    info->reason = info->secondary.reason;
    info->out_hash = dp_shadow_of(flow)->out_hash;
}

static void tell_primary(const struct dp_flow *flow, struct prl_flow_info *info)
{
    info->primary = *dp_primary_of(flow);
    info->primary.queues = NULL;
    if (dp_primary_of(flow)->queues)
        info->queues = *dp_primary_of(flow)->queues;
    info->state = info->primary.state;
    info->reason = info->primary.reason;
}

int prl_dp_flow_info(struct prl_dp *dp, uint32_t handle, struct prl_flow_info *info)
{
    const struct dp_flow *flow;

    memset(info, 0, sizeof(*info));
    dp_lock(dp);
    flow = dp_flow_by_handle(dp, handle);
    if (flow) {
        const struct prl_flow *kernel = flow->kernel;

        dp_flow_sample(dp, (struct dp_flow *)(uintptr_t)flow);
        info->key = flow->kernel->key;
        info->handle = handle;
        info->slot = flow->slot;
        info->generation = flow->spec.generation;
        info->is_secondary = flow->secondary;
        info->flags = kernel->flags;
        if (flow->secondary)
            tell_shadow(flow, info);
        else
            tell_primary(flow, info);
        info->sock = kernel->sock;
        info->in_redirected = kernel->in_redirected;
        info->in_passed = kernel->in_passed;
        info->in_dropped = kernel->in_dropped;
        info->out_passed = kernel->out_passed;
        info->out_held_packets = kernel->out_held_packets;
        info->out_duplicates = kernel->out_duplicates;
        info->out_silenced = kernel->out_silenced;
        info->gate_refused = kernel->gate_refused;
    }
    dp_unlock(dp);
    return flow ? 0 : -ENOENT;
}

uint32_t prl_dp_flow_bytes(void)
{
    return dp_table_flow_bytes();
}

uint32_t prl_dp_slot_bytes(void)
{
    return dp_table_slot_bytes();
}
