/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * From a frame to its flow's key, for XDP (direction in: local is the destination) and tc egress (direction out:
 * local is the source). The common headers are read in place; IPv6 extension headers, ICMP quotations and ND
 * options go through a load helper in functions that the verifier checks once, by themselves.
 *
 * Define PRL_XDP before inclusion for an XDP program.
 */
#ifndef PRL_PARSE_H
#define PRL_PARSE_H

#include <linux/icmpv6.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <bpf/bpf_endian.h>
#include "maps.h"
#include "prl_headers.h"

#ifdef PRL_XDP
#define PRL_CONTEXT struct xdp_md
#define prl_load bpf_xdp_load_bytes
#else
#define PRL_CONTEXT struct __sk_buff
#define prl_load bpf_skb_load_bytes
#endif

/* L4 headers beyond this offset are not looked for (two tags, 40 bytes, six short extension headers). All bits are set:
 * it is a mask, too. */
#define PRL_L4_OFFSET_MAX 1023
#define PRL_ND_OPTIONS_MAX 4

/* RFC 4861 */
#define PRL_ICMP6_ECHO_REPLY 129
#define PRL_ND_ROUTER_SOLICIT 133
#define PRL_ND_NEIGHBOUR_SOLICIT 135
#define PRL_ND_NEIGHBOUR_ADVERT 136

enum prl_kind {
    PRL_KIND_OTHER = 0, /* not for prl */
    PRL_KIND_MALFORMED, /* ends inside a header, or contradicts itself */
    PRL_KIND_TUNNELLED, /* too many tags or extension headers */
    PRL_KIND_ARP,
    PRL_KIND_IP, /* an IP packet that belongs to no flow; addresses are valid */
    PRL_KIND_FRAGMENT,
    PRL_KIND_FLOW, /* key is complete, but for lif */
    PRL_KIND_ICMP,
    PRL_KIND_ICMP6,
};

/* ARP for IPv4 over Ethernet (RFC 826); linux/if_arp.h draws in libc's headers, which know no bpf target. */
#define PRL_ARP_ETHERNET 1
#define PRL_ARP_REQUEST 1
#define PRL_ARP_REPLY 2
struct prl_arp {
    __be16 hardware;
    __be16 protocol;
    __u8 hardware_bytes;
    __u8 protocol_bytes;
    __be16 operation;
    __u8 sender_mac[6];
    __u8 sender[4];
    __u8 target_mac[6];
    __u8 target[4];
};

struct prl_packet {
    struct prl_flow_key key;
    __u32 l3;  /* offset of the network header */
    __u32 l4;  /* offset of the transport header */
    __u32 end; /* offset behind the IP packet; 0 = the header does not say (over 64 KiB) */
    __u8 kind; /* enum prl_kind */
    __u8 version; /* 4 or 6 once both addresses are valid */
    __u8 first; /* of a fragment: it has the ports */
    __u8 icmp_type;
};

/* IPv4-mapped (RFC 4291, 2.5.5.2). */
static __always_inline void prl_map_v4(__u8 addr[16], __be32 v4)
{
    __builtin_memset(addr, 0, 8);
    __be32 prefix = bpf_htonl(0xffff);
    __builtin_memcpy(addr + 8, &prefix, 4);
    __builtin_memcpy(addr + 12, &v4, 4);
}

static __always_inline int prl_is_tag(__be16 proto)
{
    return proto == bpf_htons(ETH_P_8021Q) || proto == bpf_htons(ETH_P_8021AD);
}

/*
 * Steps over the extension headers between packet->l4 and the transport header. Returns the transport protocol,
 * or -1 with packet->kind set. An atomic fragment (RFC 6946) is whole, so its header is stepped over too.
 */
__noinline int prl_walk_extensions(PRL_CONTEXT *ctx, struct prl_packet *packet)
{
    if (!packet)
        return -1;
    __u32 next = packet->key.proto;
    __u32 at = packet->l4;
    for (int i = 0; i < PRL_EXTENSIONS_MAX; i++) {
        __u8 head[8]; /* every extension header has at least eight bytes */
        __u32 bytes;
        if (!prl_is_extension(next))
            break;
        if (at > PRL_L4_OFFSET_MAX)
            break;
        if (prl_load(ctx, at, head, sizeof(head)) < 0) {
            packet->kind = PRL_KIND_MALFORMED;
            return -1;
        }
        if (next == IPPROTO_FRAGMENT) {
            __u16 offset_more = (__u16)(head[2] << 8 | head[3]);
            if (offset_more & 0xfff9) {
                packet->kind = PRL_KIND_FRAGMENT;
                packet->first = !(offset_more & 0xfff8);
            }
        }
        bytes = prl_extension_bytes(next, head[1]);
        next = head[0];
        at += bytes;
        if (packet->kind == PRL_KIND_FRAGMENT && !packet->first)
            break;
    }
    packet->l4 = at;
    packet->key.proto = (__u8)next;
    if (packet->kind == PRL_KIND_FRAGMENT && !packet->first)
        return -1;
    if (at > PRL_L4_OFFSET_MAX) {
        packet->kind = PRL_KIND_TUNNELLED;
        return -1;
    }
    if (prl_is_extension(next)) {
        packet->kind = PRL_KIND_TUNNELLED;
        return -1;
    }
    return (int)next;
}

/* Fills packet from the frame. `tags` VLAN tags (with ids already in key.vlans) are not in the frame's bytes.
 * *packet must be zero but for key.vlans. Sets everything but key.lif. */
static __always_inline void prl_parse(PRL_CONTEXT *ctx, struct prl_packet *packet, int egress, __u32 tags)
{
    void *data = (void *)(long)ctx->data;
    void *data_end = (void *)(long)ctx->data_end;
    struct ethhdr *eth = data;
    struct iphdr *ip;
    struct ipv6hdr *ip6;
    __u32 l3 = sizeof(*eth);
    __u32 proto;
    __u8 *near = egress ? packet->key.local : packet->key.remote; /* the packet's source */
    __u8 *far = egress ? packet->key.remote : packet->key.local;

    if ((void *)(eth + 1) > data_end) {
        packet->kind = PRL_KIND_MALFORMED;
        return;
    }
    __be16 ether_type = eth->h_proto;
#pragma unroll
    for (int i = 0; i < PRL_VLANS_MAX; i++) {
        __be16 *tag = data + l3;
        if (!prl_is_tag(ether_type) || tags >= PRL_VLANS_MAX)
            break;
        if ((void *)(tag + 2) > data_end) {
            packet->kind = PRL_KIND_MALFORMED;
            return;
        }
        packet->key.vlans = packet->key.vlans << 12 | (bpf_ntohs(tag[0]) & 0xfff);
        ether_type = tag[1];
        l3 += 4;
        tags++;
    }
    packet->l3 = l3;
    if (ether_type == bpf_htons(ETH_P_IP)) {
        ip = data + l3;
        if ((void *)(ip + 1) > data_end || ip->version != 4 || ip->ihl < 5) {
            packet->kind = PRL_KIND_MALFORMED;
            return;
        }
        prl_map_v4(near, ip->saddr);
        prl_map_v4(far, ip->daddr);
        packet->version = 4;
        proto = ip->protocol;
        packet->key.proto = ip->protocol;
        packet->l4 = l3 + ip->ihl * 4u;
        __u32 bytes = bpf_ntohs(ip->tot_len);
        packet->end = bytes ? l3 + bytes : 0;
        if (bytes && bytes < ip->ihl * 4u) {
            packet->kind = PRL_KIND_MALFORMED;
            return;
        }
        __u16 offset_more = bpf_ntohs(ip->frag_off) & 0x3fff;
        if (offset_more) {
            packet->kind = PRL_KIND_FRAGMENT;
            packet->first = !(offset_more & 0x1fff);
            if (!packet->first)
                return;
        }
    } else if (ether_type == bpf_htons(ETH_P_IPV6)) {
        ip6 = data + l3;
        if ((void *)(ip6 + 1) > data_end || ip6->version != 6) {
            packet->kind = PRL_KIND_MALFORMED;
            return;
        }
        __builtin_memcpy(near, &ip6->saddr, 16);
        __builtin_memcpy(far, &ip6->daddr, 16);
        packet->version = 6;
        proto = ip6->nexthdr;
        packet->key.proto = ip6->nexthdr;
        packet->l4 = l3 + sizeof(*ip6);
        packet->end = ip6->payload_len ? packet->l4 + bpf_ntohs(ip6->payload_len) : 0;
        if (proto != IPPROTO_TCP && proto != IPPROTO_UDP && proto != IPPROTO_ICMPV6) {
            int walked = prl_walk_extensions(ctx, packet);
            if (walked < 0)
                return;
            proto = (__u32)walked;
            /* the call made the verifier forget the pointers */
            data = (void *)(long)ctx->data;
            data_end = (void *)(long)ctx->data_end;
        }
    } else {
        if (ether_type == bpf_htons(ETH_P_ARP))
            packet->kind = PRL_KIND_ARP;
        else if (prl_is_tag(ether_type))
            packet->kind = PRL_KIND_TUNNELLED;
        return;
    }

    /* The mask changes nothing: prl_walk_extensions() refuses more. The verifier of 6.1 needs it here: a comparison bounds
     * one register, not the copy of it that clang has put on the stack. */
    __u32 l4 = packet->l4 & PRL_L4_OFFSET_MAX;
    __be16 *ports = data + l4;
    __u32 need = proto == IPPROTO_TCP ? sizeof(struct tcphdr) : 8; /* UDP's and ICMP's headers have 8 bytes */
    if (proto != IPPROTO_TCP && proto != IPPROTO_UDP &&
        proto != (packet->version == 4 ? IPPROTO_ICMP : IPPROTO_ICMPV6)) {
        if (packet->kind != PRL_KIND_FRAGMENT)
            packet->kind = PRL_KIND_IP;
        return;
    }
    if ((void *)ports + need > data_end || (packet->end && l4 + need > packet->end)) {
        packet->kind = PRL_KIND_MALFORMED;
        return;
    }
    if (proto == IPPROTO_TCP || proto == IPPROTO_UDP) {
        packet->key.local_port = egress ? ports[0] : ports[1];
        packet->key.remote_port = egress ? ports[1] : ports[0];
        if (packet->kind != PRL_KIND_FRAGMENT)
            packet->kind = PRL_KIND_FLOW;
        return;
    }
    packet->icmp_type = *(__u8 *)ports;
    if (packet->kind != PRL_KIND_FRAGMENT)
        packet->kind = packet->version == 4 ? PRL_KIND_ICMP : PRL_KIND_ICMP6;
}

/* Whether no flow has this TCP segment's key, and nobody needs to be asked. */
static __always_inline int prl_is_strange(const struct prl_packet *packet)
{
    if (packet->kind != PRL_KIND_FLOW || packet->key.proto != IPPROTO_TCP)
        return 0;
    __u32 zero = 0;
    struct prl_sieve *sieve = bpf_map_lookup_elem(&prl_sieve, &zero);
    return sieve && !PRL_READ(sieve->flows[prl_sieve_cell(&packet->key)]);
}

static __always_inline int prl_has_bit(const __u64 words[PRL_ADDR_BITS / 64], __u32 bit)
{
    return PRL_READ(words[bit / 64 % (PRL_ADDR_BITS / 64)]) >> (bit % 64) & 1;
}

/* A program takes ownership of `addr`'s service away: for good in prl_node, whatever userspace does to the entry meanwhile;
 * then the state, then the bit (see prl_kernel_addr_set()). */
static __always_inline void prl_addr_fence(struct prl_node *node, struct prl_addr *addr)
{
    __sync_fetch_and_or(&node->fenced, 1u << (addr->service & 31));
    PRL_WRITE(addr->state, PRL_ADDR_FENCED);
    __u64 *word = &node->open_bits[addr->bit / 64 % (PRL_ADDR_BITS / 64)];
    __u64 before = __sync_fetch_and_and(word, ~(1ull << (addr->bit % 64)));
    asm volatile("" ::"r"(before)); /* an atomic whose result nobody wants orders nothing */
}

/* The entry of an address on an interface, or NULL: it is no service address there. */
static __always_inline struct prl_addr *prl_addr_find(const struct prl_node *node, const __u8 addr[16],
                                                      __u32 ifindex)
{
    struct prl_addr_key key;

    if (!prl_has_bit(node->addr_bits, prl_addr_bit(addr, ifindex)))
        return NULL;
    __builtin_memcpy(key.addr, addr, sizeof(key.addr));
    key.ifindex = ifindex;
    return bpf_map_lookup_elem(&prl_addrs, &key);
}

/* A logical interface by its number, or NULL: there are not so many. */
static __always_inline struct prl_lif *prl_lif_at(__u32 index)
{
    struct prl_lif *lif = bpf_map_lookup_elem(&prl_lifs, &index);
    return lif && lif->ifindex ? lif : NULL;
}

/* Whether the address may be a service's on some interface; most are told not to be without a look-up. */
static __always_inline int prl_is_anywhere(const struct prl_node *node, const __u8 addr[16])
{
    return prl_has_bit(node->any_bits, prl_addr_bit(addr, 0));
}

/* The flow that a packet of this key belongs to, or NULL. A datagram that is none of a connected socket's is looked up
 * once more: as one of a socket without a peer. The key then has no remote end any more. */
static __always_inline struct prl_flow_ref *prl_flow_find(struct prl_flow_key *key)
{
    struct prl_flow_ref *ref = bpf_map_lookup_elem(&prl_flows, key);
    if (ref || key->proto != IPPROTO_UDP)
        return ref;
    __builtin_memset(key->remote, 0, sizeof(key->remote));
    key->remote_port = 0;
    return bpf_map_lookup_elem(&prl_flows, key);
}

/* Loads an ARP message: 0, -1 when it is too short, 1 when it is not about IPv4 over Ethernet. */
static __always_inline int prl_arp_get(PRL_CONTEXT *ctx, __u32 l3, struct prl_arp *arp)
{
    if (prl_load(ctx, l3, arp, sizeof(*arp)) < 0)
        return -1;
    return arp->hardware != bpf_htons(PRL_ARP_ETHERNET) || arp->protocol != bpf_htons(ETH_P_IP) ||
           arp->hardware_bytes != 6 || arp->protocol_bytes != 4;
}

/* Loads the target of a neighbour solicitation or advertisement. 0, or -1 when the message is too short. */
static __always_inline int prl_nd_target(PRL_CONTEXT *ctx, const struct prl_packet *packet,
                                         struct prl_addr_key *target)
{
    return prl_load(ctx, packet->l4 + 8, target->addr, sizeof(target->addr)) < 0 ? -1 : 0;
}

#endif /* PRL_PARSE_H */
