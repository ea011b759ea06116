/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>

#include "api/datapath.h"
#include "flow/dp.h"
#include "loop/lock.h"
#include "node/announce.h"
#include "node/claim.h"
#include "node/move.h"
#include "node/ownership.h"
#include "node/service.h"
#include "node/switchover.h"
#include "path/primary.h"

/* ---- ownership ---- */

int prl_dp_service_set(struct prl_dp *dp, uint32_t service, uint8_t state)
{
    int err;

    dp_lock(dp);
    err = dp_service_set(dp, service, state);
    if (!err && state != PRL_OWNER_OWNER)
        dp_primary_fence_service(dp, service);
    dp_unlock(dp);
    return err;
}

int prl_dp_service_state(struct prl_dp *dp, uint32_t service)
{
    int state;

    if (service >= dp->config.owner.services)
        return -EINVAL;
    dp_lock(dp);
    dp_owner_notice_fencing(dp);
    state = dp->owner.state[service];
    dp_unlock(dp);
    return state;
}

uint64_t prl_dp_term(struct prl_dp *dp, uint32_t service)
{
    uint64_t term;

    if (service >= dp->config.owner.services)
        return 0;
    dp_lock(dp);
    term = dp->node->terms[service];
    dp_unlock(dp);
    return term;
}

void prl_dp_term_raise(struct prl_dp *dp, uint32_t service, uint64_t term)
{
    if (service >= dp->config.owner.services)
        return;
    dp_lock(dp);
    dp_term_raise(dp, service, term);
    dp_unlock(dp);
}

int prl_dp_takeover(struct prl_dp *dp, uint32_t service, int fenced)
{
    uint8_t refused = PRL_REFUSED_NOT;

    dp_lock(dp);
    dp->now_ns = dp_clock_ns(dp);
    if (service < dp->config.owner.services)
        dp_owner_do(dp, prl_owner_request(&dp->owner, service, fenced, dp->now_ns, &refused));
    dp_unlock(dp);
    dp->io->wake(dp->host); /* for the turns of a take-over */
    return service < dp->config.owner.services ? refused : -EINVAL;
}

int prl_dp_unanswered(struct prl_dp *dp, uint64_t probed_ns)
{
    uint32_t todo;

    dp_lock(dp);
    dp->now_ns = dp_clock_ns(dp);
    dp_owner_notice_fencing(dp);
    dp_owner_watch_lan(dp);
    todo = prl_owner_unanswered(&dp->owner, probed_ns, dp->now_ns);
    if (todo & PRL_OWNER_DO_SPEAK)
        dp_terms_take_back(dp);
    dp_owner_do(dp, todo);
    dp_unlock(dp);
    return (todo & PRL_OWNER_DO_SPEAK) != 0;
}

void prl_dp_carrier(struct prl_dp *dp, int has)
{
    dp_lock(dp);
    prl_owner_carrier(&dp->owner, has);
    dp_unlock(dp);
}

void prl_dp_policy(struct prl_dp *dp, int stop)
{
    dp_lock(dp);
    prl_owner_policy(&dp->owner, (uint32_t)stop);
    dp_owner_keep_closed(dp);
    dp_unlock(dp);
}

void prl_dp_arbitrated(struct prl_dp *dp, uint32_t round, uint8_t state)
{
    dp_lock(dp);
    dp->now_ns = dp_clock_ns(dp);
    dp_owner_do(dp, prl_owner_arbitrated(&dp->owner, round, state, dp->now_ns));
    dp_unlock(dp);
    dp->io->wake(dp->host); /* likewise */
}

int prl_dp_udp(struct prl_dp *dp, uint32_t path, int fd)
{
    int err;

    dp_lock(dp);
    err = dp->io->udp_open(dp->host, path, fd);
    dp_unlock(dp);
    return err;
}

void prl_dp_neighbours(struct prl_dp *dp, const struct prl_dp_neighbour *list, uint32_t count)
{
    dp_lock(dp);
    prl_owner_neighbours(&dp->owner, dp_neighbours_set(dp, list, count));
    dp_unlock(dp);
}

/* ---- planned moves ---- */

int prl_dp_switchover(struct prl_dp *dp, uint32_t service, int forced)
{
    uint8_t reason;

    if (service >= dp->config.owner.services)
        return -EINVAL;
    dp_lock(dp);
    dp->now_ns = dp_clock_ns(dp);
    reason = dp_move_request(dp, service, forced ? PRL_MOVE_FORCED : 0);
    prl_link_flush(&dp->link);
    dp_unlock(dp);
    dp->io->wake(dp->host);
    return reason;
}

int prl_dp_switchover_asked(struct prl_dp *dp, uint32_t service, int forced, uint64_t asked_ns, uint32_t strangers)
{
    if (service >= dp->config.owner.services)
        return -EINVAL;
    dp_lock(dp);
    dp->now_ns = dp_clock_ns(dp);
    dp_switchover_asked(dp, service, forced ? PRL_MOVE_FORCED : 0, asked_ns, strangers);
    prl_link_flush(&dp->link);
    dp_unlock(dp);
    dp->io->wake(dp->host);
    return 0;
}

int prl_dp_renounce(struct prl_dp *dp, uint32_t service)
{
    uint8_t reason = PRL_REASON_OK;
    int err = 0;

    if (service >= dp->config.owner.services)
        return -EINVAL;
    dp_lock(dp);
    dp->now_ns = dp_clock_ns(dp);
    if (dp->owner.state[service] != PRL_OWNER_OWNER)
        err = -EINVAL;
    else if (!dp->link_up)
        err = -ENOTCONN;
    else if (dp->capabilities & PRL_CAP_SWITCHOVER)
        dp_move_do(dp, service, prl_move_give(&dp->moves[service], dp->now_ns, &reason));
    else
        err = dp_service_renounce(dp, service);
    dp_unlock(dp);
    dp->io->wake(dp->host);
    return reason == PRL_REASON_OK ? err : -EBUSY;
}

int prl_dp_switchover_resolve(struct prl_dp *dp, uint32_t service, int taken, int by_hello)
{
    int err = 0;

    if (service >= dp->config.owner.services)
        return -EINVAL;
    dp_lock(dp);
    dp->now_ns = dp_clock_ns(dp);
    if (!taken && !by_hello &&
        (dp->now_ns < prl_owner_open_at_ns(&dp->owner) || !prl_owner_hears_lan(&dp->owner, dp->now_ns)))
        err = -EAGAIN; /* we were not running meanwhile: the wait began anew (L3); or no probe got out (L6) */
    else
        dp_move_do(dp, service, prl_move_resolve(&dp->moves[service], &dp->config.move, taken, dp->now_ns));
    dp_unlock(dp);
    dp->io->wake(dp->host);
    return err;
}

int prl_dp_is_given(struct prl_dp *dp, uint32_t service)
{
    int given;

    if (service >= dp->config.owner.services)
        return -EINVAL;
    dp_lock(dp);
    given = prl_move_is_given(&dp->moves[service]);
    dp_unlock(dp);
    return given;
}
