/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The members of the kernel's structures that prl reads. libbpf finds their offsets in the running kernel's BTF
 * when it loads the object (CO-RE), so only names and types must be right here, not the layout.
 */
#ifndef PRL_KERNEL_TYPES_H
#define PRL_KERNEL_TYPES_H

#include <linux/types.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

typedef struct {
    int counter;
} atomic_t;

struct rb_node;

struct rb_root {
    struct rb_node *rb_node;
};

struct sock_common {
    volatile unsigned char skc_state;
};

struct sock {
    struct sock_common __sk_common;
    atomic_t sk_drops;
    struct {
        atomic_t rmem_alloc;
    } sk_backlog;
    int sk_rcvbuf;
    __u32 sk_pacing_status;
    unsigned long sk_pacing_rate;
};

struct tcp_sock {
    __u32 rcv_nxt;
    __u32 rcv_wup;
    __u32 rcv_wnd;
    __u32 snd_una;
    __u32 snd_nxt;
    __u32 write_seq;
    __u32 segs_in;
    __u32 snd_cwnd;
    __u32 snd_ssthresh;
    __u32 packets_out;
    struct rb_root out_of_order_queue;
};

#pragma clang attribute pop

#endif /* PRL_KERNEL_TYPES_H */
