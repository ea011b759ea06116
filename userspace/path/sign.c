/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Flows whose segments are signed (RFC 2385): tc can neither lower their window nor renew their acknowledgement, because
 * both are signed and the key is here. So what is held, and what passes with a window that must be lowered, goes through
 * the hold TAP, and is brought up to date here (R10, R19).
 */
#include "flow/dp.h"

#include <linux/virtio_net.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#define TCP_CHECK_AT 16

const struct prl_md5_key *dp_sign_key(const struct dp_flow *flow)
{
    return flow->md5;
}

void dp_sign_forget_key(struct dp_flow *flow)
{
    if (!flow->md5)
        return;
    explicit_bzero(flow->md5, sizeof(*flow->md5));
    free(flow->md5);
    flow->md5 = NULL;
}

int dp_sign_set_key(struct dp_flow *flow, const struct prl_md5_key *key)
{
    dp_sign_forget_key(flow);
    if (!key->bytes)
        return 0;
    flow->md5 = malloc(sizeof(*flow->md5));
    if (!flow->md5)
        return -ENOMEM;
    *flow->md5 = *key;
    return 0;
}

uint16_t dp_sign_window(const struct dp_flow *flow, uint32_t ack, uint16_t window)
{
    return flow->kernel->flags & PRL_FLOW_CLAMP ? (uint16_t)prl_clamped_window(flow->kernel, ack, window) : window;
}

static void renew(struct dp_flow *flow, uint8_t *l3, const struct prl_packet *packet)
{
    const volatile struct prl_flow *kernel = flow->kernel;
    uint32_t ack = packet->ack, valid = kernel->last_valid;
    uint16_t window = packet->window, lower;

    if (!(packet->tcp_flags & PRL_TCP_ACK))
        return;
    if ((valid & PRL_LAST_ACK) && prl_serial_le(ack, kernel->last_ack)) {
        ack = kernel->last_ack;
        window = (uint16_t)kernel->last_window;
    }
    lower = packet->tcp_flags & PRL_TCP_RST ? window : dp_sign_window(flow, ack, window);
    if (lower != window)
        flow->kernel->clamped = 1;
    prl_packet_set_ack(l3, packet, ack, lower);
    if ((valid & PRL_LAST_STAMPS) && packet->stamps_offset)
        prl_packet_set_stamps(l3, packet, prl_serial_max(packet->tsval, kernel->last_tsval),
                              prl_serial_max(packet->tsecr, kernel->last_tsecr));
}

void dp_sign_release(struct prl_dp *dp, struct dp_flow *flow, uint8_t *frame, uint32_t bytes)
{
    struct virtio_net_hdr *vnet = (struct virtio_net_hdr *)frame;
    uint8_t *eth = frame + sizeof(*vnet);
    uint32_t eth_bytes = bytes - (uint32_t)sizeof(*vnet);
    struct prl_packet packet;
    uint8_t *l3;

    if (!flow->md5 || prl_packet_parse(eth, eth_bytes, eth_bytes, true, &packet))
        return;
    l3 = eth + packet.l2_bytes;
    /* Linux signs segment by segment; what it has signed otherwise, or with a new key, is not ours to change. */
    if (vnet->gso_type != VIRTIO_NET_HDR_GSO_NONE || !prl_md5sig_check(l3, &packet, flow->md5)) {
        dp->counters.foreign_signatures++;
        flow->key_changed = true;
        dp_flow_wake(dp, flow);
        return;
    }
    renew(flow, l3, &packet);
    prl_md5sig_sign(l3, &packet, flow->md5);
    prl_packet_set_partial(l3, &packet);
    vnet->flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
    vnet->csum_start = (uint16_t)(packet.l2_bytes + packet.l4_offset);
    vnet->csum_offset = TCP_CHECK_AT;
    dp->counters.signed_again++;
}
