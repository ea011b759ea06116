// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * The carrier "mirror" (docs/mirror.md): as ingress.bpf.c, but of flows that mirror, long packets leave as clones by the cable to the
 * other node, where they wait for prld's word of them as those of the owner do here.
 */
#include "ingress.h"

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
    __type(key, __u32);
    __type(value, struct prl_mirror);
} prl_mirror SEC(".maps");

static __always_inline struct prl_mirror *mirror_get(void)
{
    __u32 zero = 0;

    return bpf_map_lookup_elem(&prl_mirror, &zero);
}

/* 0 means another thing: none. */
static __always_inline __u32 next_number(struct prl_mirror *mirror)
{
    __u32 number = __sync_fetch_and_add(&mirror->newest, 1) + 1;

    return number ? number : __sync_fetch_and_add(&mirror->newest, 1) + 1;
}

/* The clone's addresses: what it is, to whom. The source stays on the packet, for prld to read there. 1: the cable has not taken it;
 * -1: it could not be named. */
static __always_inline int send_clone(struct __sk_buff *skb, struct prl_mirror *mirror, __u32 lif)
{
    __be32 number = bpf_htonl(next_number(mirror));
    __u8 was[ETH_ALEN], macs[2 * ETH_ALEN];

    if (bpf_skb_load_bytes(skb, 0, was, sizeof(was)) < 0)
        return -1;
    __builtin_memcpy(macs, mirror->mac, ETH_ALEN);
    macs[ETH_ALEN] = PRL_MIRROR_MAC_0;
    macs[ETH_ALEN + 1] = PRL_MIRROR_MAC_1 | (lif & PRL_MIRROR_MAC_LIF);
    __builtin_memcpy(macs + ETH_ALEN + 2, &number, sizeof(number));
    if (bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0) < 0)
        return -1;
    /* NET_XMIT_DROP and NET_XMIT_CN are positive. */
    int refused = bpf_clone_redirect(skb, PRL_READ(mirror->ifindex), 0) != 0;
    if (refused)
        PRL_COUNT(mirror->clone_failed);
    else
        PRL_COUNT(mirror->cloned);
    return bpf_skb_store_bytes(skb, 0, was, sizeof(was), 0) < 0 ? -1 : refused;
}

static __always_inline int carry(struct __sk_buff *skb, const struct prl_flow_ref *ref, __u32 lif)
{
    struct prl_mirror *mirror = mirror_get();
    struct prl_node *node = prl_node_get();
    __u32 slot = ref->slot;
    struct prl_flow *flow = bpf_map_lookup_elem(&prl_flow_state, &slot);

    if (!node || !mirror || !flow || slot > PRL_QUEUE_SLOT)
        return UNDECIDED;
    int mirrors = (PRL_READ(flow->flags) & PRL_FLOW_MIRRORS) != 0, refused = 0;
    if (mirrors && skb->len > ETH_HLEN + PRL_MIRROR_COPY_BYTES)
        refused = PRL_READ(mirror->ifindex) ? send_clone(skb, mirror, lif) : 1;
    if (refused < 0)
        return UNDECIDED;
    /* What the cable does not take goes as with the carrier "kernel". */
    __u32 mark = mirrors && !refused ? PRL_READ(mirror->queue_mark) : PRL_READ(node->queue_mark);
    if (!mark)
        return UNDECIDED;
    skb->mark = mark | slot;
    return PASS;
}

SEC("tc")
int prl_ingress(struct __sk_buff *skb)
{
    struct prl_mirror *mirror = mirror_get();
    __u32 mark = mirror ? PRL_READ(mirror->queue_mark) : 0;

    if (mark && (skb->mark & PRL_QUEUE_MASK) == mark)
        return PASS; /* prl_mirrored has judged it */
    return classify(skb);
}

/* For a shadow here, as though its interface had received it: it waits for prld, which knows whether it may be fed. */
static __always_inline int take(struct __sk_buff *skb, struct prl_mirror *mirror, __u32 lif_index)
{
    struct prl_node *node = prl_node_get();
    __u32 mark = PRL_READ(mirror->queue_mark);
    struct prl_packet packet;

    if (!node || !mark || prl_health_about_now(node) != PRL_HEALTHY)
        return DROP;
    parse(skb, &packet);
    if (packet.kind != PRL_KIND_FLOW || packet.key.proto != IPPROTO_TCP || packet.key.vlans)
        return DROP;
    packet.key.lif = (__u16)lif_index;
    struct prl_flow_ref *ref = bpf_map_lookup_elem(&prl_flows, &packet.key);
    if (!ref || ref->slot > PRL_QUEUE_SLOT)
        return DROP;
    __u32 slot = ref->slot;
    struct prl_flow *flow = bpf_map_lookup_elem(&prl_flow_state, &slot);
    struct prl_lif *lif = prl_lif_at(lif_index);
    if (!flow || !lif)
        return DROP;
    __u32 wanted = PRL_FLOW_SECONDARY | PRL_FLOW_ACTIVE;
    if ((PRL_READ(flow->flags) & (wanted | PRL_FLOW_VOID)) != wanted ||
        bpf_skb_store_bytes(skb, 0, lif->mac, ETH_ALEN, 0) < 0)
        return DROP;
    skb->mark = mark | slot;
    PRL_COUNT(mirror->taken);
    return (int)bpf_redirect(lif->ifindex, BPF_F_INGRESS);
}

/* tc ingress of the cable's interface. What bears such a source address goes no other way. */
SEC("tc")
int prl_mirrored(struct __sk_buff *skb)
{
    struct prl_mirror *mirror = mirror_get();
    struct ethhdr eth;

    if (!mirror || bpf_skb_load_bytes(skb, 0, &eth, sizeof(eth)) < 0 || eth.h_source[0] != PRL_MIRROR_MAC_0 ||
        (eth.h_source[1] & ~PRL_MIRROR_MAC_LIF) != PRL_MIRROR_MAC_1 || same_mac(eth.h_source, mirror->mac))
        return PASS;
    int action = take(skb, mirror, eth.h_source[1] & PRL_MIRROR_MAC_LIF);
    if (action == DROP)
        PRL_COUNT(mirror->refused);
    return action;
}

char prl_license[] SEC("license") = "Dual BSD/GPL";
