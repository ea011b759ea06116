// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* The carrier that is an AF_XDP frame: frames of flows go to userspace with handle and slot in front (XDP metadata). */
#define PRL_XDP
#define PRL_DEVICE ingress_ifindex
#define PASS XDP_PASS
#define DROP XDP_DROP
#include "classify.h"

static __always_inline void parse(struct xdp_md *ctx, struct prl_packet *packet)
{
    __builtin_memset(packet, 0, sizeof(*packet));
    prl_parse(ctx, packet, 0, 0);
}

static __always_inline int carry(struct xdp_md *ctx, const struct prl_flow_ref *ref, __u32 lif)
{
    struct prl_flow_ref found = *ref;
    __u32 queue = ctx->rx_queue_index;

    if (queue >= PRL_QUEUES_MAX || bpf_xdp_adjust_meta(ctx, -(int)sizeof(struct prl_meta)) < 0)
        return UNDECIDED;
    struct prl_meta *meta = (void *)(long)ctx->data_meta;
    if ((void *)(meta + 1) > (void *)(long)ctx->data)
        return UNDECIDED;
    meta->handle = found.handle;
    meta->slot = found.slot;
    int action = bpf_redirect_map(&prl_xsks, lif * PRL_QUEUES_MAX + queue, DROP);
    return action == XDP_REDIRECT ? action : UNDECIDED;
}

SEC("xdp.frags")
int prl_classify(struct xdp_md *ctx)
{
    return classify(ctx);
}

char prl_license[] SEC("license") = "Dual BSD/GPL";
