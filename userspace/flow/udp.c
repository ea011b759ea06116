/* SPDX-License-Identifier: BSD-2-Clause */
#include "flow/udp.h"

#include <linux/sock_diag.h>
#include <string.h>
#include <sys/socket.h>

#include "flow/dp.h"
#include "tcp/serial.h"

/* The most that the kernel charges a socket for a datagram of so many bytes (skb->truesize, with what the allocator
 * rounds up to). */
#define CHARGE_BYTES(bytes, packets) (2ull * (bytes) + 2048ull * (packets))
/* This part of the buffer stays free for datagrams that are on their way from the inject TAP to the socket: the
 * kernel lets at most netdev_max_backlog (1000) of them wait. */
#define RESERVE_OF(rcvbuf_bytes) ((rcvbuf_bytes) / 4)

static bool meminfo(const struct prl_dp *dp, const struct dp_flow *flow, uint32_t words[SK_MEMINFO_VARS])
{
    return dp->io->sock_get(dp->host, flow->spec.fd, SOL_SOCKET, SO_MEMINFO, words,
                            SK_MEMINFO_VARS * sizeof(*words)) == 0;
}

/* Datagrams that the socket refused, but for those that its gate did: these never belonged to the flow. Read in this
 * order, one that the gate refuses meanwhile never looks like a loss. */
static bool lost(const struct prl_dp *dp, const struct dp_flow *flow, uint32_t *count)
{
    uint32_t words[SK_MEMINFO_VARS];

    if (!meminfo(dp, flow, words))
        return false;
    *count = words[SK_MEMINFO_DROPS] - (uint32_t)__atomic_load_n(&flow->kernel->gate_refused, __ATOMIC_ACQUIRE);
    return true;
}

void dp_udp_open(const struct prl_dp *dp, struct dp_flow *flow)
{
    lost(dp, flow, &flow->udp_lost_before);
}

/* To a connected shadow's peer the neighbour entry is pinned; for one with many peers output may wait in a neighbour's
 * queue, until after the take-over. */
int dp_udp_mark(const struct prl_dp *dp, const struct dp_flow *flow, bool is_shadow)
{
    const uint32_t mark = is_shadow ? PRL_MARK_SHADOW : 0;

    if (!prl_key_is_unconnected(&flow->kernel->key))
        return 0;
    return dp->io->sock_set(dp->host, flow->spec.fd, SOL_SOCKET, SO_MARK, &mark, sizeof(mark));
}

void dp_udp_sample(const struct prl_dp *dp, struct dp_flow *flow)
{
    struct prl_sock_view *view = &flow->kernel->sock;
    uint32_t words[SK_MEMINFO_VARS];

    if (!meminfo(dp, flow, words))
        return;
    view->rmem_bytes = words[SK_MEMINFO_RMEM_ALLOC];
    view->rcvbuf_bytes = words[SK_MEMINFO_RCVBUF];
    view->drops = words[SK_MEMINFO_DROPS];
}

bool dp_udp_has_room(const struct prl_dp *dp, const struct dp_flow *flow, uint32_t bytes)
{
    const struct prl_queues *queues = flow->secondary ? NULL : dp_primary_of(flow)->queues;
    uint32_t words[SK_MEMINFO_VARS];
    uint64_t used, rcvbuf_bytes;

    if (!meminfo(dp, flow, words))
        return false;
    rcvbuf_bytes = words[SK_MEMINFO_RCVBUF];
    used = words[SK_MEMINFO_RMEM_ALLOC] + CHARGE_BYTES(bytes, 1);
    if (queues)
        used += CHARGE_BYTES(queues->in_held.bytes + queues->in_pending.bytes,
                             queues->in_held.count + queues->in_pending.count);
    return used <= rcvbuf_bytes - RESERVE_OF(rcvbuf_bytes);
}

bool dp_udp_diverged(const struct prl_dp *dp, const struct dp_flow *flow)
{
    uint32_t now;

    return lost(dp, flow, &now) && prl_serial_lt(flow->udp_lost_before, now);
}
