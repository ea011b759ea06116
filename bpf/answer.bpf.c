// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Answers the other node's probes (L3a; docs/kernel-answers.md) on the LAN and on the link: whether this kernel runs, and how
 * long ago its datapath did, without any thread being scheduled. tc ingress of the interfaces that the nodes' own addresses are on.
 */
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include "maps.h"
#include "prl_siphash.h"

#define PASS TC_ACT_UNSPEC
#define PROBE4_BYTES (sizeof(struct iphdr) + sizeof(struct udphdr) + sizeof(struct prl_probe))
#define PROBE6_BYTES (sizeof(struct ipv6hdr) + sizeof(struct udphdr) + sizeof(struct prl_probe))

/*
 * Where the network header is in a packet of just the length of a probe, IP without options; -1: it is none. Behind generic
 * XDP, where that had to copy the packet, what is seen begins with it (mac_len is not copied: skb_pp_cow_data() in
 * net/core/skbuff.c, since Linux 6.9).
 */
static __always_inline int find_network(struct __sk_buff *skb)
{
    int is_v6 = skb->protocol == bpf_htons(ETH_P_IPV6);
    __u32 bytes = is_v6 ? PROBE6_BYTES : PROBE4_BYTES;

    if (skb->vlan_present || (!is_v6 && skb->protocol != bpf_htons(ETH_P_IP)))
        return -1;
    if (skb->len == bytes)
        return 0;
    return skb->len == ETH_HLEN + bytes ? ETH_HLEN : -1;
}

/* Where the UDP header of what may be a probe is, behind the network header at `l3`; 0: it is none. */
static __always_inline __u32 find_udp(struct __sk_buff *skb, __u32 l3)
{
    if (skb->protocol == bpf_htons(ETH_P_IP)) {
        struct iphdr ip;

        if (bpf_skb_load_bytes(skb, l3, &ip, sizeof(ip)) < 0 || ip.version != 4 || ip.ihl != 5 ||
            (ip.frag_off & bpf_htons(0x3fff)) || ip.protocol != IPPROTO_UDP)
            return 0;
        return l3 + sizeof(ip);
    }
    struct ipv6hdr ip6;

    if (bpf_skb_load_bytes(skb, l3, &ip6, sizeof(ip6)) < 0 || ip6.version != 6 || ip6.nexthdr != IPPROTO_UDP)
        return 0;
    return l3 + sizeof(ip6);
}

/* A question of the other node's, of this epoch, that was not asked before. It is noted. */
static __always_inline int is_good(struct prl_node *node, const struct prl_probe *probe, const __u64 key[2])
{
    __u64 number = bpf_be64_to_cpu(probe->number), seen;
    __u32 path = probe->path;

    if (!(key[0] | key[1]) || bpf_be64_to_cpu(probe->epoch) != PRL_READ(node->probe_epoch) ||
        probe->asker != PRL_READ(node->claimant) || path >= PRL_PROBE_PATHS ||
        prl_probe_mac(key, probe) != probe->mac)
        return 0;
    /* Linux 6.1's verifier has no bound of a copy that was spilled before: the mask is one, if the compiler keeps it. */
    barrier_var(path);
    path &= PRL_PROBE_PATHS - 1;
    seen = PRL_READ(node->probe_seen[path]);
    return number > seen && __sync_val_compare_and_swap(&node->probe_seen[path], seen, number) == seen;
}

/* An answer is as good as an echo (L2) while both nodes hear the link: the datapath has not opened anything, and will not before
 * it has had a pass. */
static __always_inline int renew_lease(struct prl_node *node, int is_linked, __u64 now_ns, __u64 pass_ns)
{
    if (!is_linked || !PRL_READ(node->leases) || PRL_READ(node->bypassed) || pass_ns >= PRL_READ(node->hung_ns))
        return 0;
    PRL_WRITE(node->answered_ns, now_ns);
    return 1;
}

static __always_inline void fill(struct prl_node *node, struct prl_probe *probe, __u64 now_ns)
{
    /* signed: the heartbeat may have been written after now_ns was read */
    __s64 pass_ns = (__s64)(now_ns - PRL_READ(node->heartbeat_ns));
    __u32 fenced = PRL_READ(node->fenced);

    pass_ns = pass_ns < 0 ? 0 : pass_ns;
    probe->flags =
        renew_lease(node, probe->flags & PRL_PROBE_LINKED, now_ns, (__u64)pass_ns) ? PRL_PROBE_LEASES : 0;
    if (PRL_READ(node->bypassed))
        probe->flags |= PRL_PROBE_BYPASSED;
    probe->type = PRL_PROBE_ANSWERS;
    probe->at_ns = bpf_cpu_to_be64(now_ns);
    probe->pass_ns = bpf_cpu_to_be64(pass_ns);
    probe->known_ns = bpf_cpu_to_be64(PRL_READ(node->confirmed_ns));
    probe->owned = bpf_htons((__u16)PRL_READ(node->owned));
    probe->fenced = bpf_htons((__u16)fenced);
    probe->silent = bpf_htons((__u16)PRL_READ(node->silent));
    probe->pad = 0;
    for (int i = 0; i < PRL_TERMS_MAX; i++)
        probe->term[i] = (__u8)PRL_READ(node->terms[i]);
}

/* Both addresses of a header change places, which leaves its checksum as it is: so many bytes each, at most 16. */
static __always_inline int swap(struct __sk_buff *skb, __u32 at, __u32 bytes)
{
    __u8 both[32], swapped[32];

    if (bpf_skb_load_bytes(skb, at, both, 2 * bytes) < 0)
        return -1;
    __builtin_memcpy(swapped, both + bytes, bytes);
    __builtin_memcpy(swapped + bytes, both, bytes);
    return bpf_skb_store_bytes(skb, at, swapped, 2 * bytes, 0) < 0 ? -1 : 0;
}

/* Back to where it came from. */
static __always_inline int turn_round(struct __sk_buff *skb, __u32 l3, __u32 udp)
{
    struct ethhdr eth, back;
    int failed;

    if (bpf_skb_load_bytes_relative(skb, 0, &eth, sizeof(eth), BPF_HDR_START_MAC) < 0)
        return -1;
    if (skb->protocol == bpf_htons(ETH_P_IP))
        failed = swap(skb, l3 + __builtin_offsetof(struct iphdr, saddr), 4);
    else
        failed = swap(skb, l3 + __builtin_offsetof(struct ipv6hdr, saddr), 16);
    if (failed || swap(skb, udp, 2) < 0 || (!l3 && bpf_skb_change_head(skb, ETH_HLEN, 0) < 0))
        return -1;
    __builtin_memcpy(back.h_dest, eth.h_source, ETH_ALEN);
    __builtin_memcpy(back.h_source, eth.h_dest, ETH_ALEN);
    back.h_proto = eth.h_proto;
    return bpf_skb_store_bytes(skb, 0, &back, sizeof(back), 0) < 0 ? -1 : 0;
}

SEC("tc")
int prl_answer(struct __sk_buff *skb)
{
    int l3 = find_network(skb);
    __u32 udp = l3 < 0 ? 0 : find_udp(skb, (__u32)l3), at = udp + sizeof(struct udphdr);
    struct prl_node *node = udp ? prl_node_get() : NULL;
    struct prl_probe asked, answer;

    if (!node || bpf_skb_load_bytes(skb, at, &asked, sizeof(asked)) < 0 ||
        asked.magic != bpf_htonl(PRL_PROBE_MAGIC) || asked.type != PRL_PROBE_ASKS)
        return PASS;
    __u64 key[2] = {PRL_READ(node->probe_key[0]), PRL_READ(node->probe_key[1])};
    if (!is_good(node, &asked, key)) {
        PRL_COUNT(node->probes_refused);
        return TC_ACT_SHOT;
    }
    __u64 now_ns = bpf_ktime_get_boot_ns();
    __u64 confirms = bpf_be64_to_cpu(asked.confirms);
    if ((asked.flags & PRL_PROBE_LINKED) && confirms > PRL_READ(node->confirmed_ns) && confirms <= now_ns)
        PRL_WRITE(node->confirmed_ns, confirms);
    if (asked.path == PRL_PROBE_LAN)
        PRL_WRITE(node->lan_probed_ns, now_ns);
    __builtin_memcpy(&answer, &asked, sizeof(answer));
    fill(node, &answer, now_ns);
    answer.mac = prl_probe_mac(key, &answer);
    __s64 changed = bpf_csum_diff((__be32 *)&asked, sizeof(asked), (__be32 *)&answer, sizeof(answer), 0);
    if (changed < 0 ||
        bpf_l4_csum_replace(skb, udp + __builtin_offsetof(struct udphdr, check), 0, (__u64)changed,
                            BPF_F_MARK_MANGLED_0) < 0 ||
        bpf_skb_store_bytes(skb, at, &answer, sizeof(answer), 0) < 0 || turn_round(skb, (__u32)l3, udp) < 0)
        return TC_ACT_SHOT;
    PRL_COUNT(node->probes_answered);
    return (int)bpf_redirect(skb->ifindex, 0);
}

char prl_license[] SEC("license") = "Dual BSD/GPL";
