/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * When a dead datapath's flows may open (L6, L9): not before whatever waited for this machine while it stood still.
 *
 * A machine that is paused as a whole goes on with a heartbeat that is long stale, an owner's lease that is long over, and
 * a network card full of frames from before: the peer's, which look like evidence, and behind them the claim of the node that
 * has taken over meanwhile. So the flows wait until the datapath has been stale for PRL_SETTLE_NS during which this
 * machine ran; a timer of the program's own tells, for frames may be rare.
 */
#ifndef PRL_SETTLE_H
#define PRL_SETTLE_H

#include "maps.h"

/* A new owner that was not heard repeats its claim every PRL_CLAIM_SLOW_NS. */
#define PRL_SETTLE_NS (PRL_CLAIM_SLOW_NS + PRL_CLAIM_SLOW_NS / 2)
#define PRL_SETTLE_TICK_NS 20000000ull
/* A tick that is later than this: the machine stood still. */
#define PRL_SETTLE_GAP_NS 100000000ull
#define PRL_CLOCK_BOOTTIME 7 /* linux/time.h */

struct prl_settle {
    struct bpf_timer timer;
    __u64 since_ns; /* stale, and running, since then; 0: the timer does not run */
    __u64 tick_ns;
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
    __type(key, __u32);
    __type(value, struct prl_settle);
} prl_settle SEC(".maps");

/* Signed: a tick on another CPU may be newer than now_ns. */
static __always_inline int prl_stood_still(const struct prl_settle *settle, __u64 now_ns)
{
    return (__s64)(now_ns - settle->tick_ns) > (__s64)PRL_SETTLE_GAP_NS;
}

static int prl_settle_tick(void *map __attribute__((unused)), __u32 *key __attribute__((unused)),
                           struct prl_settle *settle)
{
    struct prl_node *node = prl_node_get();
    __u64 now_ns = bpf_ktime_get_boot_ns();

    if (!node || prl_health(node, now_ns) != PRL_STALE) {
        settle->since_ns = 0;
        return 0;
    }
    if (prl_stood_still(settle, now_ns))
        settle->since_ns = now_ns;
    settle->tick_ns = now_ns;
    bpf_timer_start(&settle->timer, PRL_SETTLE_TICK_NS, 0);
    return 0;
}

/* Of a datapath that is stale: whether its flows may open, as far as the time goes. The first question starts the wait. */
static __always_inline int prl_has_settled(__u64 now_ns)
{
    __u32 zero = 0;
    struct prl_settle *settle = bpf_map_lookup_elem(&prl_settle, &zero);

    if (!settle)
        return 0;
    if (!settle->since_ns || prl_stood_still(settle, now_ns)) {
        settle->since_ns = now_ns;
        settle->tick_ns = now_ns;
        bpf_timer_init(&settle->timer, &prl_settle, PRL_CLOCK_BOOTTIME); /* -EBUSY: it was there before */
        bpf_timer_set_callback(&settle->timer, prl_settle_tick);
        bpf_timer_start(&settle->timer, PRL_SETTLE_TICK_NS, 0);
        return 0;
    }
    return now_ns - settle->since_ns >= PRL_SETTLE_NS;
}

#endif /* PRL_SETTLE_H */
