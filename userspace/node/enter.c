/* SPDX-License-Identifier: BSD-2-Clause */
#include "node/enter.h"

#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>

#include "flow/dp.h"
#include "flow/udp.h"
#include "io/probes.h"
#include "node/claim.h"
#include "node/move.h"
#include "path/apply.h"
#include "path/birth.h"
#include "path/takeover.h"
#include "path/verify.h"

int dp_flow_adopt(struct prl_dp *dp, uint32_t handle, uint32_t *own)
{
    struct dp_flow *flow = dp_flow_by_handle(dp, handle);

    if (!flow || !flow->secondary || dp_secondary_of(flow)->state != PRL_SECONDARY_OWNER)
        return -ENOENT;
    *own = dp_flow_new_handle(dp);
    return dp_flow_rename(dp, flow, *own);
}

/* A session that moved here and is still in our hands is protected without leaving them: its input stays captured, also while the
 * other node prepares a socket for it. */
static int keep_in_hands(struct prl_dp *dp, struct dp_flow *flow, struct prl_flow_spec *spec)
{
    int fd = -1, err = 0;

    if (dp->moves[flow->service].state != PRL_MOVE_IDLE)
        return -EBUSY; /* input may still be relayed */
    if (!spec->handle) {
        spec->handle = dp_flow_new_handle(dp);
        err = dp_flow_rename(dp, flow, spec->handle);
    }
    if (!err)
        fd = dp->io->sock_dup(dp->host, spec->fd);
    if (err || fd < 0)
        return err ? err : fd;
    dp_verify_forget(dp, flow);
    assert(!dp_shadow_of(flow)->unfed); /* nothing is relayed any more, and nothing waits for that */
    dp->io->sock_close(dp->host, flow->spec.fd);
    dp_flow_keep_spec(flow, spec, fd);
    flow->spec.generation = 0;
    dp_flow_become_primary(flow);
    return 0;
}

static struct dp_flow *known_flow(struct prl_dp *dp, const struct prl_flow_spec *spec)
{
    return spec->handle ? dp_flow_by_handle(dp, spec->handle) : dp_flow_by_key(dp, &spec->key);
}

/* The flow that a set-up is of, entered if it is not known yet; NULL on failure. A new generation, unless it was named
 * before. */
static int flow_of_setup(struct prl_dp *dp, struct prl_flow_spec *spec, struct dp_flow **result)
{
    uint32_t prepared = spec->generation;
    struct dp_flow *flow = known_flow(dp, spec);
    int err = 0;

    *result = NULL;
    if (flow && (flow->secondary ? dp_secondary_of(flow)->state == PRL_SECONDARY_ACTIVE ||
                                       dp_secondary_of(flow)->state == PRL_SECONDARY_TAKING
                                 : dp_primary_of(flow)->state != PRL_PRIMARY_OPEN))
        return -EEXIST;
    if (!flow && spec->handle)
        return -ENOENT;
    if (flow && flow->secondary && dp_verify_lacks(dp, flow))
        return -EBUSY; /* what the peer was told of is here alone: it is fed first */
    if (flow && flow->secondary && flow->relaying) {
        err = keep_in_hands(dp, flow, spec);
        if (err)
            return err;
    } else if (flow && (flow->secondary || !spec->handle)) { /* taken over: a new flow takes its place */
        if (dp_flow_is_noted(dp, flow))
            return -EBUSY; /* the control plane has not read yet what has become of it */
        dp_flow_forget(dp, flow);
        flow = NULL;
    }
    if (!flow) {
        if (!spec->handle)
            spec->handle = dp_flow_new_handle(dp);
        spec->generation = 0;
        err = dp_flow_enter(dp, spec, &flow);
        if (!flow)
            return err;
    }
    err = dp_flow_set_key(flow, &spec->md5); /* it may have changed since the last snapshot */
    if (err)
        return err;
    if (!prepared || prepared != flow->spec.generation)
        flow->spec.generation++;
    spec->handle = flow->spec.handle;
    spec->generation = flow->spec.generation;
    flow->kernel->generation = flow->spec.generation;
    *result = flow;
    return 0;
}

int dp_primary_prepare(struct prl_dp *dp, struct prl_flow_spec *spec)
{
    struct dp_flow *flow = NULL;
    int err = flow_of_setup(dp, spec, &flow);

    if (flow) {
        prl_primary_enter(dp_primary_of(flow), spec->handle, spec->generation);
        dp_flow_set_flags(flow);
    }
    return err;
}

int dp_primary_setup(struct prl_dp *dp, struct prl_flow_spec *spec)
{
    struct prl_primary_limits limits = dp->config.limits;
    struct prl_actions actions = {0};
    struct dp_flow *flow = NULL;
    int err = flow_of_setup(dp, spec, &flow);

    if (!flow)
        return err;
    limits.setup_ns = spec->setup_ns;
    spec->begun_ns = dp->now_ns = dp_clock_ns(dp);
    dp_move_disturbed(dp, flow->service);
    flow->relaying = false;
    flow->edge_known = false;
    flow->key_changed = false;
    memset(&flow->compare, 0, sizeof(flow->compare));
    prl_primary_open(dp_primary_of(flow), spec->handle, spec->generation, dp->now_ns, &limits, &actions);
    dp_apply(dp, flow, &actions);
    dp_flow_sample(dp, flow);
    if (flow->kernel->key.proto == IPPROTO_UDP)
        dp_udp_open(dp, flow);
    flow->kernel->edge_limit = dp_flow_own_edge(flow);
    flow->edge_known = true;
    dp_flow_set_flags(flow);
    dp_birth_end(dp, flow); /* only now that its input is captured */
    return err;
}

void dp_primary_activate(struct prl_dp *dp, struct dp_flow *flow, uint32_t committed, uint32_t peer_edge)
{
    struct prl_actions actions = {0};

    prl_owner_has_shadow(&dp->owner, flow->service);
    dp_flow_sample(dp, flow);
    flow->kernel->edge_limit = peer_edge;
    prl_primary_activate(dp_primary_of(flow), committed, dp_flow_own_edge(flow), peer_edge,
                         flow->kernel->key.proto == IPPROTO_TCP, dp->now_ns, &actions);
    dp_apply(dp, flow, &actions);
    dp_primary_drain(dp, flow);
    prl_link_flush(&dp->link); /* whoever hears "active" may rely on it: only now can the shadow be taken over */
    dp_birth_say(dp, flow);
}

int dp_secondary_enter(struct prl_dp *dp, const struct prl_flow_spec *spec, uint32_t *space)
{
    uint32_t service = dp_service_of(dp, &spec->key);
    struct dp_flow *flow, *old;
    int err, congestion;

    /* Taken over while the socket was made: a shadow that comes after the decision would be there for ever, and its peer wait. */
    if (service != PRL_SLOT_NONE && dp->owner.state[service] == PRL_OWNER_OWNER)
        return -EALREADY;
    congestion = dp_congestion_number(&dp->congestions, spec->congestion);
    if (congestion < 0)
        return congestion;
    old = dp_flow_by_handle(dp, spec->handle);
    if (old && dp_flow_is_noted(dp, old))
        return -EBUSY; /* the control plane gives it up first */
    if (old)
        dp_flow_forget(dp, old);
    old = dp_flow_by_key(dp, &spec->key);
    if (old && dp_flow_is_noted(dp, old))
        return -EBUSY;
    if (old)
        dp_flow_forget(dp, old);
    err = dp_flow_enter(dp, spec, &flow);
    if (flow) {
        flow->secondary = true;
        err = dp_udp_mark(dp, flow, true);
        if (err) {
            dp_flow_forget(dp, flow);
            return err;
        }
        dp_term_is_taken(dp, flow->service);
        flow->kernel->generation = spec->generation;
        dp_flow_sample(dp, flow);
        if (spec->key.proto == IPPROTO_UDP)
            dp_udp_open(dp, flow);
        *space = dp_flow_own_edge(flow); /* UDP: always 0; whether there is room is a matter of yes and no */
        prl_secondary_open(dp_secondary_of(flow), spec->handle, spec->generation, spec->committed, *space, true);
        dp_secondary_of(flow)->nack_retry =
            spec->key.proto == IPPROTO_TCP && (dp->capabilities & PRL_CAP_NACK_RETRY);
        dp_flow_set_flags(flow);
        PRL_PROBE3(setup, "shadow entered", spec->handle, spec->generation);
        dp_shadow_of(flow)->congestion = (uint8_t)congestion;
        flow->peer_window = (uint16_t)spec->peer_window;
        if (spec->replay) {
            err = dp_shadow_replay(dp, flow, spec);
            if (err)
                dp_flow_forget(dp, flow);
        }
    }
    return err;
}
