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

typedef struct {
    long long counter;
} atomic64_t;

/* CO-RE leaves out what stands behind three underscores: linux/in6.h has one of the same name. */
struct in6_addr___kernel {
    union {
        __be32 u6_addr32[4];
    } in6_u;
};

struct sock_common {
    volatile unsigned char skc_state;
    unsigned short skc_family;
    int skc_bound_dev_if;
    __be32 skc_daddr;
    __be32 skc_rcv_saddr;
    __be16 skc_dport;
    __u16 skc_num;
    struct in6_addr___kernel skc_v6_daddr;
    struct in6_addr___kernel skc_v6_rcv_saddr;
    atomic64_t skc_cookie;
};

struct file_ref {
    atomic64_t refcnt;
};

struct inode {
    unsigned long i_ino;
};

struct file {
    struct inode *f_inode;
    atomic64_t f_count; /* atomic_long_t */
};

/* From Linux 6.13 on. CO-RE leaves out what stands behind the three underscores. */
struct file___counted {
    struct file_ref f_ref;
};

struct socket {
    struct file *file;
};

struct bpf_prog_aux {
    char name[16]; /* BPF_OBJ_NAME_LEN */
};

struct bpf_prog {
    struct bpf_prog_aux *aux;
};

struct sk_filter {
    struct bpf_prog *prog;
};

struct net_device {
    unsigned int flags;
};

struct dst_entry {
    struct net_device *dev;
};

struct sock {
    struct sock_common __sk_common;
    struct dst_entry *sk_dst_cache;
    struct socket *sk_socket;
    struct sk_filter *sk_filter;
    atomic_t sk_drops;
    struct {
        atomic_t rmem_alloc;
        int len;
    } sk_backlog;
    int sk_rcvbuf;
    __u32 sk_pacing_status;
    unsigned long sk_pacing_rate;
};

struct tcp_options_received {
    __u16 mss_clamp;
};

/* From the kernel on whose struct tcp_repair_window has a sixth word. */
struct tcp_sock___edge {
    __u32 rcv_mwnd_seq;
};

struct tcp_sock {
    __u32 rcv_nxt;
    __u32 rcv_wup;
    __u32 rcv_wnd;
    __u32 snd_una;
    __u32 snd_nxt;
    __u32 write_seq;
    __u32 copied_seq;
    __u32 snd_wl1;
    __u32 snd_wnd;
    __u32 max_window;
    __u16 urg_data;
    struct tcp_options_received rx_opt;
    __u64 bytes_received;
    __u64 bytes_acked;
    __u32 segs_in;
    __u32 segs_out;
    __u32 snd_cwnd;
    __u32 snd_ssthresh;
    __u32 packets_out;
    struct rb_root out_of_order_queue;
};

struct seq_file;

struct bpf_iter_meta {
    struct seq_file *seq;
};

struct bpf_iter__tcp {
    struct bpf_iter_meta *meta;
    struct sock_common *sk_common;
};

#pragma clang attribute pop

#endif /* PRL_KERNEL_TYPES_H */
