// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Where connections to port 179 begin on a host with a BGP front (docs/bgp-front.md): the front's listeners, wherever they
 * are bound, and not the daemon's own, which is bound to every address. The program is asked when no connection that stands
 * was found (inet_lookup_run_sk_lookup, include/net/inet_hashtables.h). Without a listener the connection is refused: a peer and the
 * daemon never speak past the front.
 *
 * The front, too, may connect to the daemon, from the peer's address: that alone meets the daemon's own listener. It is known by its
 * port, for as long as it takes; not by where it comes from, for what a host says to itself counts as come in by the interface that has
 * the address (ip_route_output_key_hash_rcu, net/ipv4/route.c; ip6_rcv_core, net/ipv6/ip6_input.c).
 */
#include <linux/bpf.h>
#include <linux/in.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "steering.h"

#define AF_INET 2

struct {
    __uint(type, BPF_MAP_TYPE_SOCKMAP);
    __uint(max_entries, PRL_STEER_PEERS_MAX *PRL_STEER_LISTENERS);
    __type(key, __u32);
    __type(value, __u64);
} prl_steer_to SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, PRL_STEER_PEERS_MAX);
    __type(key, struct prl_steer_ends);
    __type(value, __u32);
} prl_steer_peers SEC(".maps");

/* By peer: the port, in network order, that the front connects to the daemon from. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, PRL_STEER_PEERS_MAX);
    __type(key, __u32);
    __type(value, __u32);
} prl_steer_dials SEC(".maps");

static __always_inline void map_v4(__u32 *to, __u32 address)
{
    to[0] = to[1] = 0;
    to[2] = bpf_htonl(0xffff);
    to[3] = address;
}

/* The context takes aligned reads of one word each. */
#define COPY_V6(to, from)    \
    do {                     \
        (to)[0] = (from)[0]; \
        (to)[1] = (from)[1]; \
        (to)[2] = (from)[2]; \
        (to)[3] = (from)[3]; \
    } while (0)

/* Where the listeners of a peer stand, or NULL: the ends are no peer's of ours. */
static __always_inline const __u32 *find(const struct prl_steer_ends *ends)
{
    return bpf_map_lookup_elem(&prl_steer_peers, ends);
}

/* Whether what begins between a peer's address and its service address is the front's own. */
static __always_inline int is_dial(__u32 place, __u32 port)
{
    __u32 number = place / PRL_STEER_LISTENERS;
    const __u32 *dial = bpf_map_lookup_elem(&prl_steer_dials, &number);

    return dial && *dial != PRL_STEER_NO_DIAL && *dial == port;
}

SEC("sk_lookup")
int prl_steer(struct bpf_sk_lookup *lookup)
{
    struct prl_steer_ends inner, outer; /* as the connection would be, of the daemon's and of the peer's */
    const __u32 *place;
    __u32 to, port = lookup->remote_port;

    if (lookup->protocol != IPPROTO_TCP || lookup->local_port != PRL_STEER_BGP_PORT)
        return SK_PASS;
    if (lookup->family == AF_INET) {
        __u32 local = lookup->local_ip4, remote = lookup->remote_ip4;

        /* Else clang makes one read of this and that for IPv6, through a pointer: the verifier allows none into the context. */
        barrier_var(local);
        barrier_var(remote);
        map_v4(inner.peer, local);
        map_v4(inner.service, remote);
    } else {
        COPY_V6(inner.peer, lookup->local_ip6);
        COPY_V6(inner.service, lookup->remote_ip6);
    }
    place = find(&inner);
    if (place) {
        to = *place + PRL_STEER_INNER;
    } else {
        __builtin_memcpy(outer.peer, inner.service, sizeof(outer.peer));
        __builtin_memcpy(outer.service, inner.peer, sizeof(outer.service));
        place = find(&outer);
        if (!place || is_dial(*place, port))
            return SK_PASS;
        to = *place + PRL_STEER_OUTER;
    }
    struct bpf_sock *listener = bpf_map_lookup_elem(&prl_steer_to, &to);
    if (!listener)
        return SK_DROP;
    long code = bpf_sk_assign(lookup, listener, 0);
    bpf_sk_release(listener);
    return code ? SK_DROP : SK_PASS;
}

char prl_license[] SEC("license") = "Dual BSD/GPL";
