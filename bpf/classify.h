/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Every frame from the network (R1): what belongs to a replicated flow goes to userspace, what is for a service address
 * that this node does not own is dropped (I4), claims are judged (L7), and when the datapath is dead its flows are dropped
 * and then opened (L9). The rest passes, most of it without a look-up: bits in prl_node tell which addresses are no
 * service's and which are owned, a cell of prl_sieve which segments are no flow's.
 *
 * A flow's local address is a service address: frames to other addresses are never looked up as flows.
 *
 * The same for both carriers (docs/carriers.md): classify.bpf.c is XDP, ingress.bpf.c is tc. Whoever includes this has
 * defined PASS and DROP, PRL_DEVICE (the context's member with the index of the interface), and says how
 * a frame is parsed and carried to userspace.
 */
#ifndef PRL_CLASSIFY_H
#define PRL_CLASSIFY_H

#include "birth.h"
#include "parse.h"
#include "prl_siphash.h"
#include "settle.h"

/* Fills *packet from the frame. */
static __always_inline void parse(PRL_CONTEXT *ctx, struct prl_packet *packet);
/* Neither: PASS is -1 to tc. */
#define UNDECIDED (-2)
/* Has the frame of a captured flow go to userspace: what the program is to return, or UNDECIDED: it cannot. */
static __always_inline int carry(PRL_CONTEXT *ctx, const struct prl_flow_ref *ref, __u32 lif);

static __always_inline int is_owned(const struct prl_node *node, struct prl_addr *addr)
{
    return PRL_READ(addr->state) == PRL_ADDR_OWNER && !(PRL_READ(node->fenced) >> (addr->service & 31) & 1);
}

static __always_inline int same_mac(const __u8 *a, const __u8 *b)
{
    return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3] && a[4] == b[4] && a[5] == b[5];
}

/* Input of its flows is captured: it is ours, or still comes to us after we have given it away. */
static __always_inline int is_heard(const struct prl_node *node, struct prl_addr *addr)
{
    return is_owned(node, addr) || PRL_READ(addr->state) == PRL_ADDR_LEAVING;
}

/* Whether the frame with this source MAC was sent by this node itself (a hub or a looping switch gives it back). */
static __always_inline int is_own_mac(PRL_CONTEXT *ctx, const struct prl_node *node, const __u8 source[6])
{
    if (!(PRL_READ(node->mac_bits) >> prl_mac_bit(source) & 1))
        return 0;
    __u32 ifindex = ctx->PRL_DEVICE;
    __u32 *index = bpf_map_lookup_elem(&prl_lif_of, &ifindex);
    struct prl_lif *lif = index ? bpf_map_lookup_elem(&prl_lifs, index) : NULL;
    return lif && same_mac(lif->mac, source);
}

/* Whether the frame is addressed to the interface that it came in by. */
static __always_inline int is_for(const PRL_CONTEXT *ctx, __u32 lif_index)
{
    const struct ethhdr *eth = (void *)(long)ctx->data;
    struct prl_lif *lif = bpf_map_lookup_elem(&prl_lifs, &lif_index);
    return lif && (void *)(eth + 1) <= (void *)(long)ctx->data_end && same_mac(lif->mac, eth->h_dest);
}

/* L6: somebody on the LAN is heard. */
static __always_inline void note_lan(struct prl_node *node)
{
    __u64 now_ns = bpf_ktime_get_boot_ns();
    PRL_WRITE(node->lan_seen_ns, now_ns);
    if (!PRL_READ(node->lan_first_ns))
        PRL_WRITE(node->lan_first_ns, now_ns);
}

/*
 * What a machine says, with one VLAN tag at most. BPDUs and LLDP are a switch's own: it sends them on ports by which it passes
 * nothing on yet, so that they show nobody to be there.
 */
static __always_inline int is_of_machine(const PRL_CONTEXT *ctx, const struct ethhdr *eth)
{
    const __be16 *tag = (const void *)(eth + 1);
    __be16 type = eth->h_proto;

    if (prl_is_tag(type)) {
        if ((void *)(tag + 2) > (void *)(long)ctx->data_end)
            return 0;
        type = tag[1];
    }
    return type == bpf_htons(ETH_P_IP) || type == bpf_htons(ETH_P_ARP) || type == bpf_htons(ETH_P_IPV6);
}

/* Who is asked: one of the witnesses, where some are named, and everybody else. */
static __always_inline int is_asked(const struct prl_node *node, const __u8 who[16])
{
    __u32 witnesses = PRL_READ(node->witnesses);
    __u64 asked[2], known[2];

    if (!witnesses)
        return 1;
    __builtin_memcpy(asked, who, sizeof(asked));
    for (__u32 i = 0; i < PRL_WITNESSES_MAX; i++) {
        __builtin_memcpy(known, node->witness[i], sizeof(known));
        if (i < witnesses && known[0] == asked[0] && known[1] == asked[1])
            return 1;
    }
    return 0;
}

/* `who` answers a question of this node's own: it is addressed to its interface. */
static __always_inline void note_answer(PRL_CONTEXT *ctx, struct prl_node *node, const __u8 who[16])
{
    __u8 target[6];

    if (PRL_READ(node->watch) == PRL_WATCH_ANSWERS && is_asked(node, who) && prl_load(ctx, 0, target, 6) == 0 &&
        is_own_mac(ctx, node, target))
        note_lan(node);
}

enum judged {
    CLAIM_FOREIGN,  /* not the other node's */
    CLAIM_REPLAYED, /* the other node's, but of an ownership that is over */
    CLAIM_GOOD,
};

/*
 * The trailer of a claim of `addr` at `at` (0: there is none). What it does not say is known: the epoch, who claims, and
 * what. A genuine one that is not of a later term than this node's own ownership was said before this node became the
 * owner. A good one is noted in the entry: userspace verifies it once more.
 */
static __always_inline enum judged judge_trailer(PRL_CONTEXT *ctx, const struct prl_node *node,
                                                 struct prl_addr *addr, const struct prl_addr_key *key, __u32 at)
{
    struct prl_claim claim = {};
    struct prl_claimed claimed = {};
    __u64 secret[2] = {PRL_READ(node->claim_key[0]), PRL_READ(node->claim_key[1])};

    if (!at || !(secret[0] | secret[1]) || prl_load(ctx, at, &claim, sizeof(claim)) < 0 ||
        claim.type != PRL_ND_OPT_CLAIM || claim.length8 != sizeof(claim) / 8 || claim.magic[0] != 'P' ||
        claim.magic[1] != 'R')
        return CLAIM_FOREIGN;
    claimed.epoch = PRL_READ(node->claim_epoch);
    claimed.term = bpf_be64_to_cpu(claim.term);
    claimed.number = bpf_be64_to_cpu(claim.number);
    claimed.service = addr->service;
    claimed.claimant = PRL_READ(node->claimant);
    __builtin_memcpy(claimed.addr, key->addr, sizeof(claimed.addr));
    if (prl_claim_mac(secret, &claimed) != bpf_be64_to_cpu(claim.mac))
        return CLAIM_FOREIGN;
    if (claimed.term <= PRL_READ(node->terms[addr->service % PRL_TERMS_MAX]))
        return CLAIM_REPLAYED;
    /* Of one that gives it away there are several, and their order does not matter. */
    if (PRL_READ(addr->state) != PRL_ADDR_LEAVING && addr->claim_epoch == claimed.epoch &&
        claimed.number <= addr->claim_number)
        return CLAIM_REPLAYED;
    addr->claim_epoch = claimed.epoch;
    addr->claim_term = claimed.term;
    addr->claim_number = claimed.number;
    addr->claim_mac = bpf_be64_to_cpu(claim.mac);
    return CLAIM_GOOD;
}

/* The same of a node without PRL_CAP_CLAIM_MAC: a token is good for a whole epoch, whoever says it. */
static __always_inline int has_token(PRL_CONTEXT *ctx, const struct prl_node *node, __u32 at)
{
    struct prl_claim_token claim = {};
    __u64 known[2], given[2];

    __builtin_memcpy(known, node->claim_token, sizeof(known));
    if (!at || !(known[0] | known[1]) || prl_load(ctx, at, &claim, sizeof(claim)) < 0)
        return 0;
    __builtin_memcpy(given, claim.token, sizeof(given));
    return claim.type == PRL_ND_OPT_CLAIM && claim.length8 == sizeof(claim) / 8 && claim.magic[0] == 'P' &&
           claim.magic[1] == 'R' && known[0] == given[0] && known[1] == given[1];
}

/*
 * Somebody else says that `addr`, which this node owns, is his. If that is the other node taking over: silent from this
 * instant (L7). Else it is counted, and the stack defends.
 */
static __always_inline int judge_claim(PRL_CONTEXT *ctx, struct prl_node *node, struct prl_addr *addr,
                                       const struct prl_addr_key *key, __u32 at)
{
    enum judged judged = judge_trailer(ctx, node, addr, key, at);

    if (judged == CLAIM_FOREIGN && has_token(ctx, node, at))
        judged = CLAIM_GOOD;
    if (judged != CLAIM_GOOD) {
        PRL_COUNT(addr->foreign_claims);
        if (judged == CLAIM_REPLAYED)
            PRL_COUNT(node->claims_replayed);
        else
            PRL_COUNT(node->claims_foreign);
        return PASS;
    }
    if (PRL_READ(addr->state) != PRL_ADDR_LEAVING) /* that is silent already, and what comes behind is relayed */
        prl_addr_fence(node, addr);
    addr->fenced_by_ns = bpf_ktime_get_boot_ns();
    PRL_COUNT(node->claims_obeyed);
    return DROP;
}

__noinline int prl_classify_arp(PRL_CONTEXT *ctx, __u32 l3)
{
    struct prl_node *node = prl_node_get();
    struct prl_arp arp;
    struct prl_addr_key key;
    struct prl_addr *addr;
    __u8 source[6];

    if (!node || l3 > 64)
        return PASS;
    int other = prl_arp_get(ctx, l3, &arp);
    if (other < 0 || prl_load(ctx, 6, source, 6) < 0) {
        PRL_COUNT(node->malformed);
        return PASS;
    }
    if (other)
        return PASS;

    __be32 v4;
    __builtin_memcpy(&v4, arp.sender, 4);
    prl_map_v4(key.addr, v4);
    if (arp.operation == bpf_htons(PRL_ARP_REPLY))
        note_answer(ctx, node, key.addr);
    addr = prl_addr_find(node, key.addr, ctx->PRL_DEVICE);
    if (addr && is_heard(node, addr) && !is_own_mac(ctx, node, source))
        return judge_claim(ctx, node, addr, &key, l3 + sizeof(arp));

    __builtin_memcpy(&v4, arp.target, 4);
    prl_map_v4(key.addr, v4);
    addr = prl_addr_find(node, key.addr, ctx->PRL_DEVICE);
    if (addr && !is_owned(node, addr) && arp.operation == bpf_htons(PRL_ARP_REQUEST)) {
        PRL_COUNT(addr->in_dropped);
        return DROP;
    }
    return PASS;
}

/* Where the claim is among the options of a neighbour advertisement; 0: there is none. */
static __always_inline __u32 find_claim(PRL_CONTEXT *ctx, __u32 options)
{
    for (int i = 0; i < PRL_ND_OPTIONS_MAX; i++) {
        __u8 head[2];
        if (prl_load(ctx, options, head, sizeof(head)) < 0 || !head[1])
            return 0;
        if (head[0] == PRL_ND_OPT_CLAIM)
            return options;
        options += head[1] * 8u;
    }
    return 0;
}

/* Neighbour solicitation or advertisement (RFC 4861), whatever its destination. UNDECIDED: judge it by its destination. */
__noinline int prl_classify_nd(PRL_CONTEXT *ctx, struct prl_packet *packet)
{
    struct prl_node *node = prl_node_get();
    struct prl_addr_key target;
    struct prl_addr *addr;
    __u8 source[6];

    if (!node || !packet || packet->l4 > PRL_L4_OFFSET_MAX)
        return PASS;
    if (prl_nd_target(ctx, packet, &target) < 0 || prl_load(ctx, 6, source, 6) < 0) {
        PRL_COUNT(node->malformed);
        return UNDECIDED;
    }
    if (packet->icmp_type == PRL_ND_NEIGHBOUR_ADVERT)
        note_answer(ctx, node, target.addr);
    addr = prl_addr_find(node, target.addr, ctx->PRL_DEVICE);
    if (!addr)
        return UNDECIDED;
    if (packet->icmp_type == PRL_ND_NEIGHBOUR_SOLICIT) {
        if (is_owned(node, addr))
            return UNDECIDED;
        PRL_COUNT(addr->in_dropped);
        return DROP;
    }
    if (is_heard(node, addr) && !is_own_mac(ctx, node, source))
        return judge_claim(ctx, node, addr, &target, find_claim(ctx, packet->l4 + 24));
    return UNDECIDED;
}

static __always_inline int is_error(const struct prl_packet *packet)
{
    return prl_is_icmp_error(packet->kind == PRL_KIND_ICMP6, packet->icmp_type);
}

/*
 * Reads what an ICMP error quotes: a packet that this host sent, so its source is the flow's local address.
 * 1 and the key is the quoted flow's, or 0.
 */
__noinline int prl_classify_quoted(PRL_CONTEXT *ctx, struct prl_packet *packet)
{
    if (!packet || packet->l4 > PRL_L4_OFFSET_MAX)
        return 0;
    struct prl_packet quoted;
    __u32 at = packet->l4 + PRL_ICMP_HEADER_BYTES;
    __be16 ports[2];

    __builtin_memset(&quoted, 0, sizeof(quoted));
    if (packet->kind == PRL_KIND_ICMP) {
        struct iphdr ip;
        if (prl_load(ctx, at, &ip, sizeof(ip)) < 0 || ip.version != 4 || ip.ihl < 5 ||
            (bpf_ntohs(ip.frag_off) & 0x1fff))
            return 0;
        prl_map_v4(quoted.key.local, ip.saddr);
        prl_map_v4(quoted.key.remote, ip.daddr);
        quoted.key.proto = ip.protocol;
        quoted.l4 = at + ip.ihl * 4u;
    } else {
        struct ipv6hdr ip6;
        if (prl_load(ctx, at, &ip6, sizeof(ip6)) < 0 || ip6.version != 6)
            return 0;
        __builtin_memcpy(quoted.key.local, &ip6.saddr, 16);
        __builtin_memcpy(quoted.key.remote, &ip6.daddr, 16);
        quoted.key.proto = ip6.nexthdr;
        quoted.l4 = at + sizeof(ip6);
        if (prl_walk_extensions(ctx, &quoted) < 0)
            return 0;
    }
    if (quoted.key.proto != IPPROTO_TCP && quoted.key.proto != IPPROTO_UDP)
        return 0;
    if (packet->end && quoted.l4 + sizeof(ports) > packet->end) /* behind it is what Ethernet fills frames with */
        return 0;
    if (quoted.l4 > 2 * PRL_L4_OFFSET_MAX || prl_load(ctx, quoted.l4, ports, sizeof(ports)) < 0)
        return 0;
    __u64 outer[2], inner[2];
    __builtin_memcpy(outer, packet->key.local, sizeof(outer));
    __builtin_memcpy(inner, quoted.key.local, sizeof(inner));
    if (outer[0] != inner[0] || outer[1] != inner[1])
        return 0;
    __builtin_memcpy(packet->key.remote, quoted.key.remote, 16);
    packet->key.local_port = ports[0];
    packet->key.remote_port = ports[1];
    packet->key.proto = quoted.key.proto;
    return 1;
}

/* The datapath is dead. Opens its flows when that is allowed (L4, L9); a frame that came in is the evidence of L6, but not
 * one that may have waited while this machine stood still. */
static __always_inline int try_open(struct prl_node *node, __u64 now_ns)
{
    int settled = prl_has_settled(now_ns);

    if (!settled || PRL_READ(node->policy_stop) || now_ns < prl_open_at_ns(node))
        return 0;
    PRL_WRITE(node->bypassed, 1);
    PRL_WRITE(node->open_wanted, 0);
    return 1;
}

/*
 * Nothing of the peer's has arrived since output was stolen, so that any frame must do as evidence that this node is on
 * the LAN. Had the other node taken over while it was not, its claim comes within PRL_CLAIM_SLOW_NS of our return.
 */
static __always_inline int has_waited(struct prl_node *node, __u64 now_ns)
{
    __u64 first_ns = PRL_READ(node->lan_first_ns);
    if (first_ns < PRL_READ(node->heartbeat_ns)) {
        PRL_WRITE(node->lan_first_ns, now_ns);
        prl_has_settled(now_ns); /* that wait begins now, too */
        return 0;
    }
    return now_ns - first_ns >= PRL_SETTLE_NS;
}

/* A frame of the flow in slot ref->slot: to userspace, up, or nowhere. */
static __always_inline int capture(PRL_CONTEXT *ctx, struct prl_node *node, struct prl_flow *flow,
                                   const struct prl_flow_ref *ref, __u32 lif, int is_owner)
{
    __u32 flags = PRL_READ(flow->flags);
    if (flags & PRL_FLOW_SILENT) { /* a shadow eats from the link alone */
        PRL_COUNT(flow->in_dropped);
        return DROP;
    }
    int is_ours = is_for(ctx, lif); /* what a switch floods is no sign that the peer has heard our claim (L7) */
    if (!(flags & PRL_FLOW_CAPTURED)) {
        if (is_ours)
            PRL_COUNT(flow->in_passed);
        return PASS;
    }
    if ((flags & PRL_FLOW_RELAY) && !is_ours) /* flooded: the other node gets it, and relays it */
        return DROP;
    enum prl_health health = prl_health_about_now(node);
    if (health == PRL_STALE && (flags & PRL_FLOW_OPEN) && is_owner) { /* it depends on no userspace */
        PRL_COUNT(flow->in_passed);
        return PASS;
    }
    /* The peer sends here: had the other node taken over meanwhile, it would send there. */
    if (health == PRL_STALE && (!is_ours || !try_open(node, bpf_ktime_get_boot_ns()))) {
        PRL_COUNT(node->stale_dropped);
        return DROP;
    }
    if (health != PRL_HEALTHY) {
        if (is_ours)
            PRL_COUNT(flow->in_passed);
        return PASS;
    }
    int action = carry(ctx, ref, lif);
    if (action == UNDECIDED) { /* never up: the other side would not have it (I1) */
        PRL_COUNT(node->redirect_failed);
        return DROP;
    }
    if (PRL_READ(flow->stray) & ~PRL_STRAY_OUT) /* what the gate has refused was under way, and comes again */
        __sync_fetch_and_and(&flow->stray, PRL_STRAY_OUT);
    if (is_ours)
        PRL_COUNT(flow->in_redirected);
    return action;
}

/*
 * A TCP segment that nothing is captured of. Whether it must not come in yet: payload or a FIN of a session that waits to be
 * protected, or payload in front of a handshake with an endpoint whose sessions will. The peer sends it again.
 */
__noinline int prl_classify_newborn(PRL_CONTEXT *ctx, struct prl_packet *packet)
{
    struct prl_node *node = prl_node_get();
    struct prl_flow_key key;
    __u8 words[2];

    if (!node || !packet || packet->l4 > PRL_L4_OFFSET_MAX ||
        prl_load(ctx, packet->l4 + PRL_TCP_FLAGS_AT - 1, words, sizeof(words)) < 0)
        return 0;
    int has_payload = !packet->end || packet->end > packet->l4 + (words[0] >> 4) * 4u;
    if (words[1] & PRL_TCP_FLAG_RST || (!has_payload && !(words[1] & PRL_TCP_FLAG_FIN)))
        return 0;
    prl_newborn_key(&key, &packet->key);
    if ((words[1] & (PRL_TCP_FLAG_SYN | PRL_TCP_FLAG_ACK)) == PRL_TCP_FLAG_SYN) {
        if (!prl_awaited_ns(&key, PRL_OPENED_BY_PEER))
            return 0;
        PRL_COUNT(node->births_dropped);
        return 1;
    }
    struct prl_newborn *newborn = bpf_map_lookup_elem(&prl_newborns, &key);
    if (!newborn)
        return 0;
    if (prl_is_waiting(newborn, bpf_ktime_get_boot_ns())) {
        PRL_COUNT(node->births_dropped);
        return 1;
    }
    if (bpf_map_delete_elem(&prl_newborns, &key) == 0) {
        PRL_COUNT(node->births_late);
        prl_born_late(&key);
    }
    return 0;
}

static __always_inline int is_too_early(PRL_CONTEXT *ctx, struct prl_node *node, struct prl_packet *packet)
{
    return packet->kind == PRL_KIND_FLOW && packet->key.proto == IPPROTO_TCP && prl_is_anything_awaited(node) &&
           prl_classify_newborn(ctx, packet);
}

/* What becomes of the frame: PASS, DROP, or as carry() says. */
static __always_inline int classify(PRL_CONTEXT *ctx)
{
    struct prl_node *node = prl_node_get();
    struct prl_packet packet;
    struct prl_addr *addr;
    struct ethhdr *eth = (void *)(long)ctx->data;

    if (!node || (void *)(eth + 1) > (void *)(long)ctx->data_end)
        return PASS;
    /* The stack's hooks see reinjected frames a second time. A prld that has not chosen its cookie has reinjected none. */
    if (same_mac(eth->h_source, node->cookie) && (node->cookie[0] | node->cookie[5])) {
        PRL_COUNT(node->reentered);
        return PASS;
    }
    int is_evidence = is_of_machine(ctx, eth);
    if (is_evidence && PRL_READ(node->watch) == PRL_WATCH_FRAMES && !is_own_mac(ctx, node, eth->h_source))
        note_lan(node);
    if (is_evidence && PRL_READ(node->open_wanted)) {
        __u64 now_ns = bpf_ktime_get_boot_ns();
        if (prl_health(node, now_ns) != PRL_STALE)
            PRL_WRITE(node->open_wanted, 0);
        else if (has_waited(node, now_ns))
            try_open(node, now_ns);
    }

    parse(ctx, &packet);
    if (packet.kind == PRL_KIND_ARP)
        return prl_classify_arp(ctx, packet.l3);
    if (packet.kind == PRL_KIND_ICMP6 && packet.icmp_type == PRL_ICMP6_ECHO_REPLY)
        note_answer(ctx, node, packet.key.remote);
    if (packet.kind == PRL_KIND_ICMP6 &&
        (packet.icmp_type == PRL_ND_NEIGHBOUR_SOLICIT || packet.icmp_type == PRL_ND_NEIGHBOUR_ADVERT)) {
        int action = prl_classify_nd(ctx, &packet);
        if (action != UNDECIDED)
            return action;
    }
    if (!packet.version) {
        if (packet.kind == PRL_KIND_MALFORMED)
            PRL_COUNT(node->malformed);
        else if (packet.kind == PRL_KIND_TUNNELLED)
            PRL_COUNT(node->tunnelled);
        return PASS;
    }

    __u32 bit = prl_addr_bit(packet.key.local, ctx->PRL_DEVICE);
    int stray = PASS; /* what becomes of that which belongs to no flow */
    if (prl_has_bit(node->open_bits, bit)) { /* owned: the entry has nothing to add */
        PRL_COUNT(node->frames);
        packet.key.lif = PRL_READ(node->open_lif[bit]);
    } else {
        addr = prl_addr_find(node, packet.key.local, ctx->PRL_DEVICE);
        if (!addr)
            return PASS;
        PRL_COUNT(node->frames);
        if (!is_heard(node, addr)) {
            PRL_COUNT(addr->in_dropped);
            return DROP;
        }
        if (!is_owned(node, addr)) /* given away: only what can be relayed is of use */
            stray = DROP;
        packet.key.lif = addr->lif;
    }
    switch (packet.kind) {
    case PRL_KIND_FLOW:
        if (prl_is_strange(&packet))
            return is_too_early(ctx, node, &packet) ? DROP : stray;
        break;
    case PRL_KIND_ICMP:
    case PRL_KIND_ICMP6:
        if (!is_error(&packet) || !prl_classify_quoted(ctx, &packet))
            return stray;
        break;
    case PRL_KIND_FRAGMENT:
        PRL_COUNT(node->fragments);
        return stray;
    case PRL_KIND_MALFORMED:
        PRL_COUNT(node->malformed);
        return stray;
    case PRL_KIND_TUNNELLED:
        PRL_COUNT(node->tunnelled);
        return stray;
    default:
        return stray;
    }

    struct prl_flow_ref *ref = prl_flow_find(&packet.key);
    if (!ref)
        return is_too_early(ctx, node, &packet) ? DROP : stray;
    __u32 slot = ref->slot;
    struct prl_flow *flow = bpf_map_lookup_elem(&prl_flow_state, &slot);
    if (!flow)
        return stray;
    if (!(PRL_READ(flow->flags) & (PRL_FLOW_CAPTURED | PRL_FLOW_SILENT)) && is_too_early(ctx, node, &packet))
        return DROP;
    if (packet.kind != PRL_KIND_FLOW)
        PRL_COUNT(node->icmp_quoted);
    /* Given away: what was flooded the new owner has itself, and what is not captured is not relayed. */
    if (stray == DROP && (!is_for(ctx, packet.key.lif) || !(PRL_READ(flow->flags) & PRL_FLOW_CAPTURED)))
        return DROP;
    return capture(ctx, node, flow, ref, packet.key.lif, stray == PASS);
}

#endif /* PRL_CLASSIFY_H */
