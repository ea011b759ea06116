/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The datapath: what the files above share of it. What only one of them needs is that file's own, a structure that nobody
 * else can look into. Everything is under dp->lock.
 */
#ifndef PRL_FLOW_DP_H
#define PRL_FLOW_DP_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/ownership.h"
#include "core/switchover.h"
#include "flow/config.h"
#include "flow/congestion.h"
#include "flow/counters.h"
#include "flow/events.h"
#include "flow/flow.h"
#include "flow/held.h"
#include "flow/slab.h"
#include "flow/table.h"
#include "io/io.h"
#include "io/link.h"
#include "io/umem.h"
#include "prl_abi.h"

/* Work of one pass over one source, frames or messages (R4: bounded per wake-up; heartbeats go between two passes). */
#define DP_BATCH 256

struct prl_dp {
    struct prl_dp_config config;
    const struct prl_io *io; /* the machine, and what it asks to be called with */
    struct prl_host *host;
    struct prl_node *node; /* the programs', shared */
    pthread_mutex_t lock;
    _Atomic uint32_t waiting; /* callers that want the lock */
    _Atomic bool stop;
    uint64_t now_ns; /* CLOCK_BOOTTIME, read once a pass */

    struct prl_umem *umem;
    struct dp_held held;
    struct prl_slab busy; /* what flows are lent (flow/lend.h) */
    struct dp_congestions congestions;
    struct dp_table table;
    struct dp_flow *flows;
    uint32_t flows_top; /* slots below this have been used */
    uint32_t dirty; /* flows that owe an ACK */
    uint32_t awake; /* flows that dp_flows_tick() looks at (flow/wake.h) */
    uint64_t tick_ns; /* when dp_flows_tick() has something to do next */

    struct prl_link link;
    bool link_up; /* HELLO agreed; false: only HELLO is read */
    bool hello_seen;
    bool link_again; /* more messages are here than the last pass took */
    bool mirrors; /* long packets go by the cable (docs/mirror.md): until the link is lost, or it starves them */
    bool link_overflow; /* a message found no room: the stream has a hole, the connection is given up */
    uint64_t epoch, capabilities, rtt_ns, rtt_min_ns;
    uint64_t lease_came_ns; /* when the newest LEASE did, which the next one echoes */

    struct prl_owner owner;
    bool proof_awaited; /* the kernel is to be told when owner.proof_by_ns is met */
    struct prl_move moves[PRL_SERVICES_MAX];

    struct dp_reinject *reinject;
    struct dp_compares *compares;
    struct dp_verify *verify;
    struct dp_mirror *mirror;
    struct dp_timers *timers;
    struct dp_announce *announce;
    struct dp_lan *lan;
    struct dp_claim *claim;
    struct dp_probe *probe;
    struct dp_setups *setups;
    struct dp_resync *resync;
    struct dp_takeover *takeover;
    struct dp_loop *loop;

    struct dp_events events;
    struct prl_dp_counters counters;
};

static inline uint64_t dp_clock_ns(const struct prl_dp *dp)
{
    return dp->io->now_ns(dp->host);
}

#endif /* PRL_FLOW_DP_H */
