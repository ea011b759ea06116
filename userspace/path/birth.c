/* SPDX-License-Identifier: BSD-2-Clause */
#include "path/birth.h"

#include <string.h>

#include "flow/dp.h"
#include "flow/wake.h"
#include "path/window.h"

/* A window update is never acknowledged, and one that is lost costs the peer its persist timer (200 ms at the least): so it
 * is said again after 20 and 100 ms, unless something has come in. */
#define BIRTH_TELLINGS 3
#define BIRTH_TELL_US 20000u

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
    flow->tellings = BIRTH_TELLINGS;
    flow->tell_at_us = 0;
    learn(dp, flow, &newborn);
}

static uint32_t us_of(uint64_t ns)
{
    return (uint32_t)(ns / 1000);
}

/* From what was said last to what is said next. */
static uint32_t pause_us(const struct dp_flow *flow)
{
    return BIRTH_TELL_US << 2 * (BIRTH_TELLINGS - 1 - flow->tellings);
}

/* Whether something has come in since it was said. Any segment will do: whoever has missed it probes, and is answered by the
 * stack. What passes by itself is not seen here. */
static bool was_heard(const struct dp_flow *flow)
{
    return flow->tell_at_us && dp_primary_of(flow)->state == PRL_PRIMARY_ACTIVE &&
           (int32_t)(us_of(flow->last_input_ns) - (flow->tell_at_us - pause_us(flow))) > 0;
}

void dp_birth_say(struct prl_dp *dp, struct dp_flow *flow)
{
    if (!flow->tellings)
        return;
    /* The own stack believes that its window was open all the time. */
    if (flow->ended || was_heard(flow) || !dp_window_say(dp, flow)) {
        flow->tellings = 0;
        return;
    }
    if (--flow->tellings == 0)
        return;
    flow->tell_at_us = (us_of(dp->now_ns) + pause_us(flow)) | 1;
    dp_flow_wake(dp, flow);
}

bool dp_birth_wants_time(const struct dp_flow *flow)
{
    return flow->tellings && flow->tell_at_us;
}

void dp_birth_tick(struct prl_dp *dp, struct dp_flow *flow)
{
    if (dp_birth_wants_time(flow) && (int32_t)(us_of(dp->now_ns) - flow->tell_at_us) >= 0)
        dp_birth_say(dp, flow);
}
