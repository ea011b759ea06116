/* SPDX-License-Identifier: BSD-2-Clause */
#include "flow/dp.h"

#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(offsetof(struct prl_primary, counters) == 64,
               "what a packet changes of the core is one cache line");
_Static_assert(sizeof(struct dp_flow) == 320, "five cache lines");
_Static_assert(DP_COMPARE_TRIES <= UINT8_MAX, "dp_shadow.tries");

/* ---- table ---- */

static uint32_t bucket_of(const struct prl_dp *dp, const void *data, size_t bytes)
{
    return (uint32_t)(prl_siphash(&dp->hash_key, data, bytes) % dp->buckets);
}

static uint32_t *handle_bucket(struct prl_dp *dp, uint32_t handle)
{
    return &dp->by_handle[bucket_of(dp, &handle, sizeof(handle))];
}

static uint32_t *former_bucket(struct prl_dp *dp, uint32_t handle)
{
    return &dp->by_former[bucket_of(dp, &handle, sizeof(handle))];
}

static uint32_t *key_bucket(struct prl_dp *dp, const struct prl_flow_key *key)
{
    return &dp->by_key[bucket_of(dp, key, sizeof(*key))];
}

int dp_flows_init(struct prl_dp *dp)
{
    uint32_t count = dp->config.flows_max;

    dp->buckets = count;
    dp->flows = prl_pages(count * sizeof(*dp->flows));
    dp->slots_free = calloc(count, sizeof(*dp->slots_free));
    dp->by_handle = malloc(dp->buckets * sizeof(*dp->by_handle));
    dp->by_key = malloc(dp->buckets * sizeof(*dp->by_key));
    dp->by_former = malloc(dp->buckets * sizeof(*dp->by_former));
    dp->next_by_former = malloc(count * sizeof(*dp->next_by_former));
    if (!dp->flows || !dp->slots_free || !dp->by_handle || !dp->by_key || !dp->by_former || !dp->next_by_former ||
        prl_siphash_key(&dp->hash_key) || prl_slab_init(&dp->busy, sizeof(union dp_busy), PRL_DP_HOLDS))
        return -ENOMEM;
    memset(dp->by_handle, 0xff, dp->buckets * sizeof(*dp->by_handle));
    memset(dp->by_key, 0xff, dp->buckets * sizeof(*dp->by_key));
    memset(dp->by_former, 0xff, dp->buckets * sizeof(*dp->by_former));
    for (uint32_t i = 0; i < count; i++)
        dp->slots_free[dp->slots_free_count++] = count - 1 - i;
    dp->dirty = DP_LIST_END;
    dp->awake = DP_LIST_END;
    return 0;
}

uint32_t prl_dp_slot_bytes(void)
{
    const struct prl_dp *dp = NULL;

    return (uint32_t)(sizeof(*dp->slots_free) + sizeof(*dp->by_handle) + sizeof(*dp->by_key) +
                      sizeof(*dp->by_former) + sizeof(*dp->next_by_former));
}

uint32_t prl_dp_flow_bytes(void)
{
    return (uint32_t)(sizeof(struct dp_flow) + sizeof(struct prl_flow)) + prl_dp_slot_bytes();
}

void dp_flows_destroy(struct prl_dp *dp)
{
    for (uint32_t i = 0; dp->flows && i < dp->flows_top; i++)
        if (dp->flows[i].used) {
            dp_sign_forget_key(&dp->flows[i]);
            if (dp->flows[i].spec.fd >= 0)
                dp->io->sock_close(dp->host, dp->flows[i].spec.fd);
        }
    prl_pages_free(dp->flows, dp->config.flows_max * sizeof(*dp->flows));
    prl_slab_destroy(&dp->busy);
    free(dp->slots_free);
    free(dp->by_handle);
    free(dp->by_key);
    free(dp->by_former);
    free(dp->next_by_former);
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
        slot = dp->next_by_former[slot];
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
        at = &dp->next_by_former[*at];
    *at = dp->next_by_former[flow->slot];
    flow->former_handle = 0;
}

static void keep_spec(struct dp_flow *flow, const struct prl_flow_spec *spec, int fd)
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

/* ---- what a flow is lent ---- */

/* There are as many as entries for packets, and whoever asks has such an entry in hands that is in no other flow. */
static union dp_busy *lend(struct prl_dp *dp)
{
    union dp_busy *busy = prl_slab_get(&dp->busy);

    assert(busy);
    return busy;
}

void dp_primary_lend(struct prl_dp *dp, struct dp_flow *flow)
{
    if (!flow->primary.queues)
        flow->primary.queues = &lend(dp)->queues;
}

void dp_primary_settle(struct prl_dp *dp, struct dp_flow *flow)
{
    if (!flow->primary.queues || !prl_primary_is_quiet(&flow->primary))
        return;
    prl_slab_put(&dp->busy, flow->primary.queues);
    flow->primary.queues = NULL;
}

struct dp_unfed *dp_shadow_lend(struct prl_dp *dp, struct dp_flow *flow)
{
    if (!flow->shadow.unfed)
        flow->shadow.unfed = &lend(dp)->unfed;
    return flow->shadow.unfed;
}

void dp_shadow_settle(struct prl_dp *dp, struct dp_flow *flow)
{
    struct dp_unfed *unfed = flow->shadow.unfed;

    if (!unfed || unfed->kept.head || unfed->waiting.head)
        return;
    prl_slab_put(&dp->busy, unfed);
    flow->shadow.unfed = NULL;
}

/* ---- flows come and go ---- */

/* The number of a congestion control's name, or -ENOSPC. */
static int congestion_number(struct prl_dp *dp, const char name[16])
{
    for (uint32_t i = 0; i <= dp->congestions; i++)
        if (strncmp(dp->congestion[i], name, sizeof(dp->congestion[i])) == 0)
            return (int)i;
    if (dp->congestions + 1 == DP_CONGESTIONS_MAX)
        return -ENOSPC;
    memcpy(dp->congestion[++dp->congestions], name, sizeof(dp->congestion[0]));
    return (int)dp->congestions;
}

/* Enters the flow in table and kernel; the kernel's flags are still zero, so its packets pass. */
static int flow_enter(struct prl_dp *dp, const struct prl_flow_spec *spec, struct dp_flow **result)
{
    uint32_t service = dp_service_of(dp, &spec->key);
    struct dp_flow *flow;
    uint32_t *bucket;
    int err, fd;

    *result = NULL;
    if (service == PRL_SLOT_NONE)
        return -EADDRNOTAVAIL;
    if (dp->slots_free_count == 0)
        return -ENOSPC;
    fd = dp->io->sock_dup(dp->host, spec->fd);
    if (fd < 0)
        return fd;
    flow = &dp->flows[dp->slots_free[dp->slots_free_count - 1]];
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
    keep_spec(flow, spec, fd);
    err = dp_sign_set_key(flow, &spec->md5);
    if (!err)
        err = dp->io->gate_attach(dp->host, fd, flow->slot);
    if (!err) {
        err = dp->io->flow_add(dp->host, &spec->key, spec->handle, flow->slot);
        if (err)
            dp->io->gate_detach(dp->host, fd);
    }
    if (err) {
        dp_sign_forget_key(flow);
        dp->io->sock_close(dp->host, fd);
        return err;
    }
    dp->slots_free_count--;
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

void dp_flow_forget(struct prl_dp *dp, struct dp_flow *flow)
{
    struct prl_actions actions = {0};

    if (!flow->secondary) {
        prl_primary_fence(&flow->primary, &actions);
        dp_apply(dp, flow, &actions);
    }
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
    dp_sign_forget_key(flow);
    if (flow->secondary) {
        dp_verify_forget(dp, flow);
        dp_switchover_forget(dp, flow);
        assert(!flow->shadow.unfed);
    } else {
        assert(!flow->primary.queues);
    }
    if (flow->dirty) {
        uint32_t *at = &dp->dirty;

        while (*at != flow->slot)
            at = &dp->flows[*at].next_dirty;
        *at = flow->next_dirty;
    }
    flow->used = false;
    dp->slots_free[dp->slots_free_count++] = flow->slot;
}

/* ---- what the kernel is told, what it tells ---- */

void dp_flow_set_flags(struct dp_flow *flow)
{
    uint32_t flags = 0;

    if (flow->secondary) {
        switch (flow->secondary_core.state) {
        case PRL_SECONDARY_ACTIVE:
            flags = PRL_FLOW_SECONDARY | PRL_FLOW_ACTIVE;
            break;
        case PRL_SECONDARY_VOID:
            flags = PRL_FLOW_SECONDARY | PRL_FLOW_VOID;
            break;
        case PRL_SECONDARY_OWNER:
            flags = flow->relaying ? PRL_FLOW_RELAY : PRL_FLOW_OPEN;
            break;
        default:
            break;
        }
    } else {
        switch (flow->primary.state) {
        case PRL_PRIMARY_SETUP:
        case PRL_PRIMARY_VOIDING:
        case PRL_PRIMARY_MOVED:
            flags = PRL_FLOW_SETUP;
            break;
        case PRL_PRIMARY_ACTIVE:
            flags = PRL_FLOW_SETUP | PRL_FLOW_ACTIVE;
            break;
        case PRL_PRIMARY_OPEN:
            flags = PRL_FLOW_OPEN;
            break;
        default:
            break;
        }
        /* From the freeze on: a window that grew behind the snapshot is none that the shadow has (R10). */
        if (flags & PRL_FLOW_SETUP && flow->kernel->key.proto == IPPROTO_TCP && flow->edge_known)
            flags |= PRL_FLOW_CLAMP;
    }
    if (flow->md5)
        flags |= PRL_FLOW_MD5;
    __atomic_store_n(&flow->kernel->flags, flags, __ATOMIC_RELEASE);
}

uint32_t dp_flow_own_edge(const struct dp_flow *flow)
{
    const volatile struct prl_sock_view *view = &flow->kernel->sock;

    return view->rcv_wup + view->rcv_wnd;
}

void dp_flow_sample(struct prl_dp *dp, struct dp_flow *flow)
{
    if (flow->kernel->key.proto == IPPROTO_TCP)
        dp->io->sample(dp->host, &flow->slot, 1);
    else
        dp_udp_sample(dp, flow);
}

void dp_flow_note_peer(struct dp_flow *flow, const struct prl_packet *packet)
{
    if (packet->proto != IPPROTO_TCP)
        return;
    flow->peer_window = packet->window;
    if (packet->payload_bytes) /* a retransmission does not move it back */
        flow->peer_tcp_end = prl_serial_max(flow->peer_tcp_end ? flow->peer_tcp_end : packet->seq,
                                            packet->seq + packet->payload_bytes);
    if (packet->has_timestamps) {
        flow->has_peer_ts = true;
        flow->peer_tsval = packet->tsval;
        flow->peer_tsecr = packet->tsecr;
    }
}

bool dp_flow_has_packet(const struct dp_flow *flow, const uint8_t *l3, const struct prl_packet *packet,
                        uint16_t lif, uint16_t packet_flags)
{
    struct prl_flow_key key;

    if (prl_packet_is_icmp(packet) != !!(packet_flags & PRL_PACKET_ICMP) ||
        prl_packet_flow_key(l3, packet, lif, &key))
        return false;
    key.vlans = flow->kernel->key.vlans;
    if (prl_key_is_unconnected(&flow->kernel->key)) { /* anybody may have sent it */
        memset(key.remote, 0, sizeof(key.remote));
        key.remote_port = 0;
    }
    return memcmp(&key, &flow->kernel->key, sizeof(key)) == 0;
}

/* ---- time ---- */

/* A held segment can be lost between tc and us (the TAP's queue is full): its retransmission would be taken for a
 * duplicate for ever. When the kernel says "held" and nothing is here, it may hold from the committed end again. */
static bool hold_is_missing(const struct dp_flow *flow)
{
    const struct prl_flow *kernel = flow->kernel;

    return flow->primary.state == PRL_PRIMARY_ACTIVE && kernel->out_valid == flow->spec.generation + 1 &&
           !(flow->primary.queues &&
             (flow->primary.queues->out_held.head || flow->primary.queues->out_pending.head)) &&
           prl_serial_lt(kernel->out_committed, kernel->out_held);
}

static void repair_hold(struct prl_dp *dp, struct dp_flow *flow)
{
    struct prl_flow *kernel = flow->kernel;
    uint32_t now_ms = (uint32_t)(dp->now_ns / 1000000) | 1;

    if (!hold_is_missing(flow)) {
        flow->hold_missing_since_ms = 0;
    } else if (flow->hold_missing_since_ms == 0) {
        flow->hold_missing_since_ms = now_ms;
    } else if (now_ms - flow->hold_missing_since_ms > DP_HOLD_REPAIR_MS) {
        kernel->out_held = kernel->out_committed;
        flow->hold_missing_since_ms = 0;
    }
}

static bool session_ended(const struct dp_flow *flow)
{
    uint32_t state = flow->kernel->sock.state;

    return flow->kernel->key.proto == IPPROTO_TCP && flow->kernel->sock.stamp_ns &&
           (state == 0 || state == TCP_CLOSE || state == TCP_TIME_WAIT);
}

/* One step of the look at all flows, or at a share of many, the quiet ones as well: has the socket gone, did the datagram
 * queue overflow, was a held segment lost before we heard of it? */
static void scan(struct prl_dp *dp)
{
    uint32_t slots[DP_SCAN_SLOTS], count = 0;
    uint32_t first = dp->scan_next, end = first + DP_SCAN_SLOTS;
    uint32_t shares = 1 + dp->flows_top / DP_SCAN_FLOWS;

    if (first == 0 && dp->now_ns < dp->next_scan_ns)
        return;
    if (first == 0)
        dp->next_scan_ns = dp->now_ns + DP_ENDED_SCAN_NS;
    if (end > dp->flows_top)
        end = dp->flows_top;
    if (shares > DP_SCAN_SHARES)
        shares = DP_SCAN_SHARES;
    first += dp->scans % shares;
    for (uint32_t i = first; i < end; i += shares)
        if (dp->flows[i].used && dp->flows[i].kernel->key.proto == IPPROTO_TCP)
            slots[count++] = i;
    for (uint32_t done = 0; done < count; done += PRL_SAMPLE_MAX)
        dp->io->sample(dp->host, slots + done, count - done < PRL_SAMPLE_MAX ? count - done : PRL_SAMPLE_MAX);
    for (uint32_t i = first; i < end; i += shares) {
        struct dp_flow *flow = &dp->flows[i];

        if (!flow->used)
            continue;
        if (session_ended(flow) && !(flow->secondary && flow->secondary_core.state == PRL_SECONDARY_VOID))
            dp_event_flow(dp, PRL_EVENT_ENDED, flow, 0, PRL_REASON_ENDED);
        if (flow->kernel->key.proto == IPPROTO_UDP)
            dp_udp_check(dp, flow);
        if (flow->secondary)
            dp_secondary_space(dp, flow);
        else if (hold_is_missing(flow))
            dp_flow_wake(dp, flow);
    }
    dp->scan_next = end < dp->flows_top ? end : 0;
    if (dp->scan_next == 0)
        dp->scans++;
}

/* Whether time alone may bring the flow something; if not, it sleeps until something happens to it. */
static bool wants_time(struct prl_dp *dp, struct dp_flow *flow)
{
    const struct prl_primary *primary = &flow->primary;

    if (dp_verify_is_due(flow) || flow->relaying)
        return true;
    if (!flow->secondary)
        return prl_primary_deadline(primary) != UINT64_MAX || hold_is_missing(flow) ||
               (primary->queues && (primary->queues->in_pending.head || primary->queues->out_pending.head));
    if (flow->secondary_core.state != PRL_SECONDARY_ACTIVE || flow->kernel->key.proto != IPPROTO_TCP)
        return false;
    if (flow->kernel->sock.rmem_bytes && dp->now_ns - flow->kernel->sock.stamp_ns >= DP_UNREAD_SAMPLE_NS)
        dp_flow_sample(dp, flow);
    return flow->kernel->sock.rmem_bytes != 0;
}

void dp_flow_wake(struct prl_dp *dp, struct dp_flow *flow)
{
    if (flow->awake)
        return;
    flow->awake = true;
    flow->next_awake = dp->awake;
    dp->awake = flow->slot;
    if (dp->tick_ns > dp->now_ns + DP_TICK_NS)
        dp->tick_ns = dp->now_ns + DP_TICK_NS;
}

static void tick(struct prl_dp *dp, struct dp_flow *flow)
{
    struct prl_actions actions = {0};

    dp_verify_tick(dp, flow);
    if (flow->secondary) {
        dp_secondary_space(dp, flow);
        dp_switchover_settle(dp, flow);
        return;
    }
    if (prl_primary_deadline(&flow->primary) <= dp->now_ns) {
        prl_primary_tick(&flow->primary, dp->link_up, dp->now_ns, &actions);
        dp_apply(dp, flow, &actions);
    }
    if (flow->key_changed) {
        prl_primary_fail(&flow->primary, PRL_REASON_DIVERGED, dp->link_up, dp->now_ns, &actions);
        dp_apply(dp, flow, &actions);
        flow->key_changed = false;
    }
    repair_hold(dp, flow);
    if (prl_primary_wants_drain(&flow->primary, dp->now_ns))
        dp_primary_drain(dp, flow);
}

void dp_flows_tick(struct prl_dp *dp)
{
    uint32_t slot = dp->awake;

    dp->awake = DP_LIST_END;
    while (slot != DP_LIST_END) {
        struct dp_flow *flow = &dp->flows[slot];

        slot = flow->next_awake;
        flow->awake = false;
        if (!flow->used)
            continue;
        tick(dp, flow);
        if (wants_time(dp, flow))
            dp_flow_wake(dp, flow);
    }
    dp_verify_send_due(dp);
    bool more = dp_stray_look(dp);
    scan(dp);
    dp->tick_ns = more || dp->awake != DP_LIST_END || dp->scan_next ? dp->now_ns + DP_TICK_NS : dp->next_scan_ns;
}

/* ---- the control plane's calls ---- */

static uint32_t new_handle(struct prl_dp *dp)
{
    do
        dp->last_handle = prl_handle_next(dp->config.node_index, dp->last_handle);
    while (dp_flow_by_handle(dp, dp->last_handle)); /* a session that has lived through all of them has it yet */
    return dp->last_handle;
}

/* The flow stays where it is, in the kernel's table, too; what is under way to us has the former handle. */
static int rename_flow(struct prl_dp *dp, struct dp_flow *flow, uint32_t handle)
{
    int err = dp->io->flow_rename(dp->host, &flow->kernel->key, handle, flow->slot);
    uint32_t *bucket;

    if (err)
        return err;
    unlink_from(dp, handle_bucket(dp, flow->spec.handle), flow, false);
    forget_former(dp, flow);
    flow->former_handle = flow->spec.handle;
    bucket = former_bucket(dp, flow->former_handle);
    dp->next_by_former[flow->slot] = *bucket;
    *bucket = flow->slot;
    flow->spec.handle = flow->secondary_core.handle = handle;
    bucket = handle_bucket(dp, handle);
    flow->next_by_handle = *bucket;
    *bucket = flow->slot;
    return 0;
}

int prl_dp_flow_adopt(struct prl_dp *dp, uint32_t handle, uint32_t *own)
{
    struct dp_flow *flow;
    int err;

    dp_lock(dp);
    flow = dp_flow_by_handle(dp, handle);
    if (!flow || !flow->secondary || flow->secondary_core.state != PRL_SECONDARY_OWNER) {
        err = -ENOENT;
    } else {
        *own = new_handle(dp);
        err = rename_flow(dp, flow, *own);
    }
    dp_unlock(dp);
    return err;
}

/* A session that moved here and is still in our hands is protected without leaving them: its input stays captured. */
static int keep_in_hands(struct prl_dp *dp, struct dp_flow *flow, struct prl_flow_spec *spec)
{
    int fd = -1, err = 0;

    if (!dp_switchover_is_idle(dp, flow->service))
        return -EBUSY; /* input may still be relayed */
    if (!spec->handle) {
        spec->handle = new_handle(dp);
        err = rename_flow(dp, flow, spec->handle);
    }
    if (!err)
        fd = dp->io->sock_dup(dp->host, spec->fd);
    if (err || fd < 0)
        return err ? err : fd;
    dp_verify_forget(dp, flow);
    assert(!flow->shadow.unfed); /* nothing is relayed any more, and nothing waits for that */
    dp->io->sock_close(dp->host, flow->spec.fd);
    keep_spec(flow, spec, fd);
    flow->spec.generation = 0;
    flow->secondary = false;
    flow->relaying = false;
    memset(&flow->primary, 0, sizeof(flow->primary));
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
    if (flow && (flow->secondary ? flow->secondary_core.state == PRL_SECONDARY_ACTIVE
                                 : flow->primary.state != PRL_PRIMARY_OPEN))
        return -EEXIST;
    if (!flow && spec->handle)
        return -ENOENT;
    if (flow && flow->secondary && dp_verify_lacks(dp, flow))
        return -EBUSY; /* what the peer was told of is here alone: it is fed first */
    if (flow && flow->relaying) {
        err = keep_in_hands(dp, flow, spec);
        if (err)
            return err;
    } else if (flow && (flow->secondary || !spec->handle)) { /* taken over: a new flow takes its place */
        dp_flow_forget(dp, flow);
        flow = NULL;
    }
    if (!flow) {
        if (!spec->handle)
            spec->handle = new_handle(dp);
        spec->generation = 0;
        err = flow_enter(dp, spec, &flow);
        if (!flow)
            return err;
    }
    err = dp_sign_set_key(flow, &spec->md5); /* it may have changed since the last snapshot */
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

int prl_dp_primary_prepare(struct prl_dp *dp, struct prl_flow_spec *spec)
{
    struct dp_flow *known, *flow = NULL;
    int err;

    dp_lock(dp);
    known = known_flow(dp, spec);
    err = known && known->relaying ? -ENOTSUP : flow_of_setup(dp, spec, &flow);
    if (flow) {
        prl_primary_enter(&flow->primary, spec->handle, spec->generation);
        dp_flow_set_flags(flow);
    }
    dp_unlock(dp);
    return err;
}

int prl_dp_primary_setup(struct prl_dp *dp, struct prl_flow_spec *spec)
{
    struct prl_primary_limits limits;
    struct prl_actions actions = {0};
    struct dp_flow *flow = NULL;
    int err;

    dp_lock(dp);
    limits = dp->config.limits;
    limits.setup_ns = spec->setup_ns;
    err = flow_of_setup(dp, spec, &flow);
    if (!flow)
        goto out;
    spec->begun_ns = dp->now_ns = dp_clock_ns(dp);
    dp_switchover_disturbed(dp, flow->service);
    flow->edge_known = false;
    flow->key_changed = false;
    memset(&flow->compare, 0, sizeof(flow->compare));
    prl_primary_open(&flow->primary, spec->handle, spec->generation, dp->now_ns, &limits, &actions);
    dp_apply(dp, flow, &actions);
    dp_flow_sample(dp, flow);
    if (flow->kernel->key.proto == IPPROTO_UDP)
        dp_udp_open(dp, flow);
    flow->kernel->edge_limit = dp_flow_own_edge(flow);
    flow->edge_known = true;
    dp_flow_set_flags(flow);
out:
    dp_unlock(dp);
    return err;
}

void dp_primary_activate(struct prl_dp *dp, struct dp_flow *flow, uint32_t committed, uint32_t peer_edge)
{
    struct prl_actions actions = {0};

    prl_owner_has_shadow(&dp->owner, flow->service);
    dp_flow_sample(dp, flow);
    flow->kernel->edge_limit = peer_edge;
    prl_primary_activate(&flow->primary, committed, dp_flow_own_edge(flow), peer_edge,
                         flow->kernel->key.proto == IPPROTO_TCP, dp->now_ns, &actions);
    dp_apply(dp, flow, &actions);
    dp_primary_drain(dp, flow);
    prl_link_flush(&dp->link); /* whoever hears "active" may rely on it: only now can the shadow be taken over */
}

int prl_dp_primary_activate(struct prl_dp *dp, uint32_t handle, uint32_t generation, uint32_t committed,
                            uint32_t peer_edge)
{
    struct dp_flow *flow;
    int err = 0;

    dp_lock(dp);
    flow = dp_flow_by_handle(dp, handle);
    if (!flow || flow->secondary || flow->spec.generation != generation ||
        flow->primary.state != PRL_PRIMARY_SETUP || dp_owner_is_bypassed(dp)) {
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
    struct prl_actions actions = {0};
    struct dp_flow *flow;

    dp_lock(dp);
    flow = dp_flow_by_handle(dp, handle);
    if (flow && !flow->secondary) {
        dp->now_ns = dp_clock_ns(dp);
        prl_primary_fail(&flow->primary, reason, dp->link_up, dp->now_ns, &actions);
        dp_apply(dp, flow, &actions);
    }
    dp_unlock(dp);
    return flow ? 0 : -ENOENT;
}

int dp_secondary_enter(struct prl_dp *dp, const struct prl_flow_spec *spec, uint32_t *space)
{
    struct dp_flow *flow, *old;
    int err, congestion;

    congestion = congestion_number(dp, spec->congestion);
    if (congestion < 0)
        return congestion;
    old = dp_flow_by_handle(dp, spec->handle);
    if (old)
        dp_flow_forget(dp, old);
    old = dp_flow_by_key(dp, &spec->key);
    if (old)
        dp_flow_forget(dp, old);
    err = flow_enter(dp, spec, &flow);
    if (flow) {
        flow->secondary = true;
        err = dp_udp_mark(dp, flow, true);
        if (err) {
            dp_flow_forget(dp, flow);
            return err;
        }
        prl_owner_given_is_taken(&dp->owner, flow->service);
        flow->kernel->generation = spec->generation;
        dp_flow_sample(dp, flow);
        if (spec->key.proto == IPPROTO_UDP)
            dp_udp_open(dp, flow);
        *space = dp_flow_own_edge(flow); /* UDP: always 0; whether there is room is a matter of yes and no */
        prl_secondary_open(&flow->secondary_core, spec->handle, spec->generation, spec->committed, *space, true);
        flow->secondary_core.nack_retry =
            spec->key.proto == IPPROTO_TCP && (dp->capabilities & PRL_CAP_NACK_RETRY);
        dp_flow_set_flags(flow);
        PRL_PROBE3(setup, "shadow entered", spec->handle, spec->generation);
        flow->shadow.congestion = (uint8_t)congestion;
        flow->peer_window = (uint16_t)spec->peer_window;
        if (spec->replay) {
            err = dp_secondary_replay(dp, flow, spec);
            if (err)
                dp_flow_forget(dp, flow);
        }
    }
    return err;
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
    if (flow && flow->secondary) {
        dp_secondary_give_up(dp, flow, reason);
    }
    dp_unlock(dp);
    return flow ? 0 : -ENOENT;
}

int prl_dp_flow_close(struct prl_dp *dp, uint32_t handle)
{
    struct dp_flow *flow;

    dp_lock(dp);
    flow = dp_flow_by_handle(dp, handle);
    if (flow) {
        if (!flow->secondary && flow->primary.state == PRL_PRIMARY_ACTIVE) {
            struct prl_msg msg = {.type = PRL_MSG_CLOSE, .handle = handle, .generation = flow->spec.generation};

            dp_send(dp, &msg);
        }
        dp_flow_forget(dp, flow);
    }
    dp_unlock(dp);
    return flow ? 0 : -ENOENT;
}

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

uint32_t prl_dp_flow_handles(struct prl_dp *dp, uint32_t *handles, uint32_t capacity)
{
    uint32_t count = 0;

    dp_lock(dp);
    for (uint32_t i = 0; i < dp->flows_top; i++) {
        if (!dp->flows[i].used)
            continue;
        if (count < capacity)
            handles[count] = dp->flows[i].spec.handle;
        count++;
    }
    dp_unlock(dp);
    return count;
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
        info->state = flow->secondary ? flow->secondary_core.state : flow->primary.state;
        info->reason = flow->secondary ? flow->secondary_core.reason : flow->primary.reason;
        info->flags = kernel->flags;
        if (flow->secondary)
            info->secondary = flow->secondary_core;
        else
            info->primary = flow->primary;
        if (!flow->secondary && flow->primary.queues)
            info->queues = *flow->primary.queues;
        info->primary.queues = NULL;
        info->out_hash = flow->secondary ? flow->shadow.out_hash : 0;
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
