// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Congestion control of a shadow: none. What the primary emitted has already passed the real one, and the shadow
 * must have "sent" every byte before the peer's ACK for it arrives, whatever its own window would say.
 *
 * struct_ops are global to the kernel, instances of prl are not: the loader writes a name of the instance's own
 * over the placeholder. Only members that every kernel since 6.1 has are used; cong_control's arguments changed in
 * 6.10, so only the first is looked at.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "kernel_types.h"

#define PRL_CC_NAME_BYTES 16 /* TCP_CA_NAME_MAX */
#define SHADOW_CWND_SEGMENTS 1000000
#define SHADOW_SSTHRESH 0x7fffffff
#define INITIAL_CWND_SEGMENTS 10 /* RFC 6928 */
#define SHADOW_TSO_SEGMENTS 64

struct tcp_congestion_ops {
    __u32 (*ssthresh)(struct sock *sk);
    void (*set_state)(struct sock *sk, __u8 state);
    void (*cwnd_event)(struct sock *sk, __u32 event);
    __u32 (*min_tso_segs)(struct sock *sk);
    void (*cong_control)(struct sock *sk);
    __u32 (*undo_cwnd)(struct sock *sk);
    char name[PRL_CC_NAME_BYTES];
    void (*init)(struct sock *sk);
    void (*release)(struct sock *sk);
};

/* A struct_ops program's context is the array of its arguments; the first is always the socket. */
#define CONTEXT_SOCK(ctx) ((struct sock *)(ctx)[0])

static __always_inline int open_wide(struct sock *sk)
{
    struct tcp_sock *tcp = (struct tcp_sock *)sk;

    tcp->snd_cwnd = SHADOW_CWND_SEGMENTS;
    tcp->snd_ssthresh = SHADOW_SSTHRESH;
    sk->sk_pacing_rate = ~0UL;
    return 0;
}

SEC("struct_ops/shadow_init")
int shadow_init(__u64 *ctx)
{
    struct sock *sk = CONTEXT_SOCK(ctx);

    sk->sk_pacing_status = 0; /* SK_PACING_NONE */
    return open_wide(sk);
}

/* The session goes on from here with a congestion control that knows nothing of its path yet, but that the path bears
 * what is on its way now: from there it goes on carefully, neither from the bottom nor in slow start, which would
 * overshoot. */
SEC("struct_ops/shadow_release")
int shadow_release(__u64 *ctx)
{
    struct tcp_sock *tcp = (struct tcp_sock *)CONTEXT_SOCK(ctx);

    __u32 out = tcp->packets_out;
    tcp->snd_cwnd = out > INITIAL_CWND_SEGMENTS ? out : INITIAL_CWND_SEGMENTS;
    tcp->snd_ssthresh = out > INITIAL_CWND_SEGMENTS ? out : SHADOW_SSTHRESH;
    return 0;
}

SEC("struct_ops/shadow_state")
int shadow_state(__u64 *ctx)
{
    return open_wide(CONTEXT_SOCK(ctx));
}

SEC("struct_ops/shadow_event")
int shadow_event(__u64 *ctx)
{
    return open_wide(CONTEXT_SOCK(ctx));
}

SEC("struct_ops/shadow_control")
int shadow_control(__u64 *ctx)
{
    return open_wide(CONTEXT_SOCK(ctx));
}

SEC("struct_ops/shadow_ssthresh")
int shadow_ssthresh(void)
{
    return SHADOW_SSTHRESH;
}

SEC("struct_ops/shadow_undo")
int shadow_undo(void)
{
    return SHADOW_CWND_SEGMENTS;
}

SEC("struct_ops/shadow_tso")
int shadow_tso(void)
{
    return SHADOW_TSO_SEGMENTS;
}

SEC(".struct_ops")
struct tcp_congestion_ops prl_shadow = {
    .ssthresh = (void *)shadow_ssthresh,
    .set_state = (void *)shadow_state,
    .cwnd_event = (void *)shadow_event,
    .min_tso_segs = (void *)shadow_tso,
    .cong_control = (void *)shadow_control,
    .undo_cwnd = (void *)shadow_undo,
    .name = "prl_shadow_____",
    .init = (void *)shadow_init,
    .release = (void *)shadow_release,
};

char prl_license[] SEC("license") = "Dual BSD/GPL";
