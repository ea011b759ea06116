/* SPDX-License-Identifier: BSD-2-Clause */
#include "loop/open.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "flow/dp.h"
#include "flow/lend.h"
#include "io/error.h"
#include "loop/loop.h"
#include "node/announce.h"
#include "node/claim.h"
#include "node/lan.h"
#include "node/ownership.h"
#include "node/probe.h"
#include "node/resync.h"
#include "node/setup.h"
#include "path/compare.h"
#include "path/mirror.h"
#include "path/reinject.h"
#include "path/takeover.h"
#include "path/timers.h"
#include "path/verify.h"

static int open_memory(struct prl_dp *dp, char *error)
{
    dp->umem = prl_umem_open(PRL_DP_FRAMES, PRL_DP_FRAME_BYTES, error);
    if (!dp->umem)
        return -ENOMEM;
    dp->dirty = DP_LIST_END;
    dp->awake = DP_LIST_END;
    if (dp_held_open(&dp->held) || prl_link_init(&dp->link, PRL_DP_LINK_TX_BYTES) || dp_table_open(dp) ||
        dp_lend_open(dp) || dp_reinject_open(dp) || dp_compares_open(dp) || dp_verify_open(dp) ||
        dp_mirror_open(dp) || dp_timers_open(dp) || dp_announce_open(dp) || dp_lan_open(dp) || dp_claim_open(dp) ||
        dp_probe_open(dp) || dp_setups_open(dp) || dp_resync_open(dp) || dp_takeover_open(dp)) {
        snprintf(error, PRL_ERROR_BYTES, "no memory for %u flows", dp->config.flows_max);
        return -ENOMEM;
    }
    return 0;
}

/* Whoever holds it runs as soon as the thread that waits for it would: a thread of the control plane has no real-time class. */
static void open_lock(struct prl_dp *dp)
{
    pthread_mutexattr_t inherits;

    pthread_mutexattr_init(&inherits);
    pthread_mutexattr_setprotocol(&inherits, PTHREAD_PRIO_INHERIT);
    pthread_mutex_init(&dp->lock, &inherits);
    pthread_mutexattr_destroy(&inherits);
}

struct prl_dp *dp_open(const struct prl_dp_config *config, const struct prl_io *io, struct prl_host *host,
                       char *error)
{
    struct prl_dp *dp = calloc(1, sizeof(*dp));

    if (!dp) {
        snprintf(error, PRL_ERROR_BYTES, "no memory for the datapath");
        io->close(host);
        return NULL;
    }
    dp->config = *config;
    dp->io = io;
    dp->host = host;
    dp->node = io->node(host);
    dp->link.fd = -1;
    open_lock(dp);
    if (dp_events_open(&dp->events)) {
        snprintf(error, PRL_ERROR_BYTES, "eventfd: %s", strerror(errno));
        goto fail;
    }
    dp->node->heartbeat_ns = dp_clock_ns(dp);
    if (open_memory(dp, error) || dp_owner_open(dp, error) || dp_loop_open(dp, error) ||
        io->start(host, dp->umem, error))
        goto fail;
    return dp;

fail:
    dp_close(dp);
    return NULL;
}

void dp_close(struct prl_dp *dp)
{
    prl_link_destroy(&dp->link);
    dp_table_close(dp);
    dp_lend_close(dp);
    dp_loop_close(dp);
    dp_setups_close(dp);
    dp_takeover_close(dp);
    dp_resync_close(dp);
    dp_probe_close(dp);
    dp_claim_close(dp);
    dp_lan_close(dp);
    dp_announce_close(dp);
    dp_timers_close(dp);
    dp_verify_close(dp);
    dp_mirror_close(dp);
    dp_compares_close(dp);
    dp_reinject_close(dp);
    dp_held_close(&dp->held);
    dp_events_close(&dp->events);
    dp->io->close(dp->host);
    prl_umem_close(dp->umem); /* the machine captures into it until then */
    pthread_mutex_destroy(&dp->lock);
    free(dp);
}
