/* SPDX-License-Identifier: BSD-2-Clause */
#include "path/output.h"

#include <linux/virtio_net.h>
#include <netinet/in.h>
#include <string.h>

#include "flow/dp.h"
#include "flow/lend.h"
#include "flow/send.h"
#include "io/tap.h"
#include "path/apply.h"

/* The logical interface that a frame on its way out was taken from: the one with its source address. */
static uint16_t lif_of(const struct prl_dp *dp, const uint8_t *frame)
{
    for (uint32_t i = 1; i < dp->config.lifs; i++)
        if (memcmp(frame + sizeof(dp->config.lif[i].mac), dp->config.lif[i].mac, sizeof(dp->config.lif[i].mac)) ==
            0)
            return (uint16_t)i;
    return 0;
}

static bool takes_too_much(const struct prl_dp *dp, const struct dp_flow *flow)
{
    const struct prl_queues *queues = dp_primary_of(flow)->queues;

    return dp->held.buffers_free < PRL_DP_OUTPUT_BUFFERS / DP_RESERVE_SHARE && queues &&
           queues->out_held.count + queues->out_pending.count > DP_FAIR_BUFFERS;
}

bool dp_output(struct prl_dp *dp)
{
    struct prl_actions actions = {0};
    struct prl_packet packet;
    struct prl_flow_key key;
    struct dp_flow *flow;
    struct prl_hold *hold;
    const uint8_t *frame;
    uint8_t *buffer;
    uint32_t frame_bytes;
    int bytes;

    if (dp->held.buffers_free == 0 || !dp_has_bulk_room(dp, PRL_PACKET_MAX))
        return false; /* left in the TAP's queue: its loss is repaired by dp_flows_tick() */
    buffer = dp_held_buffer(&dp->held);
    bytes = dp->io->hold_read(dp->host, buffer, PRL_TAP_BUFFER_BYTES);
    if (bytes < (int)sizeof(struct virtio_net_hdr))
        return false;
    dp->counters.held_out_packets++;
    dp->counters.held_out_bytes += (uint32_t)bytes;
    frame = buffer + sizeof(struct virtio_net_hdr);
    frame_bytes = (uint32_t)bytes - (uint32_t)sizeof(struct virtio_net_hdr);
    if (prl_packet_parse(frame, frame_bytes, frame_bytes, true, &packet) || packet.proto != IPPROTO_TCP)
        return true;
    prl_packet_key(frame + packet.l2_bytes, &packet, false, lif_of(dp, frame), &key);
    flow = dp_flow_by_key(dp, &key);
    if (!flow || flow->secondary)
        return true; /* forgotten since; its socket sends again, unheld */
    if (takes_too_much(dp, flow)) {
        DP_DROP(dp, over_share, flow->spec.handle,
                (uint32_t)bytes); /* dp_flows_tick() lets the kernel hold it again */
        return true;
    }
    hold = dp_hold_output(dp, (uint32_t)bytes, &packet);
    if (!hold) {
        DP_DROP(dp, rx_no_hold, flow->spec.handle, (uint32_t)bytes);
        return true;
    }
    hold->bits = (uint8_t)((packet.tcp_flags & PRL_TCP_FIN ? PRL_OUTPUT_FIN : 0) |
                           (packet.tcp_flags & PRL_TCP_RST ? PRL_OUTPUT_RST : 0));
    PRL_PROBE3(output_hold, flow->spec.handle, hold->tcp_end, packet.payload_bytes);
    dp_primary_lend(dp, flow);
    prl_primary_output(dp_primary_of(flow), hold, dp->now_ns, &dp->config.limits, &actions);
    dp_apply(dp, flow, &actions);
    return true;
}
