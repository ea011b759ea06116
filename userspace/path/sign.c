/* SPDX-License-Identifier: BSD-2-Clause */
#include "path/sign.h"

#include <linux/virtio_net.h>

#include "flow/dp.h"
#include "flow/wake.h"
#include "tcp/md5sig.h"
#include "tcp/serial.h"

#define TCP_CHECK_AT 16

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

void dp_sign_release(struct prl_dp *dp, struct dp_flow *flow, uint8_t *frame, const struct prl_packet *packet)
{
    struct virtio_net_hdr *vnet = (struct virtio_net_hdr *)frame;
    uint8_t *l3 = frame + sizeof(*vnet) + packet->l2_bytes;

    if (!flow->md5)
        return;
    /* Linux signs segment by segment; what it has signed otherwise, or with a new key, is not ours to change. */
    if (vnet->gso_type != VIRTIO_NET_HDR_GSO_NONE || !prl_md5sig_check(l3, packet, flow->md5)) {
        dp->counters.foreign_signatures++;
        flow->key_changed = true;
        dp_flow_wake(dp, flow);
        return;
    }
    renew(flow, l3, packet);
    prl_md5sig_sign(l3, packet, flow->md5);
    prl_packet_set_partial(l3, packet);
    vnet->flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
    vnet->csum_start = (uint16_t)(packet->l2_bytes + packet->l4_offset);
    vnet->csum_offset = TCP_CHECK_AT;
    dp->counters.signed_again++;
}
