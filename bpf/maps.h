/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The maps of an instance. Every object declares them all; libbpf pins the first and shares it with the rest
 * (PIN_BY_NAME under the instance's own directory). The sizes of the flow tables are lowered at load.
 */
#ifndef PRL_MAPS_H
#define PRL_MAPS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "prl_abi.h"

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, PRL_FLOWS_MAX);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
    __type(key, struct prl_flow_key);
    __type(value, struct prl_flow_ref);
} prl_flows SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
    __type(key, __u32);
    __type(value, struct prl_sieve);
} prl_sieve SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, PRL_FLOWS_MAX);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
    __type(key, __u32);
    __type(value, struct prl_flow);
} prl_flow_state SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
    __type(key, __u32);
    __type(value, struct prl_node);
} prl_node SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, PRL_ADDRS_MAX *PRL_LIFS_MAX);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
    __type(key, struct prl_addr_key);
    __type(value, struct prl_addr);
} prl_addrs SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, PRL_LIFS_MAX);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
    __type(key, __u32);
    __type(value, struct prl_lif);
} prl_lifs SEC(".maps");

/* ifindex → index of the logical interface */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, PRL_LIFS_MAX);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
    __type(key, __u32);
    __type(value, __u32);
} prl_lif_of SEC(".maps");

/* ifindex → cookie of its network namespace: devices with a clsact that was made for prl (userspace/io/kernel_clsact.c). No
 * program reads it: pinned with the others, it tells the next prld what the one that was killed has made. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, PRL_CLSACTS_MAX);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
    __type(key, __u32);
    __type(value, __u64);
} prl_clsacts SEC(".maps");

/* lif * PRL_QUEUES_MAX + queue → AF_XDP socket */
struct {
    __uint(type, BPF_MAP_TYPE_XSKMAP);
    __uint(max_entries, PRL_LIFS_MAX *PRL_QUEUES_MAX);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
    __type(key, __u32);
    __type(value, __u32);
} prl_xsks SEC(".maps");

/* socket cookie → slot of the flow that the socket's mark gate guards */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, PRL_FLOWS_MAX);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
    __type(key, __u64);
    __type(value, __u32);
} prl_gates SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
    __type(key, __u32);
    __type(value, struct prl_sample);
} prl_sample SEC(".maps");

/* key of an endpoint's sessions, what differs between them zero → for how long new ones may wait to be protected */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, PRL_AWAITED_MAX);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
    __type(key, struct prl_flow_key);
    __type(value, struct prl_awaited);
} prl_awaited SEC(".maps");

/* key of a session, its tags zero → how long it waits */
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, PRL_NEWBORNS_MAX);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
    __type(key, struct prl_flow_key);
    __type(value, struct prl_newborn);
} prl_newborns SEC(".maps");

static __always_inline struct prl_node *prl_node_get(void)
{
    __u32 zero = 0;
    return bpf_map_lookup_elem(&prl_node, &zero);
}

/* Counters are shared by all CPUs; they are touched only for traffic of service addresses. */
#define PRL_COUNT(counter) __sync_fetch_and_add(&(counter), 1)

/* A word that userspace or another CPU may change at any time. */
#define PRL_READ(word) (*(const volatile __typeof__(word) *)&(word))
#define PRL_WRITE(word, value) (*(volatile __typeof__(word) *)&(word) = (value))

enum prl_health {
    PRL_HEALTHY,  /* the datapath works: its flows are replicated */
    PRL_BYPASSED, /* the datapath was dead and its flows were opened: they pass */
    PRL_STALE,    /* the datapath is dead or hung, nothing has been decided yet */
};

static __always_inline enum prl_health prl_health(const struct prl_node *node, __u64 now_ns)
{
    if (PRL_READ(node->bypassed))
        return PRL_BYPASSED;
    /* signed: the heartbeat may have been written after now_ns was read */
    __s64 age_ns = (__s64)(now_ns - PRL_READ(node->heartbeat_ns));
    return age_ns <= (__s64)node->stale_ns ? PRL_HEALTHY : PRL_STALE;
}

/* Of this moment, or of one in the same jiffy: the clock is read once a jiffy as long as all is well. */
static __always_inline enum prl_health prl_health_about_now(struct prl_node *node)
{
    __u64 jiffies = bpf_jiffies64();
    __u64 heartbeat_ns = PRL_READ(node->heartbeat_ns);

    if (PRL_READ(node->bypassed))
        return PRL_BYPASSED;
    if (PRL_READ(node->fresh_jiffies) == jiffies && PRL_READ(node->fresh_heartbeat_ns) == heartbeat_ns)
        return PRL_HEALTHY;
    enum prl_health health = prl_health(node, bpf_ktime_get_boot_ns());
    if (health == PRL_HEALTHY) {
        PRL_WRITE(node->fresh_heartbeat_ns, heartbeat_ns);
        PRL_WRITE(node->fresh_jiffies, jiffies);
    }
    return health;
}

#endif /* PRL_MAPS_H */
