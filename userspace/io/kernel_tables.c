/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The tables of flows and of service addresses, and what in front of them says without a look-up what is not in them
 * (struct prl_sieve; the bits in struct prl_node). All of it is written by the datapath's thread alone.
 */
#include <bpf/bpf.h>
#include <errno.h>
#include <string.h>
#include "io/kernel_private.h"
#include "io/kernel_tables.h"

struct prl_flow *prl_kernel_flow(struct prl_kernel *kernel, uint32_t slot)
{
    if (slot >= kernel->flows_max)
        return NULL;
    return (struct prl_flow *)(void *)(kernel->flow_state + slot * sizeof(struct prl_flow));
}

int prl_kernel_xsk_set(struct prl_kernel *kernel, uint32_t lif, uint32_t queue, int xsk_fd)
{
    if (lif >= PRL_LIFS_MAX || queue >= PRL_QUEUES_MAX)
        return -EINVAL;
    uint32_t key = lif * PRL_QUEUES_MAX + queue;
    return bpf_map_update_elem(kernel->map[PRL_MAP_XSKS], &key, &xsk_fd, BPF_ANY);
}

uint32_t prl_kernel_sieve_cell(const struct prl_flow_key *key)
{
    return prl_sieve_cell(key);
}

/* A full cell is not counted down: it does not know any more how many there are. */
static void count_flow(struct prl_kernel *kernel, const struct prl_flow_key *key, int by)
{
    uint8_t *flows = &kernel->sieve->flows[prl_sieve_cell(key)];

    if (*flows < UINT8_MAX)
        __atomic_store_n(flows, (uint8_t)(*flows + by), __ATOMIC_SEQ_CST);
}

int prl_kernel_flow_add(struct prl_kernel *kernel, const struct prl_flow_key *key, uint32_t handle, uint32_t slot)
{
    struct prl_flow *flow = prl_kernel_flow(kernel, slot);
    const struct prl_flow_ref ref = {.handle = handle, .slot = slot};

    if (!flow)
        return -EINVAL;
    flow->key = *key; /* before the programs can find the slot */
    flow->handle = handle;
    count_flow(kernel, key, 1);
    int code = bpf_map_update_elem(kernel->map[PRL_MAP_FLOWS], key, &ref, BPF_NOEXIST);
    if (code)
        count_flow(kernel, key, -1);
    return code;
}

int prl_kernel_flow_rename(struct prl_kernel *kernel, const struct prl_flow_key *key, uint32_t handle,
                           uint32_t slot)
{
    struct prl_flow *flow = prl_kernel_flow(kernel, slot);
    const struct prl_flow_ref ref = {.handle = handle, .slot = slot};

    if (!flow)
        return -EINVAL;
    flow->handle = handle;
    return bpf_map_update_elem(kernel->map[PRL_MAP_FLOWS], key, &ref, BPF_EXIST);
}

int prl_kernel_flow_del(struct prl_kernel *kernel, const struct prl_flow_key *key)
{
    int code = bpf_map_delete_elem(kernel->map[PRL_MAP_FLOWS], key);

    if (!code)
        count_flow(kernel, key, -1);
    return code;
}

/* Notes an entry's bit in userspace. Returns whether the entry is the only one that has it. */
static bool note_bit(struct prl_kernel *kernel, const struct prl_addr_key *key)
{
    struct prl_addr_bit *bit = &kernel->bit[prl_addr_bit(key->addr, key->ifindex)];

    if (!bit->used)
        *bit = (struct prl_addr_bit){.used = true, .key = *key};
    else if (memcmp(&bit->key, key, sizeof(*key)) != 0)
        bit->shared = true;
    return !bit->shared;
}

void prl_kernel_inherit_bits(struct prl_kernel *kernel)
{
    struct prl_addr_key key;
    const struct prl_addr_key *last = NULL;

    for (uint32_t i = 0; i < PRL_ADDR_BITS / 64; i++)
        __atomic_store_n(&kernel->node->open_bits[i], 0, __ATOMIC_SEQ_CST);
    for (uint32_t i = 0; i < PRL_ADDRS_MAX * PRL_LIFS_MAX; i++) {
        if (bpf_map_get_next_key(kernel->map[PRL_MAP_ADDRS], last, &key) < 0)
            break;
        note_bit(kernel, &key);
        last = &key;
    }
}

/*
 * The bits never say less than the entries: that there is one is said first, that it is owned last. A program that takes
 * ownership away meanwhile writes the entry before it clears the bit (prl_addr_fence()), so one of us two sees the
 * other's work.
 */
int prl_kernel_addr_set(struct prl_kernel *kernel, const struct prl_addr_key *key, const struct prl_addr *value)
{
    struct prl_addr entered = *value, found;
    uint32_t lif = 0;

    while (lif < kernel->lifs && kernel->ifindex[lif] != key->ifindex)
        lif++;
    if (lif == kernel->lifs)
        return -ENODEV;
    entered.lif = (uint16_t)lif;
    entered.bit = prl_addr_bit(key->addr, key->ifindex);
    bool alone = note_bit(kernel, key);
    uint64_t mask = 1ull << entered.bit % 64;
    __u64 *open = &kernel->node->open_bits[entered.bit / 64];

    __atomic_fetch_and(open, ~mask, __ATOMIC_SEQ_CST);
    __atomic_fetch_or(&kernel->node->addr_bits[entered.bit / 64], mask, __ATOMIC_SEQ_CST);
    uint32_t any = prl_addr_bit(key->addr, 0);
    __atomic_fetch_or(&kernel->node->any_bits[any / 64], 1ull << any % 64, __ATOMIC_SEQ_CST);
    int code = bpf_map_update_elem(kernel->map[PRL_MAP_ADDRS], key, &entered, BPF_ANY);
    if (code || !alone || entered.state != PRL_ADDR_OWNER)
        return code;
    kernel->node->open_lif[entered.bit] = (uint8_t)lif;
    __atomic_fetch_or(open, mask, __ATOMIC_SEQ_CST);
    if (bpf_map_lookup_elem(kernel->map[PRL_MAP_ADDRS], key, &found) < 0 || found.state != PRL_ADDR_OWNER ||
        __atomic_load_n(&kernel->node->fenced, __ATOMIC_SEQ_CST) >> (entered.service & 31) & 1)
        __atomic_fetch_and(open, ~mask, __ATOMIC_SEQ_CST);
    return 0;
}

int prl_kernel_addr_get(struct prl_kernel *kernel, const struct prl_addr_key *key, struct prl_addr *value)
{
    return bpf_map_lookup_elem(kernel->map[PRL_MAP_ADDRS], key, value);
}

int prl_kernel_await(struct prl_kernel *kernel, const struct prl_flow_key *endpoint, uint64_t wait_ns)
{
    struct prl_awaited awaited = {.wait_ns = wait_ns}, before;
    int code;

    bool is_known = bpf_map_lookup_elem(kernel->map[PRL_MAP_AWAITED], endpoint, &before) == 0;
    if (!wait_ns) {
        if (is_known && bpf_map_delete_elem(kernel->map[PRL_MAP_AWAITED], endpoint) == 0)
            __atomic_fetch_sub(&kernel->node->awaited, 1, __ATOMIC_SEQ_CST);
        return 0;
    }
    kernel->has_awaited = true;
    code = bpf_map_update_elem(kernel->map[PRL_MAP_AWAITED], endpoint, &awaited, BPF_ANY);
    if (!code && !is_known)
        __atomic_fetch_add(&kernel->node->awaited, 1, __ATOMIC_SEQ_CST);
    return code;
}

void prl_kernel_await_nothing(struct prl_kernel *kernel)
{
    struct prl_flow_key key;

    __atomic_store_n(&kernel->node->awaited, 0, __ATOMIC_SEQ_CST);
    for (uint32_t i = 0; i < PRL_AWAITED_MAX; i++)
        if (bpf_map_get_next_key(kernel->map[PRL_MAP_AWAITED], NULL, &key) < 0 ||
            bpf_map_delete_elem(kernel->map[PRL_MAP_AWAITED], &key) < 0)
            break;
}

/* A session of these is set up: somebody has them protected. */
static void forgive(struct prl_kernel *kernel, const struct prl_flow_key *key)
{
    struct prl_flow_key by_peer = *key, here = *key;
    const struct prl_flow_key *endpoint[] = {&by_peer, &here};
    struct prl_awaited awaited;

    memset(by_peer.remote, 0, sizeof(by_peer.remote));
    by_peer.remote_port = here.local_port = 0;
    for (unsigned i = 0; i < sizeof(endpoint) / sizeof(endpoint[0]); i++) {
        if (bpf_map_lookup_elem(kernel->map[PRL_MAP_AWAITED], endpoint[i], &awaited) < 0 || !awaited.late)
            continue;
        awaited.late = 0;
        bpf_map_update_elem(kernel->map[PRL_MAP_AWAITED], endpoint[i], &awaited, BPF_EXIST);
    }
}

int prl_kernel_newborn_end(struct prl_kernel *kernel, const struct prl_flow_key *key, struct prl_newborn *found)
{
    struct prl_flow_key bare = *key;

    bare.vlans = 0;
    if (kernel->has_awaited)
        forgive(kernel, &bare);
    return kernel->has_awaited && bpf_map_lookup_elem(kernel->map[PRL_MAP_NEWBORNS], &bare, found) == 0 &&
           bpf_map_delete_elem(kernel->map[PRL_MAP_NEWBORNS], &bare) == 0;
}
