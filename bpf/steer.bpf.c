// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Where connections to port 179 begin on a host with a BGP front (docs/bgp-front.md): the front's listeners, wherever they
 * are bound, and not the daemon's own, which is bound to every address. The program is asked when no connection that stands
 * was found (inet_lookup_run_sk_lookup, include/net/inet_hashtables.h). Without a listener the connection is refused: a peer and the
 * daemon never speak past the front.
 */
#include <linux/bpf.h>
#include <linux/in.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "steering.h"

#define AF_INET 2
#define BGP_PORT 179

struct {
    __uint(type, BPF_MAP_TYPE_SOCKMAP);
    __uint(max_entries, PRL_STEER_LISTENERS);
    __type(key, __u32);
    __type(value, __u64);
} prl_steer_to SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, PRL_STEER_PEERS_MAX);
    __type(key, struct prl_steer_ends);
    __type(value, __u32);
} prl_steer_peers SEC(".maps");

static __always_inline int is_ours(__u32 peer, __u32 service)
{
    struct prl_steer_ends ends = {.peer = peer, .service = service};

    return bpf_map_lookup_elem(&prl_steer_peers, &ends) != NULL;
}

SEC("sk_lookup")
int prl_steer(struct bpf_sk_lookup *lookup)
{
    __u32 to = PRL_STEER_INNER;

    if (lookup->family != AF_INET || lookup->protocol != IPPROTO_TCP || lookup->local_port != BGP_PORT)
        return SK_PASS;
    if (!is_ours(lookup->local_ip4, lookup->remote_ip4)) {
        if (!is_ours(lookup->remote_ip4, lookup->local_ip4))
            return SK_PASS;
        to = PRL_STEER_OUTER;
    }
    struct bpf_sock *listener = bpf_map_lookup_elem(&prl_steer_to, &to);
    if (!listener)
        return SK_DROP;
    long code = bpf_sk_assign(lookup, listener, 0);
    bpf_sk_release(listener);
    return code ? SK_DROP : SK_PASS;
}

char prl_license[] SEC("license") = "Dual BSD/GPL";
