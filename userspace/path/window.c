/* SPDX-License-Identifier: BSD-2-Clause */
#include "path/window.h"

#include <linux/virtio_net.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>

#include "flow/dp.h"
#include "flow/wake.h"
#include "path/sign.h"
#include "tcp/serial.h"

/* A window that was clamped is announced again when it grew by this many segments, or by half of what the buffer can have, of which
 * Linux gives half to its own overhead (RFC 9293, 3.8.6.2.2): a window of fewer segments would never grow so far. */
#define REOPEN_SEGMENTS 2
#define REOPEN_SHARE 4
/* While the peer may still send so much, the own stack's next ACK is soon enough. */
#define REOPEN_BELOW_BYTES 65536u

bool dp_window_say(struct prl_dp *dp, struct dp_flow *flow)
{
    struct prl_flow *kernel = flow->kernel;
    uint8_t frame[sizeof(struct virtio_net_hdr) + 14 + PRL_CRAFT_MAX] = {0};
    uint8_t *eth = frame + sizeof(struct virtio_net_hdr);
    struct prl_craft craft = {
        .key = &flow->kernel->key,
        .ack = kernel->last_ack,
        .window = (uint16_t)kernel->last_window,
        .tcp_flags = PRL_TCP_ACK,
        .has_timestamps = flow->spec.timestamps,
        .tsval = kernel->last_tsval,
        .tsecr = kernel->last_tsecr,
        .md5 = flow->md5,
    };
    uint32_t bytes;

    if (flow->kernel->key.proto != IPPROTO_TCP || !(kernel->last_valid & PRL_LAST_ACK))
        return false; /* it has said nothing yet */
    /* What egress has seen is from before TCP counted that segment: by such a number the peer takes this one for an old one and
     * drops it once it has acknowledged more (net/ipv4/tcp_input.c, tcp_sequence). */
    dp_flow_sample(dp, flow);
    if (kernel->sock.state == 0 || kernel->sock.state == TCP_CLOSE)
        return false;
    craft.seq = kernel->sock.snd_nxt;
    if (craft.md5) {
        craft.window = dp_sign_window(flow, craft.ack, craft.window);
        kernel->clamped = craft.window != (uint16_t)kernel->last_window;
    }
    memcpy(eth, flow->peer_mac, 6);
    memcpy(eth + 6, dp->config.lif[flow->kernel->key.lif].mac, 6);
    eth[12] = prl_addr_is_v4(flow->kernel->key.local) ? 0x08 : 0x86;
    eth[13] = prl_addr_is_v4(flow->kernel->key.local) ? 0x00 : 0xdd;
    bytes = prl_packet_craft(&craft, eth + 14);
    if (dp->io->hold_write(dp->host, frame, (uint32_t)sizeof(struct virtio_net_hdr) + 14 + bytes) == 0)
        dp->counters.crafted_acks++;
    return true;
}

void dp_window_reopen(struct prl_dp *dp, struct dp_flow *flow)
{
    if (!flow->kernel->clamped)
        return;
    flow->kernel->clamped = 0;
    dp_window_say(dp, flow);
}

static uint32_t worth_telling(const struct dp_flow *flow)
{
    uint32_t segments = REOPEN_SEGMENTS * flow->spec.mss, share = flow->kernel->sock.rcvbuf_bytes / REOPEN_SHARE;

    return share && share < segments ? share : segments;
}

void dp_window_look(struct prl_dp *dp, struct dp_flow *flow)
{
    struct prl_flow *kernel = flow->kernel;

    if (!kernel->clamped || !(kernel->last_valid & PRL_LAST_ACK) ||
        prl_serial_lt(kernel->edge_limit, kernel->last_edge + worth_telling(flow)) ||
        (flow->peer_tcp_end && prl_serial_lt(flow->peer_tcp_end + REOPEN_BELOW_BYTES, kernel->last_edge)))
        return;
    dp_window_reopen(dp, flow);
}

void dp_window_note_space(struct prl_dp *dp, struct dp_flow *flow)
{
    const struct prl_primary *primary = dp_primary_of(flow);

    if (!primary->space_known)
        return;
    if (flow->kernel->edge_limit != primary->peer_edge)
        dp_flow_wake(dp, flow); /* tc may just be lowering a window by the old one: the tick looks again */
    __atomic_store_n(&flow->kernel->edge_limit, primary->peer_edge, __ATOMIC_RELEASE);
    dp_window_look(dp, flow);
}
