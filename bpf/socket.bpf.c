// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * What prl does at the sockets themselves: the mark gate (R1a), which refuses what slipped past classify, the
 * reading of socket state into shared memory (R10), and the refusal of this host's own calls to what it does not serve.
 */
#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_core_read.h>
#include "parse.h"
#include "sock_view.h"
#include "steering.h"

#define GATE_ACCEPT 0xffffffff /* keep the whole packet */
#define GATE_REFUSE 0

/* A time, as prl_flow.stray has it. */
#define STRAY_TIME(ns) ((__u32)((ns) / PRL_STRAY_UNIT_NS) << PRL_STRAY_BITS)

#define AF_INET 2 /* linux/socket.h draws in libc's headers, which know no bpf target */

/*
 * The gate has refused a segment of a protected connection. What was under way when capture began, the peer sends again,
 * and it is captured. If refusals go on instead, the connection's input comes in where no prl_classify is.
 */
static __always_inline void note_refusal(struct prl_flow *flow)
{
    __u32 now = STRAY_TIME(bpf_ktime_get_boot_ns());
    __u32 seen = PRL_READ(flow->stray), since = seen & ~(PRL_STRAY_IN | PRL_STRAY_OUT);
    __u32 age = now - since;
    struct prl_node *node = prl_node_get();

    if (!since || (age > STRAY_TIME(PRL_STRAY_OVER_NS) && !(seen & PRL_STRAY_IN))) {
        __sync_val_compare_and_swap(&flow->stray, seen, now | (seen & PRL_STRAY_OUT));
    } else if (node && !(seen & PRL_STRAY_IN) && age >= STRAY_TIME(PRL_STRAY_AFTER_NS)) {
        __sync_fetch_and_or(&flow->stray, PRL_STRAY_IN);
        PRL_COUNT(node->strays);
    }
}

/*
 * The socket filter of a protected socket or shadow. TCP calls it with skb->data at the TCP header
 * (net/ipv4/tcp_ipv4.c, tcp_filter); nothing in the packet matters but its mark.
 */
SEC("socket")
int prl_gate(struct __sk_buff *skb)
{
    if (skb->mark == PRL_MARK_RELEASE)
        return GATE_ACCEPT;
    __u64 cookie = bpf_get_socket_cookie(skb);
    __u32 *slot = bpf_map_lookup_elem(&prl_gates, &cookie);
    struct prl_flow *flow = slot ? bpf_map_lookup_elem(&prl_flow_state, slot) : NULL;
    if (!flow)
        return GATE_ACCEPT;
    __u32 flags = PRL_READ(flow->flags);
    if ((flags & PRL_FLOW_OPEN) || !(flags & (PRL_FLOW_CAPTURED | PRL_FLOW_SILENT)))
        return GATE_ACCEPT;
    struct prl_node *node = prl_node_get();
    if (node && PRL_READ(node->bypassed) && !(flags & PRL_FLOW_SILENT))
        return GATE_ACCEPT;
    PRL_COUNT(flow->gate_refused);
    if (!(flags & (PRL_FLOW_SILENT | PRL_FLOW_RELAY)) && flow->key.proto == IPPROTO_TCP)
        note_refusal(flow);
    return GATE_REFUSE;
}

/* The TCP socket with these ends in the caller's network namespace, be it the listener; NULL, or to be released. */
static __always_inline struct bpf_sock *socket_of(struct __sk_buff *skb, const struct prl_flow_key *key)
{
    struct bpf_sock_tuple tuple;
    __u32 words[4];

    __builtin_memset(&tuple, 0, sizeof(tuple));
    __builtin_memcpy(words, key->local, sizeof(words));
    if (!words[0] && !words[1] && words[2] == __builtin_bswap32(0xffff)) { /* both are IPv4-mapped */
        tuple.ipv4.daddr = words[3];
        __builtin_memcpy(&tuple.ipv4.saddr, key->remote + 12, 4);
        tuple.ipv4.dport = key->local_port;
        tuple.ipv4.sport = key->remote_port;
        return bpf_skc_lookup_tcp(skb, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
    }
    __builtin_memcpy(tuple.ipv6.daddr, key->local, 16);
    __builtin_memcpy(tuple.ipv6.saddr, key->remote, 16);
    tuple.ipv6.dport = key->local_port;
    tuple.ipv6.sport = key->remote_port;
    return bpf_skc_lookup_tcp(skb, &tuple, sizeof(tuple.ipv6), BPF_F_CURRENT_NETNS, 0);
}

/* Looks the socket of one flow up and stores what it finds. */
static __always_inline void sample_one(struct __sk_buff *skb, struct prl_flow *flow)
{
    struct bpf_sock *sk = socket_of(skb, &flow->key);

    if (!sk) {
        PRL_WRITE(flow->sock.state, 0);
        PRL_WRITE(flow->sock.stamp_ns, bpf_ktime_get_boot_ns());
        return;
    }
    __u32 state = sk->state;
    struct tcp_sock *tcp = bpf_skc_to_tcp_sock(sk); /* NULL for TIME_WAIT and for a request */
    if (tcp && state != BPF_TCP_LISTEN) {
        prl_view_store(&flow->sock, tcp, bpf_ktime_get_boot_ns());
    } else { /* the look-up falls back to the listener of the same address */
        PRL_WRITE(flow->sock.state, state == BPF_TCP_LISTEN ? 0 : state);
        PRL_WRITE(flow->sock.stamp_ns, bpf_ktime_get_boot_ns());
    }
    bpf_sk_release(sk);
}

struct sampling {
    struct __sk_buff *skb;
    struct prl_sample *sample;
};

/* For bpf_loop(), whose body the verifier walks through once: in a plain loop it did for every slot, 61,000 instructions. */
static long sample_next(__u32 at, void *context)
{
    struct sampling *all = context;

    if (at >= PRL_SAMPLE_MAX)
        return 1;
    __u32 slot = all->sample->slot[at];
    struct prl_flow *flow = bpf_map_lookup_elem(&prl_flow_state, &slot);
    if (flow && flow->key.proto == IPPROTO_TCP)
        sample_one(all->skb, flow);
    return 0;
}

/* Run by prl_kernel_sample() through BPF_PROG_TEST_RUN; the frame it is given means nothing. */
SEC("tc")
int prl_sample_run(struct __sk_buff *skb)
{
    __u32 zero = 0;
    struct prl_sample *sample = bpf_map_lookup_elem(&prl_sample, &zero);

    if (!sample)
        return TC_ACT_SHOT;
    struct sampling all = {.skb = skb, .sample = sample};
    __u32 count = sample->count;
    bpf_loop(count < PRL_SAMPLE_MAX ? count : PRL_SAMPLE_MAX, sample_next, &all, 0);
    return TC_ACT_OK;
}

static __always_inline __u64 references_to(struct file *file)
{
    struct file___counted *counted = (void *)file;

    if (bpf_core_field_exists(counted->f_ref))
        return (__u64)counted->f_ref.refcnt.counter + 1; /* include/linux/file_ref.h: zero is one reference */
    return (__u64)file->f_count.counter;
}

/* Whether it has a socket filter that no prld attached: a mark gate, or what a listener's connections inherit. A classic one has no name. */
static __always_inline __u32 has_foreign_filter(struct sock *sock)
{
    struct sk_filter *filter = sock->sk_filter;
    struct bpf_prog *prog = filter ? filter->prog : NULL;
    struct bpf_prog_aux *aux = prog ? prog->aux : NULL;

    return aux && !(aux->name[0] == 'p' && aux->name[1] == 'r' && aux->name[2] == 'l' && aux->name[3] == '_');
}

/* Run by prl_kernel_references() through BPF_PROG_TEST_RUN; the frame it is given is the question, and takes the answer. */
SEC("tc")
int prl_references_run(struct __sk_buff *skb)
{
    struct prl_references *asked = (void *)(long)skb->data;
    struct prl_flow_key key;
    __u64 inode = 0, count = 0;
    __u32 is_filtered = 0;

    if ((void *)(asked + 1) > (void *)(long)skb->data_end)
        return TC_ACT_SHOT;
    __builtin_memcpy(&key, &asked->key, sizeof(key));
    struct bpf_sock *sk = socket_of(skb, &key);
    struct sock *tcp =
        sk ? (struct sock *)bpf_skc_to_tcp_sock(sk) : NULL; /* NULL for TIME_WAIT and for a request */
    if (tcp && tcp->__sk_common.skc_state != BPF_TCP_LISTEN) {
        is_filtered = has_foreign_filter(tcp);
        struct socket *socket = tcp->sk_socket;
        struct file *file = socket ? socket->file : NULL;
        if (file) {
            inode = file->f_inode->i_ino;
            count = references_to(file);
        }
    }
    if (sk)
        bpf_sk_release(sk);
    asked = (void *)(long)skb->data;
    if ((void *)(asked + 1) > (void *)(long)skb->data_end)
        return TC_ACT_SHOT;
    asked->inode = inode;
    asked->count = count;
    asked->is_filtered = is_filtered;
    return TC_ACT_OK;
}

static __always_inline __u32 right_edge(struct tcp_sock *tcp)
{
    struct tcp_sock___edge *edged = (void *)tcp;

    if (bpf_core_field_exists(edged->rcv_mwnd_seq))
        return edged->rcv_mwnd_seq;
    return tcp->rcv_wup + tcp->rcv_wnd;
}

/* Nobody holds the socket while this reads. What it reads belongs together all the same: input and acknowledgements change what
 * TCP_INFO counts, output begins with write_seq, and while rcv_wup is rcv_nxt a window that is said is one word. */
static __always_inline void store_rest(struct prl_rest *rest, struct tcp_sock *tcp)
{
    struct sock *sk = (struct sock *)tcp;

    rest->segs_in = tcp->segs_in;
    rest->segs_out = tcp->segs_out;
    rest->bytes_received = tcp->bytes_received;
    rest->bytes_acked = tcp->bytes_acked;
    rest->rcv_seq = tcp->rcv_nxt;
    rest->snd_seq = tcp->write_seq;
    rest->snd_wl1 = tcp->snd_wl1;
    rest->snd_wnd = tcp->snd_wnd;
    rest->max_window = tcp->max_window;
    rest->rcv_wnd = tcp->rcv_wnd;
    rest->rcv_edge = right_edge(tcp);
    rest->mss = tcp->rx_opt.mss_clamp;
    rest->is_at_rest = sk->__sk_common.skc_state == BPF_TCP_ESTABLISHED && tcp->snd_una == rest->snd_seq &&
                       tcp->snd_nxt == rest->snd_seq && tcp->copied_seq == rest->rcv_seq &&
                       tcp->rcv_wup == rest->rcv_seq && !tcp->urg_data && !tcp->out_of_order_queue.rb_node &&
                       !sk->sk_backlog.len;
}

/* Run by prl_kernel_rest(), like the program above. */
SEC("tc")
int prl_rest_run(struct __sk_buff *skb)
{
    struct prl_rest *asked = (void *)(long)skb->data;
    struct prl_rest found = {0};

    if ((void *)(asked + 1) > (void *)(long)skb->data_end)
        return TC_ACT_SHOT;
    __builtin_memcpy(&found.key, &asked->key, sizeof(found.key));
    struct bpf_sock *sk = socket_of(skb, &found.key);
    struct tcp_sock *tcp = sk ? bpf_skc_to_tcp_sock(sk) : NULL; /* NULL for TIME_WAIT and for a request */
    if (tcp) {
        struct socket *socket = ((struct sock *)tcp)->sk_socket;
        struct file *file = socket ? socket->file : NULL;
        if (file)
            found.inode = file->f_inode->i_ino;
        store_rest(&found, tcp);
    }
    if (sk)
        bpf_sk_release(sk);
    asked = (void *)(long)skb->data;
    if ((void *)(asked + 1) > (void *)(long)skb->data_end)
        return TC_ACT_SHOT;
    __builtin_memcpy(asked, &found, sizeof(found));
    return TC_ACT_OK;
}

#define LOOPBACK_IFINDEX 1 /* include/linux/netdevice.h: that of lo, in every network namespace */

/* Whether somebody owns the address here; one that is no service's is nobody's business. */
static __always_inline int is_served_here(const __u8 addr[16])
{
    struct prl_node *node = prl_node_get();
    int is_service = 0;

    if (!node || !prl_is_anywhere(node, addr))
        return 1;
    for (__u32 i = 0; i < PRL_LIFS_MAX; i++) {
        struct prl_lif *lif = prl_lif_at(i);
        if (!lif)
            break;
        struct prl_addr *addr_here = prl_addr_find(node, addr, lif->ifindex);
        if (!addr_here)
            continue;
        if (PRL_READ(addr_here->state) == PRL_ADDR_OWNER)
            return 1;
        is_service = 1;
    }
    return !is_service;
}

/* Whether it is how a BGP front connects to its daemon (steer.bpf.c), whom it keeps in step on the standby, too. */
static __always_inline int is_of_front(__u32 protocol, __u32 port, __be16 remote)
{
    __u16 from = bpf_ntohs(remote);

    return protocol == IPPROTO_TCP && port == PRL_STEER_BGP_PORT && from >= PRL_STEER_DIAL_FIRST &&
           from <= PRL_STEER_DIAL_LAST;
}

/*
 * Somebody calls a service address that another node serves: what listens here is not the service. Without a listener the
 * call is refused at once (TCP: reset, UDP: port unreachable), and silence sees to it that only this host's programs hear
 * that. Shadows have no listeners, but UDP's without a peer look like some: of datagrams only what this host sends itself
 * is refused. (Its own calls have the interface of the address, but IPv6: lo; net/ipv4/route.c, ip_route_output_key_hash_rcu.)
 */
SEC("sk_lookup")
int prl_local(struct bpf_sk_lookup *ctx)
{
    /* All is read before it is asked which: the verifier wants reads of the context as they are written here. */
    __u32 words[4] = {PRL_READ(ctx->local_ip6[0]), PRL_READ(ctx->local_ip6[1]), PRL_READ(ctx->local_ip6[2]),
                      PRL_READ(ctx->local_ip6[3])};
    __u32 v4 = PRL_READ(ctx->local_ip4), remote_v4 = PRL_READ(ctx->remote_ip4);
    __u32 protocol = PRL_READ(ctx->protocol), port = PRL_READ(ctx->local_port);
    __be16 remote_port = PRL_READ(ctx->remote_port);
    __u8 addr[16];

    int is_own_call = ctx->ingress_ifindex == LOOPBACK_IFINDEX || (ctx->family == AF_INET && v4 == remote_v4);

    if ((protocol != IPPROTO_TCP && !is_own_call) || is_of_front(protocol, port, remote_port))
        return SK_PASS;
    if (ctx->family == AF_INET)
        prl_map_v4(addr, v4);
    else
        __builtin_memcpy(addr, words, sizeof(addr));
    return is_served_here(addr) ? SK_PASS : SK_DROP;
}

char prl_license[] SEC("license") = "Dual BSD/GPL";
