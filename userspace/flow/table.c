/* SPDX-License-Identifier: BSD-2-Clause */
#include "flow/table.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/handle.h"
#include "flow/dp.h"

static uint32_t bucket_of(const struct prl_dp *dp, const void *data, size_t bytes)
{
    return (uint32_t)(prl_siphash(&dp->table.hash_key, data, bytes) % dp->table.buckets);
}

static uint32_t *handle_bucket(struct prl_dp *dp, uint32_t handle)
{
    return &dp->table.by_handle[bucket_of(dp, &handle, sizeof(handle))];
}

static uint32_t *former_bucket(struct prl_dp *dp, uint32_t handle)
{
    return &dp->table.by_former[bucket_of(dp, &handle, sizeof(handle))];
}

static uint32_t *key_bucket(struct prl_dp *dp, const struct prl_flow_key *key)
{
    return &dp->table.by_key[bucket_of(dp, key, sizeof(*key))];
}

int dp_table_open(struct prl_dp *dp)
{
    uint32_t count = dp->config.flows_max;

    dp->table.buckets = count;
    dp->flows = prl_pages(count * sizeof(*dp->flows));
    dp->table.notes = prl_pages(count * sizeof(*dp->table.notes));
    dp->table.slots_free = calloc(count, sizeof(*dp->table.slots_free));
    dp->table.by_handle = malloc(dp->table.buckets * sizeof(*dp->table.by_handle));
    dp->table.by_key = malloc(dp->table.buckets * sizeof(*dp->table.by_key));
    dp->table.by_former = malloc(dp->table.buckets * sizeof(*dp->table.by_former));
    dp->table.next_by_former = malloc(count * sizeof(*dp->table.next_by_former));
    if (!dp->flows || !dp->table.notes || !dp->table.slots_free || !dp->table.by_handle || !dp->table.by_key ||
        !dp->table.by_former || !dp->table.next_by_former || prl_siphash_key(&dp->table.hash_key))
        return -ENOMEM;
    memset(dp->table.by_handle, 0xff, dp->table.buckets * sizeof(*dp->table.by_handle));
    memset(dp->table.by_key, 0xff, dp->table.buckets * sizeof(*dp->table.by_key));
    memset(dp->table.by_former, 0xff, dp->table.buckets * sizeof(*dp->table.by_former));
    for (uint32_t i = 0; i < count; i++)
        dp->table.slots_free[dp->table.slots_free_count++] = count - 1 - i;
    dp->dirty = DP_LIST_END;
    dp->awake = DP_LIST_END;
    return 0;
}

uint32_t dp_table_slot_bytes(void)
{
    const struct prl_dp *dp = NULL;

    return (uint32_t)(sizeof(*dp->table.slots_free) + sizeof(*dp->table.by_handle) + sizeof(*dp->table.by_key) +
                      sizeof(*dp->table.by_former) + sizeof(*dp->table.next_by_former));
}

uint32_t dp_table_flow_bytes(void)
{
    return (uint32_t)(sizeof(struct dp_flow) + sizeof(struct prl_note) + sizeof(struct prl_flow)) +
           dp_table_slot_bytes();
}

void dp_table_close(struct prl_dp *dp)
{
    for (uint32_t i = 0; dp->flows && i < dp->flows_top; i++)
        if (dp->flows[i].used) {
            dp_flow_forget_key(&dp->flows[i]);
            if (dp->flows[i].spec.fd >= 0)
                dp->io->sock_close(dp->host, dp->flows[i].spec.fd);
        }
    prl_pages_free(dp->flows, dp->config.flows_max * sizeof(*dp->flows));
    prl_pages_free(dp->table.notes, dp->config.flows_max * sizeof(*dp->table.notes));
    free(dp->table.slots_free);
    free(dp->table.by_handle);
    free(dp->table.by_key);
    free(dp->table.by_former);
    free(dp->table.next_by_former);
}

struct dp_flow *dp_flow_by_handle(struct prl_dp *dp, uint32_t handle)
{
    uint32_t slot = *handle_bucket(dp, handle);

    while (slot != DP_LIST_END && dp->flows[slot].spec.handle != handle)
        slot = dp->flows[slot].next_by_handle;
    return slot == DP_LIST_END ? NULL : &dp->flows[slot];
}

struct dp_flow *dp_flow_by_former(struct prl_dp *dp, uint32_t handle)
{
    uint32_t slot = *former_bucket(dp, handle);

    while (slot != DP_LIST_END && dp->flows[slot].former_handle != handle)
        slot = dp->table.next_by_former[slot];
    return slot == DP_LIST_END ? NULL : &dp->flows[slot];
}

struct dp_flow *dp_flow_by_key(struct prl_dp *dp, const struct prl_flow_key *key)
{
    uint32_t slot = *key_bucket(dp, key);

    while (slot != DP_LIST_END && memcmp(&dp->flows[slot].kernel->key, key, sizeof(*key)) != 0)
        slot = dp->flows[slot].next_by_key;
    return slot == DP_LIST_END ? NULL : &dp->flows[slot];
}

struct dp_flow *dp_flow_of_frame(struct prl_dp *dp, const struct prl_meta *meta)
{
    struct dp_flow *flow = meta->slot < dp->flows_top ? &dp->flows[meta->slot] : NULL;

    if (!flow || !flow->used || !meta->handle)
        return NULL;
    return flow->spec.handle == meta->handle || flow->former_handle == meta->handle ? flow : NULL;
}

uint32_t dp_service_of(const struct prl_dp *dp, const struct prl_flow_key *key)
{
    for (uint32_t i = 0; i < dp->config.addresses; i++)
        if (dp->config.address[i].lif == key->lif &&
            memcmp(dp->config.address[i].addr, key->local, sizeof(key->local)) == 0)
            return dp->config.address[i].service;
    return PRL_SLOT_NONE;
}

static void unlink_from(struct prl_dp *dp, uint32_t *at, const struct dp_flow *flow, bool by_key)
{
    while (*at != DP_LIST_END) {
        struct dp_flow *here = &dp->flows[*at];
        uint32_t *next = by_key ? &here->next_by_key : &here->next_by_handle;

        if (here == flow) {
            *at = *next;
            return;
        }
        at = next;
    }
}

static void forget_former(struct prl_dp *dp, struct dp_flow *flow)
{
    uint32_t *at = former_bucket(dp, flow->former_handle);

    if (!flow->former_handle)
        return;
    while (*at != flow->slot)
        at = &dp->table.next_by_former[*at];
    *at = dp->table.next_by_former[flow->slot];
    flow->former_handle = 0;
}

bool dp_flow_is_noted(const struct prl_dp *dp, const struct dp_flow *flow)
{
    return dp->table.notes[flow->slot].kind != 0;
}

void dp_flow_keep_spec(struct dp_flow *flow, const struct prl_flow_spec *spec, int fd)
{
    flow->spec = (struct dp_spec){
        .handle = spec->handle,
        .generation = spec->generation,
        .fd = fd,
        .mss = (uint16_t)spec->mss,
        .timestamps = spec->timestamps != 0,
        .hash_output = spec->hash_output != 0,
    };
    flow->kernel->rcv_wscale = spec->rcv_wscale;
}

int dp_flow_enter(struct prl_dp *dp, const struct prl_flow_spec *spec, struct dp_flow **result)
{
    uint32_t service = dp_service_of(dp, &spec->key);
    struct dp_flow *flow;
    uint32_t *bucket;
    int err, fd;

    *result = NULL;
    if (service == PRL_SLOT_NONE)
        return -EADDRNOTAVAIL;
    if (dp->table.slots_free_count == 0)
        return -ENOSPC;
    fd = dp->io->sock_dup(dp->host, spec->fd);
    if (fd < 0)
        return fd;
    flow = &dp->flows[dp->table.slots_free[dp->table.slots_free_count - 1]];
    bool awake = flow->awake; /* the list may still have the slot from its last flow */
    uint32_t next_awake = flow->next_awake;

    memset(flow, 0, sizeof(*flow));
    flow->awake = awake;
    flow->next_awake = next_awake;
    flow->slot = (uint32_t)(flow - dp->flows);
    flow->service = (uint8_t)service;
    flow->kernel = dp->io->flow(dp->host, flow->slot);
    memset(flow->kernel, 0, sizeof(*flow->kernel));
    flow->kernel->key = spec->key;
    flow->kernel->handle = spec->handle;
    dp_flow_keep_spec(flow, spec, fd);
    err = dp_flow_set_key(flow, &spec->md5);
    if (!err)
        err = dp->io->gate_attach(dp->host, fd, flow->slot);
    if (!err) {
        err = dp->io->flow_add(dp->host, &spec->key, spec->handle, flow->slot);
        if (err)
            dp->io->gate_detach(dp->host, fd);
    }
    if (err) {
        dp_flow_forget_key(flow);
        dp->io->sock_close(dp->host, fd);
        return err;
    }
    dp->table.slots_free_count--;
    if (flow->slot >= dp->flows_top)
        dp->flows_top = flow->slot + 1;
    flow->used = true;
    bucket = handle_bucket(dp, spec->handle);
    flow->next_by_handle = *bucket;
    *bucket = flow->slot;
    bucket = key_bucket(dp, &spec->key);
    flow->next_by_key = *bucket;
    *bucket = flow->slot;
    *result = flow;
    return 0;
}

void dp_flow_remove(struct prl_dp *dp, struct dp_flow *flow)
{
    dp->io->flow_del(dp->host, &flow->kernel->key);
    flow->kernel->flags = PRL_FLOW_OPEN;
    if (flow->spec.fd >= 0) {
        dp->io->gate_detach(dp->host, flow->spec.fd);
        dp->io->sock_close(dp->host, flow->spec.fd);
    } else {
        dp->io->gate_forget(dp->host, flow->orphan_cookie);
    }
    unlink_from(dp, handle_bucket(dp, flow->spec.handle), flow, false);
    unlink_from(dp, key_bucket(dp, &flow->kernel->key), flow, true);
    forget_former(dp, flow);
    dp_flow_forget_key(flow);
    flow->used = false;
    if (dp_flow_is_noted(dp, flow)) /* else the page stays untouched */
        dp->table.notes[flow->slot] = (struct prl_note){0};
    dp->table.slots_free[dp->table.slots_free_count++] = flow->slot;
}

uint32_t dp_flow_new_handle(struct prl_dp *dp)
{
    do
        dp->table.last_handle = prl_handle_next(dp->config.node_index, dp->table.last_handle);
    while (dp_flow_by_handle(dp,
                             dp->table.last_handle)); /* a session that has lived through all of them has it yet */
    return dp->table.last_handle;
}

int dp_flow_rename(struct prl_dp *dp, struct dp_flow *flow, uint32_t handle)
{
    int err = dp->io->flow_rename(dp->host, &flow->kernel->key, handle, flow->slot);
    uint32_t *bucket;

    if (err)
        return err;
    unlink_from(dp, handle_bucket(dp, flow->spec.handle), flow, false);
    forget_former(dp, flow);
    flow->former_handle = flow->spec.handle;
    bucket = former_bucket(dp, flow->former_handle);
    dp->table.next_by_former[flow->slot] = *bucket;
    *bucket = flow->slot;
    flow->spec.handle = dp_secondary_of(flow)->handle = handle;
    bucket = handle_bucket(dp, handle);
    flow->next_by_handle = *bucket;
    *bucket = flow->slot;
    return 0;
}
