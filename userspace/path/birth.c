/* SPDX-License-Identifier: BSD-2-Clause */
#include "path/birth.h"

#include <string.h>

#include "flow/dp.h"
#include "path/window.h"

/* Its segments have not come by here, so what its stack has said last is known from the SYN-ACK alone. */
static void learn(struct prl_dp *dp, struct dp_flow *flow, const struct prl_newborn *newborn)
{
    struct prl_flow *kernel = flow->kernel;
    uint32_t window;

    memcpy(flow->peer_mac, newborn->peer_mac, sizeof(flow->peer_mac));
    if (kernel->last_valid & PRL_LAST_ACK)
        return; /* it has said something since */
    dp_flow_sample(dp, flow);
    window = kernel->sock.rcv_wnd >> (kernel->rcv_wscale & 15);
    kernel->last_ack = kernel->sock.rcv_nxt;
    kernel->last_window = window < UINT16_MAX ? window : UINT16_MAX;
    kernel->last_tsval = newborn->tsval;
    kernel->last_tsecr = newborn->tsecr;
    kernel->last_valid |= PRL_LAST_ACK | PRL_LAST_STAMPS;
}

void dp_birth_end(struct prl_dp *dp, struct dp_flow *flow)
{
    static const uint8_t nowhere[6];
    struct prl_newborn newborn;

    if (!dp->io->newborn_end(dp->host, &flow->kernel->key, &newborn) || flow->md5)
        return; /* a signed segment's window was never shut */
    if (memcmp(newborn.peer_mac, nowhere, sizeof(nowhere)) == 0)
        return; /* the peer asks by itself, when its timer says so (RFC 9293, 3.8.6.1) */
    flow->was_kept = true;
    learn(dp, flow, &newborn);
}

void dp_birth_say(struct prl_dp *dp, struct dp_flow *flow)
{
    if (!flow->was_kept)
        return;
    flow->was_kept = false;
    dp_flow_sample(dp, flow);
    dp_window_say(dp, flow); /* the own stack believes that its window was open all the time */
}
