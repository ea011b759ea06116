// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * The carrier that is the kernel (tc ingress: tcx, or clsact): packets of flows are marked, and wait as they are in the
 * NFQUEUE that takes what bears the mark (userspace/io/queue_rules.c). A marked packet that no queue takes goes no
 * further than the socket's mark gate, which wants another mark (R1a).
 */
#include "ingress.h"

static __always_inline int carry(struct __sk_buff *skb, const struct prl_flow_ref *ref, __u32 lif)
{
    struct prl_node *node = prl_node_get();
    __u32 mark = node ? PRL_READ(node->queue_mark) : 0;

    (void)lif;
    if (!mark || ref->slot > PRL_QUEUE_SLOT)
        return UNDECIDED;
    skb->mark = mark | ref->slot;
    return PASS;
}

SEC("tc")
int prl_ingress(struct __sk_buff *skb)
{
    return classify(skb);
}

char prl_license[] SEC("license") = "Dual BSD/GPL";
