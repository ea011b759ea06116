// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Everything that leaves, and the two TAPs that packets of prl's own pass through (tc: tcx, or clsact).
 *
 *     stack ──▶ prl_egress (lif) ─┬─ not ours to say (I4) ────────▶ stolen
 *                                 ├─ payload, FIN, RST not committed ─▶ hold TAP (prl_hold_guard) ─▶ userspace
 *                                 └─ the rest ─────────────────────▶ wire
 *     userspace ──▶ hold TAP (prl_release) ──▶ prl_egress, marked: newest ack, window, timestamp ──▶ wire
 *                   a signed segment (RFC 2385) comes back as it is to leave: userspace has the key
 *     userspace ──▶ inject TAP (prl_inject, prl_pick) ──▶ ingress of the lif, marked ──▶ stack
 *     stack ──▶ prl_silence (any other interface) ──▶ wire, but nothing for a service address that would have to be
 *                                                     silent or held
 *
 * What is suppressed is STOLEN, never SHOT: SHOT tells the local TCP, which then does not count it as sent.
 */
#include <linux/pkt_cls.h>
#include "birth.h"
#include "parse.h"
#include "sock_view.h"

/* Pass on to whatever other tc programs there are. */
#define PASS TC_ACT_UNSPEC

#define PACKET_HOST 0 /* linux/if_packet.h */
#define PACKET_OTHERHOST 3

/* What a classifier that is no action says (net/sched/cls_bpf.c, cls_bpf_classify). */
#define MINE (-1)
#define NOT_MINE 0

/* Headers that are looked for in the linear part: Ethernet, two tags, IPv6, TCP with all its options. */
#define HEADERS_BYTES (14 + 8 + 40 + 60)

/* NOP NOP timestamp, as Linux puts it in front of all other options (net/ipv4/tcp_output.c, tcp_options_write). */
#define STAMPS_HEAD 0x0101080a
/* NOP NOP signature, in front of all others where there is one (likewise). */
#define MD5_OPTION_BYTES 20
#define OPTION_MD5 19 /* behind two of no operation */
#define OPTION_AO 29  /* RFC 5925 */
#define MSS_OPTION_BYTES 4
#define SACK_STAMPS_HEAD 0x0402080a /* SACK permitted in place of the two of no operation */

struct tcp_segment {
    struct tcphdr tcp;
    __be32 stamps[3]; /* STAMPS_HEAD, TSval, TSecr; valid when has_stamps */
    __u32 has_stamps;
    __u32 payload; /* bytes */
};

static __always_inline int is_after(__u32 a, __u32 b)
{
    return (__s32)(a - b) > 0;
}

/* Userspace may be stopped before it has sent the claim; until then the old owner speaks. And it may be stopped or dead when
 * the other node goes on alone, and its claim not come through: where arbiter or witnesses decide, time alone ends what this
 * node may say (L6, L12). */
static __always_inline int is_silent(const struct __sk_buff *skb, const struct prl_node *node, __u32 service)
{
    __u32 silent = PRL_READ(node->silent) | PRL_READ(node->fenced);
    if (skb->mark != PRL_MARK_WORD)
        silent |= PRL_READ(node->claiming);
    __u64 speak_by_ns = PRL_READ(node->speak_by_ns);
    if (speak_by_ns && bpf_ktime_get_boot_ns() > speak_by_ns)
        return 1;
    return silent >> (service & 31) & 1;
}

/*
 * Whether this node may emit for `addr` now. After a take-over by the lease the first emission has a deadline: the end
 * of that lease (L2). From then on the other node may speak, unless it heard our claim; so the LAN must have been
 * there, too (L6).
 */
static __always_inline int may_speak(const struct __sk_buff *skb, struct prl_node *node, struct prl_addr *addr)
{
    if (PRL_READ(addr->state) != PRL_ADDR_OWNER || is_silent(skb, node, addr->service)) {
        PRL_COUNT(addr->out_silenced);
        return 0;
    }
    if (PRL_READ(addr->spoken) == PRL_SPOKEN_FOR_GOOD)
        return 1;
    __u64 first_by_ns = PRL_READ(addr->first_by_ns);
    if (!first_by_ns || PRL_READ(node->word_ns) > first_by_ns) {
        PRL_WRITE(addr->spoken, PRL_SPOKEN_FOR_GOOD);
        return 1;
    }
    if (bpf_ktime_get_boot_ns() <= first_by_ns) {
        PRL_WRITE(addr->spoken, PRL_SPOKEN_IN_TIME);
        return 1;
    }
    __u64 lan_first_ns = PRL_READ(node->lan_first_ns);
    if (!PRL_READ(addr->spoken)) {
        prl_addr_fence(node, addr);
    } else if (lan_first_ns && lan_first_ns <= first_by_ns) {
        PRL_WRITE(addr->spoken, PRL_SPOKEN_FOR_GOOD);
        return 1;
    }
    PRL_COUNT(addr->out_silenced);
    return 0;
}

static __always_inline struct prl_flow *flow_of(struct prl_flow_key *key)
{
    struct prl_flow_ref *ref = prl_flow_find(key);
    if (!ref)
        return NULL;
    __u32 slot = ref->slot;
    return bpf_map_lookup_elem(&prl_flow_state, &slot);
}

static __always_inline void note_socket(struct __sk_buff *skb, struct prl_flow *flow, __u64 now_ns)
{
    struct bpf_sock *sk = skb->sk;
    if (!sk)
        return;
    struct tcp_sock *tcp = bpf_skc_to_tcp_sock(sk);
    if (tcp)
        prl_view_store(&flow->sock, tcp, now_ns);
}

static __always_inline int has_ports(const struct prl_packet *packet)
{
    return (packet->kind == PRL_KIND_FLOW || (packet->kind == PRL_KIND_FRAGMENT && packet->first)) &&
           (packet->key.proto == IPPROTO_TCP || packet->key.proto == IPPROTO_UDP);
}

/*
 * What leaves for `packet->key.local`, a service address of a logical interface, by another interface: a route leads there,
 * or somebody asked there who has the address (Linux answers for all that it has on any interface). A node that does not own
 * the address is silent there, too (I4). One that owns it says nowhere but on the address's own interface where it is, or
 * two MAC addresses would claim it; and what would have to be held (I2) does not leave where nobody holds it: userspace
 * gives the flow up, and the stack sends it again.
 */
static __always_inline int judge_elsewhere(struct __sk_buff *skb, struct prl_node *node, struct prl_addr *addr,
                                           const struct prl_packet *packet, __u32 lif)
{
    struct prl_flow_key key = packet->key;
    struct prl_flow *flow = NULL;
    int speaks = skb->mark != PRL_MARK_SHADOW && may_speak(skb, node, addr);

    if (has_ports(packet) && !prl_is_strange(packet)) {
        key.lif = (__u16)lif;
        flow = flow_of(&key);
    }
    __u32 flags = flow ? PRL_READ(flow->flags) : 0;
    if (flags & PRL_FLOW_SILENT) {
        __u64 now_ns = bpf_ktime_get_boot_ns();
        PRL_COUNT(flow->out_silenced);
        PRL_WRITE(node->shadow_stray_ifindex, skb->ifindex);
        PRL_WRITE(node->shadow_stray_ns, now_ns);
        note_socket(skb, flow, now_ns);
        return TC_ACT_STOLEN;
    }
    if (!speaks || packet->kind == PRL_KIND_TUNNELLED) /* behind extension headers may be anybody's */
        return TC_ACT_STOLEN;
    /* Of datagrams nothing is held (R19). */
    if (!(flags & PRL_FLOW_HELD) || key.proto != IPPROTO_TCP || PRL_READ(node->bypassed))
        return PASS;
    __sync_fetch_and_or(&flow->stray, PRL_STRAY_OUT);
    PRL_COUNT(node->strays);
    return TC_ACT_STOLEN;
}

/* `packet`: key but for lif, kind (ARP, ICMP6: a word about where the address is). PASS: no service's address. */
__noinline int prl_elsewhere(struct __sk_buff *skb, struct prl_packet *packet)
{
    struct prl_node *node = prl_node_get();
    int action = PASS;

    if (!node || !packet)
        return PASS;
    for (__u32 i = 0; i < PRL_LIFS_MAX && action == PASS; i++) {
        struct prl_lif *lif = prl_lif_at(i);
        if (!lif)
            break;
        struct prl_addr *addr = prl_addr_find(node, packet->key.local, lif->ifindex);
        if (!addr)
            continue;
        if (packet->kind == PRL_KIND_ARP ||
            (packet->kind == PRL_KIND_ICMP6 && packet->icmp_type == PRL_ND_NEIGHBOUR_ADVERT))
            action = TC_ACT_STOLEN;
        else
            action = judge_elsewhere(skb, node, addr, packet, i);
    }
    if (action != PASS)
        PRL_COUNT(node->elsewhere_silenced);
    return action;
}

/* A word about where the address in packet->key.local is, by its own interface or another. */
static __always_inline int judge_word(struct __sk_buff *skb, struct prl_node *node, struct prl_packet *packet)
{
    struct prl_addr *addr = prl_addr_find(node, packet->key.local, skb->ifindex);
    if (addr)
        return may_speak(skb, node, addr) ? PASS : TC_ACT_STOLEN;
    return prl_is_anywhere(node, packet->key.local) ? prl_elsewhere(skb, packet) : PASS;
}

__noinline int prl_egress_arp(struct __sk_buff *skb, __u32 l3)
{
    struct prl_node *node = prl_node_get();
    struct prl_packet packet = {.kind = PRL_KIND_ARP};
    struct prl_arp arp;
    __be32 v4;

    if (!node || l3 > 64 || prl_arp_get(skb, l3, &arp))
        return PASS;
    __builtin_memcpy(&v4, arp.sender, 4);
    prl_map_v4(packet.key.local, v4);
    return judge_word(skb, node, &packet);
}

__noinline int prl_egress_nd(struct __sk_buff *skb, struct prl_packet *advert)
{
    struct prl_node *node = prl_node_get();
    struct prl_packet packet = {.kind = PRL_KIND_ICMP6, .icmp_type = PRL_ND_NEIGHBOUR_ADVERT};
    struct prl_addr_key target;

    if (!node || !advert || advert->l4 > PRL_L4_OFFSET_MAX || prl_nd_target(skb, advert, &target) < 0)
        return PASS;
    __builtin_memcpy(packet.key.local, target.addr, sizeof(target.addr));
    return judge_word(skb, node, &packet);
}

/* Reads the TCP header. 0, or -1: not to be understood. A signature stands in front of the timestamps. */
static __always_inline int load_segment(struct __sk_buff *skb, const struct prl_packet *packet, int is_signed,
                                        struct tcp_segment *segment)
{
    __u32 stamps_at = sizeof(segment->tcp) + (is_signed ? MD5_OPTION_BYTES : 0);
    __u32 l4 = packet->l4;
    if (bpf_skb_load_bytes(skb, l4, &segment->tcp, sizeof(segment->tcp)) < 0)
        return -1;
    __u32 header = segment->tcp.doff * 4u;
    __u32 end = packet->end ? packet->end : skb->len;
    if (header < sizeof(segment->tcp) || l4 + header > end)
        return -1;
    segment->payload = end - l4 - header;
    segment->has_stamps = 0;
    if (header >= stamps_at + sizeof(segment->stamps) &&
        bpf_skb_load_bytes(skb, l4 + stamps_at, segment->stamps, sizeof(segment->stamps)) == 0)
        segment->has_stamps = segment->stamps[0] == bpf_htonl(STAMPS_HEAD);
    return 0;
}

#define TCP_CHECK_AT 16 /* offsets in the TCP header */
#define TCP_ACK_AT 8
#define TCP_WINDOW_AT 14
#define TCP_STAMPS_AT 24

/* Without BPF_F_PSEUDO_HDR the helper does the right thing for full and for partial checksums alike. */
static __always_inline void store_word(struct __sk_buff *skb, __u32 l4, __u32 at, __be32 old, __be32 word)
{
    if (old == word)
        return;
    bpf_l4_csum_replace(skb, l4 + TCP_CHECK_AT, old, word, sizeof(word));
    bpf_skb_store_bytes(skb, l4 + at, &word, sizeof(word), 0);
}

static __always_inline void store_window(struct __sk_buff *skb, __u32 l4, __be16 old, __be16 window)
{
    if (old == window)
        return;
    bpf_l4_csum_replace(skb, l4 + TCP_CHECK_AT, old, window, sizeof(window));
    bpf_skb_store_bytes(skb, l4 + TCP_WINDOW_AT, &window, sizeof(window), 0);
}

/* A segment that was held is older than the ACKs that passed meanwhile; the peer would drop it (RFC 5961, PAWS). It
 * leaves with the newest ack, window and timestamps instead (R19). */
static __always_inline void refresh(struct __sk_buff *skb, struct prl_flow *flow, __u32 l4,
                                    struct tcp_segment *segment)
{
    __u32 valid = flow->last_valid;

    if ((valid & PRL_LAST_ACK) && segment->tcp.ack && !is_after(bpf_ntohl(segment->tcp.ack_seq), flow->last_ack)) {
        __be32 ack = bpf_htonl(flow->last_ack);
        __be16 window = bpf_htons((__u16)flow->last_window);
        store_word(skb, l4, TCP_ACK_AT, segment->tcp.ack_seq, ack);
        store_window(skb, l4, segment->tcp.window, window);
        segment->tcp.ack_seq = ack;
        segment->tcp.window = window;
    }
    if ((valid & PRL_LAST_STAMPS) && segment->has_stamps) {
        __be32 newest = bpf_htonl(flow->last_tsval);
        if (is_after(flow->last_tsval, bpf_ntohl(segment->stamps[1]))) {
            store_word(skb, l4, TCP_STAMPS_AT, segment->stamps[1], newest);
            segment->stamps[1] = newest;
        }
        newest = bpf_htonl(flow->last_tsecr);
        if (is_after(flow->last_tsecr, bpf_ntohl(segment->stamps[2]))) {
            store_word(skb, l4, TCP_STAMPS_AT + 4, segment->stamps[2], newest);
            segment->stamps[2] = newest;
        }
    }
}

static __always_inline __u32 clamped_window(const struct prl_flow *flow, const struct tcp_segment *segment)
{
    return prl_clamped_window(flow, bpf_ntohl(segment->tcp.ack_seq), bpf_ntohs(segment->tcp.window));
}

static __always_inline void clamp(struct __sk_buff *skb, struct prl_flow *flow, __u32 l4,
                                  struct tcp_segment *segment)
{
    __be16 raw = bpf_htons((__u16)clamped_window(flow, segment));

    if (raw == segment->tcp.window)
        return;
    store_window(skb, l4, segment->tcp.window, raw);
    segment->tcp.window = raw;
    PRL_WRITE(flow->clamped, 1);
}

/* Remembers the right edge that the peer is told. */
static __always_inline void note_edge(struct prl_flow *flow, const struct tcp_segment *segment)
{
    __u32 right = bpf_ntohl(segment->tcp.ack_seq) + (bpf_ntohs(segment->tcp.window) << (flow->rcv_wscale & 15));

    if (!segment->tcp.ack)
        return;
    if (!(flow->last_valid & PRL_LAST_EDGE) || is_after(right, flow->last_edge))
        flow->last_edge = right;
    flow->last_valid |= PRL_LAST_EDGE;
}

/* Remembers the newest that the stack has to say; the window as it is before clamping, for segments to come. */
static __always_inline void note_emitted(struct prl_flow *flow, const struct tcp_segment *segment)
{
    __u32 valid = flow->last_valid;
    __u32 ack = bpf_ntohl(segment->tcp.ack_seq);

    if (!segment->tcp.ack)
        return;
    if (!(valid & PRL_LAST_ACK) || !is_after(flow->last_ack, ack)) {
        flow->last_ack = ack;
        flow->last_window = bpf_ntohs(segment->tcp.window);
    }
    valid |= PRL_LAST_ACK;
    if (segment->has_stamps) {
        __u32 tsval = bpf_ntohl(segment->stamps[1]);
        __u32 tsecr = bpf_ntohl(segment->stamps[2]);
        if (!(valid & PRL_LAST_STAMPS) || is_after(tsval, flow->last_tsval))
            flow->last_tsval = tsval;
        if (!(valid & PRL_LAST_STAMPS) || is_after(tsecr, flow->last_tsecr))
            flow->last_tsecr = tsecr;
        valid |= PRL_LAST_STAMPS;
    }
    flow->last_valid = valid;
}

/* A signed segment whose window must be lowered: userspace does it, signs again and releases it at once. One that the
 * TAP has no room for is lost like any ACK in a network. */
static __always_inline int sign_again(struct __sk_buff *skb, struct prl_node *node)
{
    skb->mark = PRL_MARK_HOLD;
    if (bpf_clone_redirect(skb, node->hold_ifindex, 0))
        PRL_COUNT(node->redirect_failed);
    return TC_ACT_STOLEN;
}

/* A SYN-ACK of an endpoint whose sessions wait, or a SYN. The entry of its session, be it an older one; NULL: it does not wait. */
static __always_inline struct prl_newborn *conceive(struct __sk_buff *skb, const struct prl_flow_key *key,
                                                    const struct tcp_segment *segment)
{
    struct prl_newborn *known = bpf_map_lookup_elem(&prl_newborns, key);
    struct prl_newborn begun = {.iss = bpf_ntohl(segment->tcp.seq)};

    if (known && known->iss == begun.iss)
        return known;
    if (!prl_awaited_ns(key, segment->tcp.ack ? PRL_OPENED_BY_PEER : PRL_OPENED_HERE) ||
        bpf_skb_load_bytes(skb, 0, begun.peer_mac, sizeof(begun.peer_mac)) < 0)
        return NULL;
    begun.until_ns = bpf_ktime_get_boot_ns() + PRL_HANDSHAKE_NS;
    if (bpf_map_update_elem(&prl_newborns, key, &begun, BPF_ANY) < 0)
        return NULL;
    return bpf_map_lookup_elem(&prl_newborns, key);
}

/* What a session says while it waits: the peer takes nothing that was said before it (RFC 7323, 5). */
static __always_inline void note_stamps(struct __sk_buff *skb, __u32 l4, const struct tcp_segment *segment,
                                        struct prl_newborn *newborn)
{
    __be32 stamps[3] = {}; /* as Linux writes them: before all others, but behind the MSS that a SYN tells */
    __u32 at = sizeof(segment->tcp) + (segment->tcp.syn ? MSS_OPTION_BYTES : 0);
    __u32 before = PRL_READ(newborn->tsval);

    if (segment->tcp.doff * 4u < at + sizeof(stamps) ||
        bpf_skb_load_bytes(skb, l4 + at, stamps, sizeof(stamps)) < 0)
        return;
    if (stamps[0] != bpf_htonl(STAMPS_HEAD) && stamps[0] != bpf_htonl(SACK_STAMPS_HEAD))
        return;
    __u32 tsval = bpf_ntohl(stamps[1]);
    if (before && is_after(before, tsval))
        return;
    PRL_WRITE(newborn->tsval, tsval);
    PRL_WRITE(newborn->tsecr, bpf_ntohl(stamps[2]));
}

/*
 * A segment of a session of which nothing is held. As long as that waits to be protected, from the SYN-ACK on, or from what
 * the peer's is answered with, its peer is told that there is no room. Returns whether the window was shut: not that of a
 * segment that is signed with it, whose first option that is, and not that of a SYN, on which nobody sends.
 */
__noinline int prl_egress_newborn(struct __sk_buff *skb, struct prl_packet *packet)
{
    struct prl_flow_key key;
    struct tcp_segment segment;
    struct prl_newborn *newborn;
    __u8 option[3] = {};

    if (!packet || packet->l4 > PRL_L4_OFFSET_MAX ||
        bpf_skb_load_bytes(skb, packet->l4, &segment.tcp, sizeof(segment.tcp)) < 0 || segment.tcp.rst ||
        !(segment.tcp.ack || segment.tcp.syn))
        return 0;
    prl_newborn_key(&key, &packet->key);
    newborn = segment.tcp.syn ? conceive(skb, &key, &segment) : bpf_map_lookup_elem(&prl_newborns, &key);
    if (!newborn)
        return 0;
    note_stamps(skb, packet->l4, &segment, newborn);
    if (!segment.tcp.ack || !prl_is_waiting(newborn, bpf_ktime_get_boot_ns()))
        return 0;
    if (segment.tcp.doff > sizeof(segment.tcp) / 4 &&
        bpf_skb_load_bytes(skb, packet->l4 + sizeof(segment.tcp), option, sizeof(option)) == 0 &&
        (option[2] == OPTION_MD5 || option[0] == OPTION_AO))
        return 0;
    store_window(skb, packet->l4, segment.tcp.window, 0);
    return 1;
}

/* The segment leaves. MD5 signs ack and window (RFC 2385): such headers stay as they are. `packet`: of a session of which
 * nothing is held, else NULL. */
static __always_inline int emit(struct __sk_buff *skb, struct prl_node *node, struct prl_flow *flow, __u32 l4,
                                struct tcp_segment *segment, int released, struct prl_packet *packet)
{
    if (!segment->tcp.syn) {
        __u32 flags = PRL_READ(flow->flags);
        /* Without a datapath nobody moves the limit, and nobody signs. */
        int clamps =
            (flags & PRL_FLOW_CLAMP) && segment->tcp.ack && !segment->tcp.rst && !PRL_READ(node->bypassed);
        if (flags & PRL_FLOW_MD5) {
            if (clamps && !released && clamped_window(flow, segment) != bpf_ntohs(segment->tcp.window))
                return sign_again(skb, node);
        } else {
            if (released)
                refresh(skb, flow, l4, segment);
            note_emitted(flow, segment);
            if (clamps)
                clamp(skb, flow, l4, segment);
            if (packet && prl_is_anything_awaited(node) && prl_egress_newborn(skb, packet))
                segment->tcp.window = 0;
        }
        note_edge(flow, segment);
    }
    PRL_COUNT(flow->out_passed);
    return PASS;
}

/*
 * Payload, FIN or RST that may not leave yet: to userspace, in order. A clone, because its delivery can be checked:
 * what a full TAP refuses is not noted as held, so that the kernel's own retransmission is; until then nothing
 * behind it is held either, because userspace would see a hole in the stream.
 */
static __always_inline int hold(struct __sk_buff *skb, struct prl_node *node, struct prl_flow *flow,
                                const struct tcp_segment *segment, __u32 end)
{
    __u32 seq = bpf_ntohl(segment->tcp.seq);
    __u32 generation = flow->generation + 1;
    int in_stream = !segment->tcp.rst;

    if (flow->out_valid != generation) { /* the first of this generation */
        flow->out_held = seq;
        flow->last_valid &= ~PRL_LAST_HOLE;
        PRL_WRITE(flow->out_valid, generation);
    }
    __u32 committed = PRL_READ(flow->out_committed);
    if (PRL_READ(flow->flags) & PRL_FLOW_ACTIVE) { /* up to there nothing has to be held */
        if (is_after(committed, flow->out_held))
            flow->out_held = committed;
        if (is_after(committed, flow->out_hole))
            flow->last_valid &= ~PRL_LAST_HOLE;
    }
    int has_hole = flow->last_valid & PRL_LAST_HOLE;
    if (in_stream && !has_hole && is_after(seq, flow->out_held)) { /* stolen in silence, it is not here either */
        flow->out_hole = flow->out_held;
        flow->last_valid |= PRL_LAST_HOLE;
        has_hole = 1;
    }
    if (in_stream && has_hole && is_after(seq, flow->out_hole)) {
        PRL_COUNT(node->redirect_failed);
        return TC_ACT_STOLEN;
    }
    skb->mark = PRL_MARK_HOLD;
    if (bpf_clone_redirect(skb, node->hold_ifindex, 0)) {
        PRL_COUNT(node->redirect_failed);
        if (in_stream) { /* TCP may send again in one what is held and what is not */
            flow->out_hole = is_after(flow->out_held, seq) ? flow->out_held : seq;
            flow->last_valid |= PRL_LAST_HOLE;
        }
        return TC_ACT_STOLEN;
    }
    if (in_stream && has_hole && is_after(end, flow->out_hole))
        flow->last_valid &= ~PRL_LAST_HOLE;
    if (is_after(end, flow->out_held))
        flow->out_held = end;
    PRL_COUNT(flow->out_held_packets);
    return TC_ACT_STOLEN;
}

/* A segment of a flow in the table, from an address that this node owns. */
static __always_inline int judge_segment(struct __sk_buff *skb, struct prl_node *node, struct prl_flow *flow,
                                         struct prl_packet *packet)
{
    struct tcp_segment segment;
    __u32 l4 = packet->l4;

    __u32 flags = PRL_READ(flow->flags);
    if (load_segment(skb, packet, flags & PRL_FLOW_MD5, &segment) < 0)
        return TC_ACT_STOLEN;
    if (flags & PRL_FLOW_SILENT) { /* a shadow that has not taken over, or never may */
        PRL_COUNT(flow->out_silenced);
        note_socket(skb, flow, bpf_ktime_get_boot_ns());
        return TC_ACT_STOLEN;
    }
    if (skb->mark == PRL_MARK_RELEASE)
        return emit(skb, node, flow, l4, &segment, 1, NULL);
    if (!(flags & PRL_FLOW_HELD))
        return emit(skb, node, flow, l4, &segment, 0, packet);

    __u64 now_ns = bpf_ktime_get_boot_ns();
    note_socket(skb, flow, now_ns);
    switch (prl_health(node, now_ns)) {
    case PRL_HEALTHY:
        break;
    case PRL_BYPASSED:
        return emit(skb, node, flow, l4, &segment, 0, NULL);
    case PRL_STALE: /* only a frame from the network opens (L6) */
        PRL_WRITE(node->open_wanted, 1);
        PRL_COUNT(flow->out_silenced);
        return TC_ACT_STOLEN;
    }

    if (segment.tcp.syn)
        return emit(skb, node, flow, l4, &segment, 0, NULL);
    if (flags & PRL_FLOW_MD5) /* for what userspace signs, as soon as the stack has said it */
        note_emitted(flow, &segment);
    if (!segment.payload && !segment.tcp.fin && !segment.tcp.rst)
        return emit(skb, node, flow, l4, &segment, 0, NULL);
    __u32 end = bpf_ntohl(segment.tcp.seq) + segment.payload + segment.tcp.fin;
    if (!segment.tcp.rst) {
        if ((flags & PRL_FLOW_ACTIVE) && !is_after(end, PRL_READ(flow->out_committed)))
            return emit(skb, node, flow, l4, &segment, 0, NULL);
        if (PRL_READ(flow->out_valid) == flow->generation + 1 && !is_after(end, flow->out_held)) {
            PRL_COUNT(flow->out_duplicates);
            return TC_ACT_STOLEN;
        }
    }
    return hold(skb, node, flow, &segment, end);
}

/* A datagram of a flow in the table, from an address that this node owns. It is never held (R19): the other side
 * may send it a second time at take-over. A first fragment is judged likewise; without it, the rest is nothing. */
static __always_inline int judge_datagram(struct prl_node *node, struct prl_flow *flow)
{
    __u32 flags = PRL_READ(flow->flags);
    int guarded = flags & PRL_FLOW_HELD;

    if (!(flags & PRL_FLOW_SILENT) && (!guarded || prl_health(node, bpf_ktime_get_boot_ns()) != PRL_STALE)) {
        PRL_COUNT(flow->out_passed);
        return PASS;
    }
    if (!(flags & PRL_FLOW_SILENT)) /* only a frame from the network opens (L6) */
        PRL_WRITE(node->open_wanted, 1);
    PRL_COUNT(flow->out_silenced);
    return TC_ACT_STOLEN;
}

static __always_inline int judge(struct __sk_buff *skb)
{
    struct prl_node *node = prl_node_get();
    struct prl_packet packet;
    __u32 tags = 0;

    if (!node)
        return PASS;
    /* The stack's headers are in the linear part. Only when one is not found there is the packet made longer: that copies
     * what TCP has cloned, a microsecond for each. */
    for (int pulled = 0; pulled < 2; pulled++) {
        __builtin_memset(&packet, 0, sizeof(packet));
        if (skb->vlan_present) { /* the tag of a VLAN device is not in the frame yet */
            packet.key.vlans = skb->vlan_tci & 0xfff;
            tags = 1;
        }
        prl_parse(skb, &packet, 1, tags);
        __u32 linear = skb->data_end - skb->data;
        if (packet.kind != PRL_KIND_MALFORMED || linear >= HEADERS_BYTES || linear >= skb->len)
            break;
        bpf_skb_pull_data(skb, skb->len < HEADERS_BYTES ? skb->len : HEADERS_BYTES);
    }
    if (packet.kind == PRL_KIND_ARP)
        return prl_egress_arp(skb, packet.l3);
    if (packet.kind == PRL_KIND_ICMP6 && packet.icmp_type == PRL_ND_NEIGHBOUR_ADVERT &&
        prl_egress_nd(skb, &packet) != PASS)
        return TC_ACT_STOLEN;
    if (!packet.version)
        return PASS;
    struct prl_addr *addr = prl_addr_find(node, packet.key.local, skb->ifindex);
    if (!addr) /* an address of another interface, routed here */
        return prl_is_anywhere(node, packet.key.local) ? prl_elsewhere(skb, &packet) : PASS;
    int speaks = skb->mark != PRL_MARK_SHADOW && may_speak(skb, node, addr);
    if (!has_ports(&packet))
        return speaks ? PASS : TC_ACT_STOLEN;
    int is_udp = packet.key.proto == IPPROTO_UDP;
    packet.key.lif = addr->lif;
    struct prl_flow *flow = prl_is_strange(&packet) ? NULL : flow_of(&packet.key);
    if (is_udp && speaks)
        return flow ? judge_datagram(node, flow) : PASS;
    if (!speaks) {
        if (flow && (PRL_READ(flow->flags) & PRL_FLOW_SILENT)) {
            PRL_COUNT(flow->out_silenced);
            note_socket(skb, flow, bpf_ktime_get_boot_ns());
        }
        return TC_ACT_STOLEN;
    }
    if (!flow) {
        if (packet.kind == PRL_KIND_FLOW && !is_udp && prl_is_anything_awaited(node))
            prl_egress_newborn(skb, &packet);
        return PASS;
    }
    if (packet.kind == PRL_KIND_FRAGMENT) {
        /* TCP that is cut in pieces cannot be judged; without its first piece the rest is nothing to the peer. */
        if (!(PRL_READ(flow->flags) & (PRL_FLOW_HELD | PRL_FLOW_SILENT)))
            return PASS;
        PRL_COUNT(flow->out_silenced);
        return TC_ACT_STOLEN;
    }
    return judge_segment(skb, node, flow, &packet);
}

/*
 * As tcx wants it, which knows no TC_ACT_STOLEN (include/net/tcx.h, tcx_action_code): a packet that is redirected to no
 * interface is freed, and counts as sent (net/core/dev.c, sch_handle_egress; net/core/filter.c, skb_do_redirect).
 */
static __always_inline int steal(int action)
{
    return action == TC_ACT_STOLEN ? (int)bpf_redirect(0, 0) : action;
}

SEC("tc")
int prl_egress(struct __sk_buff *skb)
{
    return steal(judge(skb));
}

/*
 * Reads what leaves by an interface that is none of prl's, relative to the network header: tunnels have no Ethernet header.
 * 0, or -1: nothing with an address that a service may have.
 */
static __always_inline int load_elsewhere(struct __sk_buff *skb, struct prl_node *node, struct prl_packet *packet)
{
    __be32 v4;

    switch (bpf_ntohs((__u16)skb->protocol)) {
    case ETH_P_ARP:
        if (bpf_skb_load_bytes_relative(skb, offsetof(struct prl_arp, sender), &v4, sizeof(v4), BPF_HDR_START_NET))
            return -1;
        prl_map_v4(packet->key.local, v4);
        packet->kind = PRL_KIND_ARP;
        break;
    case ETH_P_IP:
        if (bpf_skb_load_bytes_relative(skb, offsetof(struct iphdr, saddr), &v4, sizeof(v4), BPF_HDR_START_NET))
            return -1;
        prl_map_v4(packet->key.local, v4);
        packet->version = 4;
        break;
    case ETH_P_IPV6:
        if (bpf_skb_load_bytes_relative(skb, offsetof(struct ipv6hdr, saddr), packet->key.local, 16,
                                        BPF_HDR_START_NET))
            return -1;
        packet->version = 6;
        break;
    default:
        return -1;
    }
    return prl_is_anywhere(node, packet->key.local) ? 0 : -1;
}

/* The rest of a packet from a service address: ends and protocol. What is not understood does not leave (TUNNELLED). */
static __always_inline void load_ends(struct __sk_buff *skb, struct prl_packet *packet)
{
    __u32 l4 = sizeof(struct ipv6hdr);
    __be16 ports[2];

    packet->kind = PRL_KIND_TUNNELLED;
    if (packet->version == 4) {
        struct iphdr ip;
        if (bpf_skb_load_bytes_relative(skb, 0, &ip, sizeof(ip), BPF_HDR_START_NET))
            return;
        prl_map_v4(packet->key.remote, ip.daddr);
        packet->key.proto = ip.protocol;
        l4 = ip.ihl * 4u;
        if (ip.frag_off & bpf_htons(0x1fff)) { /* without its first piece it is nothing to the peer */
            packet->kind = PRL_KIND_FRAGMENT;
            return;
        }
    } else {
        struct ipv6hdr ip6;
        if (bpf_skb_load_bytes_relative(skb, 0, &ip6, sizeof(ip6), BPF_HDR_START_NET))
            return;
        __builtin_memcpy(packet->key.remote, &ip6.daddr, 16);
        packet->key.proto = ip6.nexthdr;
        if (ip6.nexthdr == IPPROTO_FRAGMENT) {
            __u8 head[8];
            if (bpf_skb_load_bytes_relative(skb, l4, head, sizeof(head), BPF_HDR_START_NET))
                return;
            packet->key.proto = head[0];
            l4 += sizeof(head);
            if (head[2] || (head[3] & 0xf8)) { /* as above */
                packet->kind = PRL_KIND_FRAGMENT;
                return;
            }
        }
        if (prl_is_extension(packet->key.proto))
            return;
    }
    if (packet->key.proto == IPPROTO_ICMPV6 && packet->version == 6) {
        packet->kind = PRL_KIND_ICMP6;
        bpf_skb_load_bytes_relative(skb, l4, &packet->icmp_type, 1, BPF_HDR_START_NET);
        return;
    }
    packet->kind = PRL_KIND_IP;
    if (packet->key.proto != IPPROTO_TCP && packet->key.proto != IPPROTO_UDP)
        return;
    if (bpf_skb_load_bytes_relative(skb, l4, ports, sizeof(ports), BPF_HDR_START_NET)) {
        packet->kind = PRL_KIND_TUNNELLED;
        return;
    }
    packet->key.local_port = ports[0];
    packet->key.remote_port = ports[1];
    packet->kind = PRL_KIND_FLOW;
}

/* Makes packet->key.local the target of a neighbour advertisement. 0, or -1: it is none. */
static __always_inline int load_advert(struct __sk_buff *skb, struct prl_packet *packet)
{
    __u8 next, type;

    if (bpf_skb_load_bytes_relative(skb, offsetof(struct ipv6hdr, nexthdr), &next, 1, BPF_HDR_START_NET) ||
        next != IPPROTO_ICMPV6 ||
        bpf_skb_load_bytes_relative(skb, sizeof(struct ipv6hdr), &type, 1, BPF_HDR_START_NET) ||
        type != PRL_ND_NEIGHBOUR_ADVERT ||
        bpf_skb_load_bytes_relative(skb, sizeof(struct ipv6hdr) + 8, packet->key.local, 16, BPF_HDR_START_NET))
        return -1;
    packet->kind = PRL_KIND_ICMP6;
    packet->icmp_type = type;
    return 0;
}

/* Egress of every interface that is neither a logical one nor prl's own. What has a VLAN tag has passed its VLAN's. */
SEC("tc")
int prl_silence(struct __sk_buff *skb)
{
    struct prl_node *node = prl_node_get();
    struct prl_packet packet;

    if (!node || skb->vlan_present)
        return PASS;
    __builtin_memset(&packet, 0, sizeof(packet));
    if (load_elsewhere(skb, node, &packet) == 0) {
        if (packet.version)
            load_ends(skb, &packet);
        int action = prl_elsewhere(skb, &packet);
        if (action != PASS || packet.version != 6) /* else it may be a stranger's that shares a service's bit */
            return steal(action);
    }
    if (packet.version == 6 && load_advert(skb, &packet) == 0 && prl_is_anywhere(node, packet.key.local))
        return steal(prl_elsewhere(skb, &packet));
    return PASS;
}

/* A frame that userspace wrote to the inject TAP: as though its logical interface had just received it. */
SEC("tc")
int prl_inject(struct __sk_buff *skb)
{
    struct prl_node *node = prl_node_get();
    struct prl_inject_eth eth;
    __u8 macs[12];

    if (!node || bpf_skb_load_bytes(skb, 0, &eth, sizeof(eth)) < 0)
        return TC_ACT_SHOT;
    if (eth.tag[0] != PRL_INJECT_TAG_0 || eth.tag[1] != PRL_INJECT_TAG_1 || eth.tag[2] != PRL_INJECT_TAG_2 ||
        eth.tag[3] != PRL_INJECT_TAG_3)
        return TC_ACT_SHOT;
    struct prl_lif *lif = prl_lif_at((__u32)eth.lif_hi << 8 | eth.lif_lo);
    if (!lif)
        return TC_ACT_SHOT;
    __builtin_memcpy(macs, lif->mac, 6);
    __builtin_memcpy(macs + 6, node->cookie, 6);
    if (bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0) < 0)
        return TC_ACT_SHOT;
    skb->mark = PRL_MARK_RELEASE;
    if (lif->way != PRL_WAY_MIRRED)
        return bpf_redirect(lif->ifindex, BPF_F_INGRESS);
    /* Until a prl_pick has said yes, it is for nobody: the stack drops what no filter takes. */
    bpf_skb_change_type(skb, PACKET_OTHERHOST);
    skb->cb[0] = ((__u32)eth.lif_hi << 8 | eth.lif_lo) + 1;
    return PASS;
}

/*
 * Behind prl_inject there is one filter for each logical interface, in order: this program, which counts down to the
 * frame's own, and act_mirred, which hands the frame to that interface's ingress. Where bpf_redirect() lets generic XDP
 * see the frame again, and copy all of it for that, act_mirred tells it not to (net/core/dev.c,
 * netif_receive_generic_xdp, skb_is_redirected), and no second soft interrupt is needed.
 */
SEC("tc")
int prl_pick(struct __sk_buff *skb)
{
    if (!skb->cb[0] || --skb->cb[0])
        return NOT_MINE;
    bpf_skb_change_type(skb, PACKET_HOST);
    return MINE;
}

/* Held output that userspace wrote back to the hold TAP, its Ethernet header as captured: out of the interface that
 * has its source address. */
SEC("tc")
int prl_release(struct __sk_buff *skb)
{
    struct prl_node *node = prl_node_get();
    __u8 source[6];

    if (bpf_skb_load_bytes(skb, ETH_ALEN, source, sizeof(source)) < 0)
        return TC_ACT_SHOT;
    for (__u32 i = 0; i < PRL_LIFS_MAX; i++) {
        struct prl_lif *lif = prl_lif_at(i);
        if (!lif)
            continue;
        if (lif->mac[0] == source[0] && lif->mac[1] == source[1] && lif->mac[2] == source[2] &&
            lif->mac[3] == source[3] && lif->mac[4] == source[4] && lif->mac[5] == source[5]) {
            skb->mark = PRL_MARK_RELEASE;
            return bpf_redirect(lif->ifindex, 0);
        }
    }
    if (node) /* the interface has got another address: prld ends for that */
        PRL_COUNT(node->redirect_failed);
    return TC_ACT_SHOT;
}

/* Egress of the hold TAP: only held output may enter, not what the stack has to say to a new interface. */
SEC("tc")
int prl_hold_guard(struct __sk_buff *skb)
{
    return skb->mark == PRL_MARK_HOLD ? PASS : TC_ACT_STOLEN;
}

/* Egress of the inject TAP: nothing is read there. Also of any interface, for the time that another program moves. */
SEC("tc")
int prl_mute(struct __sk_buff *skb __attribute__((unused)))
{
    return steal(TC_ACT_STOLEN);
}

char prl_license[] SEC("license") = "Dual BSD/GPL";
