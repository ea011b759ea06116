// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * The socket filter that `prlctl replicate --listen` puts on the listener of a program that was not changed. It keeps
 * every packet. Sockets that the listener makes inherit it (sk_clone_lock, net/core/sock.c), until the mark gate takes
 * its place when they are protected. So it hears of every connection at the end of its handshake, which TCP still
 * shows to the listener's filter (tcp_v4_rcv, TCP_NEW_SYN_RECV), and of every byte that the program may read before
 * the connection is protected: what a fresh program on the other node must be given first.
 */
#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/tcp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "prl_abi.h"

#define KEEP 0xffffffff
#define RING_BYTES (1 << 20)
#define SMALL_BYTES 256
#define PIECE_BYTES 4096
#define PIECES_MAX 16 /* of one segment: 64 KiB */
#define TCP_DOFF_AT 12
#define TCP_FLAGS_AT 13
#define FLAG_SYN 0x02
#define FLAG_RST 0x04

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, RING_BYTES);
} prl_heard SEC(".maps");

/* Cookies of the listeners. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, PRL_LISTENERS_MAX);
    __type(key, __u64);
    __type(value, __u32);
} prl_listeners SEC(".maps");

/* Records that did not fit into the ring. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u64);
} prl_unheard SEC(".maps");

/* From the IP header, and the ports that TCP's begins with. */
static __always_inline int load_ends(struct __sk_buff *skb, struct prl_heard *heard)
{
    __u8 first;
    int code;

    if (bpf_skb_load_bytes(skb, 0, &heard->remote_port, 2) < 0 ||
        bpf_skb_load_bytes(skb, 2, &heard->local_port, 2) < 0 ||
        bpf_skb_load_bytes_relative(skb, 0, &first, 1, BPF_HDR_START_NET) < 0)
        return -1;
    if (first >> 4 == 6) {
        code = (int)bpf_skb_load_bytes_relative(skb, 8, heard->remote, 16, BPF_HDR_START_NET);
        return code < 0 ? code : (int)bpf_skb_load_bytes_relative(skb, 24, heard->local, 16, BPF_HDR_START_NET);
    }
    heard->remote[10] = heard->remote[11] = heard->local[10] = heard->local[11] = 0xff;
    code = (int)bpf_skb_load_bytes_relative(skb, 12, heard->remote + 12, 4, BPF_HDR_START_NET);
    return code < 0 ? code : (int)bpf_skb_load_bytes_relative(skb, 16, heard->local + 12, 4, BPF_HDR_START_NET);
}

/*
 * `room` is a constant: the ring reserves constant sizes alone. `last` is the index of the payload's last byte, all ones
 * when there is none: clang turns "bytes is not 0 and at most room" into "bytes - 1 is below room", from which the
 * verifier of 6.1 concludes nothing about bytes. Given to a function of its own, the index stays as it is.
 */
static __always_inline int tell(struct __sk_buff *skb, __u32 at, __u32 last, __u32 seq, __u32 is_new,
                                const __u32 room)
{
    struct prl_heard heard = {.seq = seq, .is_new = is_new};

    if (load_ends(skb, &heard) < 0)
        return 0;
    __u8 *record = bpf_ringbuf_reserve(&prl_heard, sizeof(heard) + room, 0);
    struct prl_heard *head = (struct prl_heard *)record;
    if (!record) {
        __u32 zero = 0;
        __u64 *lost = bpf_map_lookup_elem(&prl_unheard, &zero);

        if (lost)
            __sync_fetch_and_add(lost, 1);
        return 0;
    }
    *head = heard;
    if (last < room && bpf_skb_load_bytes(skb, at, record + sizeof(heard), last + 1) == 0)
        head->bytes = last + 1;
    bpf_ringbuf_submit(record, 0);
    return 0;
}

/* A short segment, or none: a connection that is new. */
__noinline int prl_listen_short(struct __sk_buff *skb, __u32 at, __u32 last, __u32 seq, __u32 is_new)
{
    return tell(skb, at, last, seq, is_new, SMALL_BYTES);
}

/* One piece of a long segment. */
__noinline int prl_listen_piece(struct __sk_buff *skb, __u32 at, __u32 last, __u32 seq, __u32 is_new)
{
    return tell(skb, at, last, seq, is_new, PIECE_BYTES);
}

SEC("socket")
int prl_listen(struct __sk_buff *skb)
{
    __u8 flags = 0, doff = 0;
    __be32 seq = 0;

    if (bpf_skb_load_bytes(skb, TCP_FLAGS_AT, &flags, 1) < 0 || flags & (FLAG_SYN | FLAG_RST))
        return KEEP;
    if (bpf_skb_load_bytes(skb, TCP_DOFF_AT, &doff, 1) < 0 || bpf_skb_load_bytes(skb, 4, &seq, 4) < 0)
        return KEEP;
    __u64 cookie = bpf_get_socket_cookie(skb);
    __u32 header = (doff >> 4) * 4u;
    __u32 payload = skb->len > header ? skb->len - header : 0;
    __u32 is_new = bpf_map_lookup_elem(&prl_listeners, &cookie) != NULL;

    if (payload <= SMALL_BYTES) {
        if (payload || is_new)
            prl_listen_short(skb, header, payload - 1, bpf_ntohl(seq), is_new);
        return KEEP;
    }
    for (__u32 i = 0; i < PIECES_MAX; i++) {
        __u32 done = i * PIECE_BYTES;
        __u32 left = payload - done;

        if (done >= payload)
            break;
        prl_listen_piece(skb, header + done, (left < PIECE_BYTES ? left : PIECE_BYTES) - 1, bpf_ntohl(seq) + done,
                         is_new);
    }
    return KEEP;
}

char prl_license[] SEC("license") = "Dual BSD/GPL";
