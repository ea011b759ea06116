/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What captures at tc ingress: how a frame is parsed there. Whoever includes this says how it is carried. */
#ifndef PRL_INGRESS_H
#define PRL_INGRESS_H

#include <linux/pkt_cls.h>
#define PRL_DEVICE ifindex
/* On to whatever other tc programs there are. */
#define PASS TC_ACT_UNSPEC
#define DROP TC_ACT_SHOT
#include "classify.h"

/* Headers that are looked for in the linear part: Ethernet, two tags, IPv6, TCP with all its options. */
#define HEADERS_BYTES (14 + 8 + 40 + 60)

static __always_inline void parse(struct __sk_buff *skb, struct prl_packet *packet)
{
    __u32 tags = 0;

    /* A driver may leave all but the Ethernet header in pages. */
    for (int pulled = 0; pulled < 2; pulled++) {
        __builtin_memset(packet, 0, sizeof(*packet));
        if (skb->vlan_present) { /* the stack has taken the outer tag out of the frame already */
            packet->key.vlans = skb->vlan_tci & 0xfff;
            tags = 1;
        }
        prl_parse(skb, packet, 0, tags);
        __u32 linear = skb->data_end - skb->data;
        if (packet->kind != PRL_KIND_MALFORMED || linear >= HEADERS_BYTES || linear >= skb->len)
            break;
        bpf_skb_pull_data(skb, skb->len < HEADERS_BYTES ? skb->len : HEADERS_BYTES);
    }
}

#endif /* PRL_INGRESS_H */
