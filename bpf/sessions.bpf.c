// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * What TCP says of the sessions of service addresses (docs/sessions.md). It calls this program when a connection is established
 * and, as the program asks it to then, whenever that changes its state. Attached to the root of cgroup v2, so it is called for
 * every connection of the host, in all network namespaces: those of others are told apart by the cookie of theirs.
 *
 * The link is prld's and goes with it: a dead prld is not waited for.
 */
#include <linux/bpf.h>
#include "birth.h"
#include "parse.h"
#include "kernel_types.h"

#define AF_INET 2 /* linux/socket.h draws in libc's headers, which know no bpf target */
#define AF_INET6 10
#define IFF_LOOPBACK 0x8 /* linux/if.h, likewise */

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, PRL_NEWS_RING_BYTES);
} prl_news SEC(".maps");

/* Whether it may be a session of a service address in prld's network namespace; makes key its key in prl_newborns. */
static __always_inline int is_of_service(struct bpf_sock_ops *ops, const struct prl_node *node,
                                         struct prl_flow_key *key)
{
    /* All is read before it is asked which: the verifier wants reads of the context as they are written here. */
    __u32 local[4] = {PRL_READ(ops->local_ip6[0]), PRL_READ(ops->local_ip6[1]), PRL_READ(ops->local_ip6[2]),
                      PRL_READ(ops->local_ip6[3])};
    __u32 remote[4] = {PRL_READ(ops->remote_ip6[0]), PRL_READ(ops->remote_ip6[1]), PRL_READ(ops->remote_ip6[2]),
                       PRL_READ(ops->remote_ip6[3])};
    __u32 local_v4 = PRL_READ(ops->local_ip4), remote_v4 = PRL_READ(ops->remote_ip4);
    __u32 local_port = PRL_READ(ops->local_port), remote_port = PRL_READ(ops->remote_port);

    __builtin_memset(key, 0, sizeof(*key));
    if (ops->family == AF_INET) {
        prl_map_v4(key->local, local_v4);
        prl_map_v4(key->remote, remote_v4);
    } else {
        __builtin_memcpy(key->local, local, sizeof(local));
        __builtin_memcpy(key->remote, remote, sizeof(remote));
    }
    key->local_port = bpf_htons((__u16)local_port);
    key->remote_port = (__be16)(remote_port >> 16); /* in network order, in the upper half (net/core/filter.c) */
    key->proto = IPPROTO_TCP;
    return prl_is_anywhere(node, key->local) && bpf_get_netns_cookie(ops) == PRL_READ(node->netns_cookie);
}

/*
 * The handshake is over: the endpoint's own limit counts from here on. TCP does not know by which logical interface; the SYN or
 * SYN-ACK has left by it. Of two sessions with the same ends in two routing instances, one whose handshake goes on has that
 * time until its own is over, too. What a peer has opened waits even if its entry has gone meanwhile, which is counted: others have
 * evicted it, unless its endpoint was not awaited yet when its SYN-ACK left. A socket that is being restored (TCP_REPAIR) has
 * opened nothing.
 */
static __always_inline void born(struct prl_node *node, struct prl_flow_key *key, enum prl_opened opened)
{
    struct prl_newborn newborn = {};
    __u64 now_ns = bpf_ktime_get_boot_ns(), lost_ns = 0;
    __u16 lost_lif = 0;

    for (__u32 i = 0; i < PRL_LIFS_MAX; i++) {
        struct prl_lif *lif = prl_lif_at(i);
        if (!lif)
            break;
        if (!prl_addr_find(node, key->local, lif->ifindex))
            continue;
        key->lif = (__u16)i;
        struct prl_newborn *begun = bpf_map_lookup_elem(&prl_newborns, key);
        __u64 awaited_ns = prl_awaited_ns(key, opened);
        if (begun && awaited_ns) {
            PRL_WRITE(begun->until_ns, now_ns + awaited_ns);
            PRL_COUNT(node->births);
            return;
        }
        if (begun)
            bpf_map_delete_elem(&prl_newborns, key);
        else if (awaited_ns && !lost_ns) {
            lost_ns = awaited_ns;
            lost_lif = (__u16)i;
        }
    }
    if (!lost_ns || opened == PRL_OPENED_HERE)
        return;
    PRL_COUNT(node->births_evicted);
    key->lif = lost_lif;
    newborn.until_ns = now_ns + lost_ns;
    if (bpf_map_update_elem(&prl_newborns, key, &newborn, BPF_ANY) == 0)
        PRL_COUNT(node->births);
}

static __always_inline void tell(struct prl_node *node, struct prl_news news)
{
    struct prl_news *told = bpf_ringbuf_reserve(&prl_news, sizeof(*told), 0);

    if (!told) {
        PRL_COUNT(node->news_missed);
        return;
    }
    *told = news;
    bpf_ringbuf_submit(told, 0);
}

static __always_inline void established(struct bpf_sock_ops *ops, struct prl_node *node)
{
    struct prl_flow_key key;

    if (!is_of_service(ops, node, &key))
        return;
    /* One is as good as many, and ends need the room. */
    if (bpf_ringbuf_query(&prl_news, BPF_RB_AVAIL_DATA) < PRL_NEWS_RING_BYTES / 2)
        tell(node, (struct prl_news){.cookie = bpf_get_socket_cookie(ops), .kind = PRL_NEWS_BORN});
    /* what other programs have asked for stays */
    bpf_sock_ops_cb_flags_set(ops, ops->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
    if (PRL_READ(node->awaited))
        born(node, &key, ops->op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB ? PRL_OPENED_BY_PEER : PRL_OPENED_HERE);
}

/* Flows are known by the mark gate of their socket. */
static __always_inline void ended(struct bpf_sock_ops *ops, struct prl_node *node)
{
    __u64 cookie = bpf_get_socket_cookie(ops);
    __u32 *slot = bpf_map_lookup_elem(&prl_gates, &cookie);
    struct prl_flow *flow = slot ? bpf_map_lookup_elem(&prl_flow_state, slot) : NULL;

    if (flow)
        tell(node,
             (struct prl_news){.cookie = cookie, .kind = PRL_NEWS_ENDED, .slot = *slot, .handle = flow->handle});
}

SEC("sockops")
int prl_sessions(struct bpf_sock_ops *ops)
{
    struct prl_node *node = prl_node_get();

    if (!node)
        return 1;
    switch (ops->op) {
    case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
    case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
        established(ops, node);
        break;
    case BPF_SOCK_OPS_STATE_CB:
        if (ops->args[1] == BPF_TCP_CLOSE)
            ended(ops, node);
        break;
    default:
        break;
    }
    return 1;
}

static __always_inline int read_ends(const struct sock_common *sock, struct prl_stranger *ends)
{
    if (sock->skc_family == AF_INET) {
        prl_map_v4(ends->local, sock->skc_rcv_saddr);
        prl_map_v4(ends->remote, sock->skc_daddr);
    } else if (sock->skc_family == AF_INET6) {
        __be32 words[4];
        for (int i = 0; i < 4; i++)
            words[i] = sock->skc_v6_rcv_saddr.in6_u.u6_addr32[i];
        __builtin_memcpy(ends->local, words, sizeof(words));
        for (int i = 0; i < 4; i++)
            words[i] = sock->skc_v6_daddr.in6_u.u6_addr32[i];
        __builtin_memcpy(ends->remote, words, sizeof(words));
    } else {
        return -1;
    }
    ends->local_port = bpf_htons(sock->skc_num);
    ends->remote_port = sock->skc_dport;
    ends->ifindex = (__u32)sock->skc_bound_dev_if;
    return 0;
}

/* Whether what it sends stays on this host: both ends go with it, as when a daemon talks to its front. */
static __always_inline int is_of_this_host(struct sock_common *sock)
{
    struct sock *whole = (struct sock *)bpf_skc_to_tcp_sock(sock);
    struct dst_entry *route = whole ? whole->sk_dst_cache : 0; /* none for a moment after routes have changed */
    struct net_device *out = route ? route->dev : 0;

    return out && (out->flags & IFF_LOOPBACK);
}

/*
 * All TCP sockets of the reader's network namespace, one a call: tells those of a service address that their own end has not
 * closed and that no mark gate is on, so that prld has no flow of them.
 */
SEC("iter/tcp")
int prl_strangers(struct bpf_iter__tcp *ctx)
{
    struct sock_common *sock = ctx->sk_common;
    struct prl_node *node = prl_node_get();
    struct prl_stranger ends;

    if (!sock || !node || (sock->skc_state != BPF_TCP_ESTABLISHED && sock->skc_state != BPF_TCP_CLOSE_WAIT))
        return 0;
    __builtin_memset(&ends, 0, sizeof(ends));
    if (read_ends(sock, &ends) < 0 || !prl_is_anywhere(node, ends.local))
        return 0;
    if (is_of_this_host(sock))
        return 0;
    __u64 cookie = (__u64)sock->skc_cookie.counter; /* 0: nobody has asked for it, so no gate has it */
    if (!cookie || !bpf_map_lookup_elem(&prl_gates, &cookie))
        bpf_seq_write(ctx->meta->seq, &ends, sizeof(ends));
    return 0;
}

char prl_license[] SEC("license") = "Dual BSD/GPL";
