/* SPDX-License-Identifier: BSD-2-Clause */
#include "path/takeover.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>

#include "core/names.h"
#include "flow/dp.h"
#include "flow/udp.h"
#include "path/reinject.h"
#include "path/shadow.h"
#include "path/verify.h"
#include "tcp/serial.h"

/* The restored socket is ESTABLISHED. A segment without timestamps is accepted even where they are agreed upon
 * (net/ipv4/tcp_input.c, tcp_validate_incoming), and nothing is known of the peer's clock. */
int dp_shadow_replay(struct prl_dp *dp, struct dp_flow *flow, const struct prl_flow_spec *spec)
{
    struct prl_craft craft = {
        .key = &spec->key,
        .from_peer = true,
        .seq = spec->peer_seq,
        .window = (uint16_t)spec->peer_window,
        .tcp_flags = PRL_TCP_ACK,
        .md5 = flow->md5,
    };

    if (spec->replay & PRL_REPLAY_OWN_FIN) {
        if (dp->io->sock_end(dp->host, flow->spec.fd))
            return -EAGAIN;
        prl_secondary_has_ended(dp_secondary_of(flow));
        craft.ack = spec->committed;
        if ((spec->replay & PRL_REPLAY_OWN_FIN_ACK) && dp_reinject_crafted(dp, flow, &craft))
            return -EAGAIN;
    }
    if (spec->replay & PRL_REPLAY_PEER_FIN) {
        craft.tcp_flags = PRL_TCP_ACK | PRL_TCP_FIN;
        craft.ack = flow->kernel->sock.snd_una;
        if (dp_reinject_crafted(dp, flow, &craft))
            return -EAGAIN;
    }
    dp_flow_sample(dp, flow);
    if (((spec->replay & PRL_REPLAY_PEER_FIN) && flow->kernel->sock.state != TCP_CLOSE_WAIT) ||
        ((spec->replay & PRL_REPLAY_OWN_FIN_ACK) && flow->kernel->sock.state != TCP_FIN_WAIT2))
        return -EAGAIN;
    return 0;
}

/* A keepalive as though from the peer (RFC 9293, 3.8.4): the shadow answers at once with its newest ACK and window, so
 * that a peer whose ACKs died with the primary goes on, and every table on the way learns where the address is. Without
 * repair mode, which an application's calls would notice (FACT). */
static void kick(struct prl_dp *dp, struct dp_flow *flow)
{
    struct prl_craft craft = {
        .key = &flow->kernel->key,
        .from_peer = true,
        .seq = flow->kernel->sock.rcv_wup - 1, /* before the window, also when an ACK of ours is due */
        .ack = flow->kernel->sock.snd_una,
        .window = flow->peer_window,
        .tcp_flags = PRL_TCP_ACK,
        .has_timestamps = flow->has_peer_ts,
        .tsval = flow->peer_tsval,
        .tsecr = flow->peer_tsecr,
        .md5 = flow->md5,
    };

    if (flow->spec.timestamps && !flow->has_peer_ts)
        return; /* nothing known of the peer's clock: the shadow would take it for an old duplicate */
    if (dp_reinject_crafted(dp, flow, &craft) == 0)
        dp->counters.crafted_acks++;
}

void dp_shadow_takeover(struct prl_dp *dp, struct dp_flow *flow)
{
    struct prl_event event = {
        .kind = PRL_EVENT_TAKEN_FLOW,
        .handle = flow->spec.handle,
        .generation = flow->spec.generation,
    };
    struct prl_secondary *core = dp_secondary_of(flow);
    struct dp_shadow *shadow = dp_shadow_of(flow);

    if (flow->kernel->key.proto == IPPROTO_UDP && dp_udp_diverged(dp, flow))
        dp_shadow_void(dp, flow, PRL_REASON_DIVERGED);
    bool was_active = core->state == PRL_SECONDARY_ACTIVE || core->state == PRL_SECONDARY_SUSPENDED;
    if (!prl_secondary_takeover(core)) {
        if (was_active) { /* never confirmed, or suspended: it must not speak, and its application must know (L8) */
            dp_flow_set_flags(flow);
            dp_event_flow(dp, PRL_EVENT_SECONDARY, flow, core->state, PRL_REASON_NOT_ACTIVE);
        }
        return;
    }
    dp_flow_set_flags(flow);
    if (flow->kernel->key.proto == IPPROTO_TCP) {
        const char *congestion = dp->congestions.name[shadow->congestion];

        dp->io->sock_set(dp->host, flow->spec.fd, IPPROTO_TCP, TCP_CONGESTION, congestion,
                         (uint32_t)strnlen(congestion, DP_CONGESTION_BYTES));
        if (flow->has_peer_ts)
            dp->io->moment_keep_ahead(dp->host, flow->spec.fd, flow->peer_tsecr,
                                      (uint32_t)((dp_clock_ns(dp) - flow->last_input_ns) / 1000000));
        dp_verify_refeed(dp, flow);
        dp_flow_sample(dp, flow);
        shadow->relay_next = flow->kernel->sock.rcv_nxt;
        if (shadow->in_end_known)
            shadow->relay_next = prl_serial_max(shadow->relay_next, shadow->in_end);
        kick(dp, flow);
    } else {
        dp_udp_mark(dp, flow, false);
    }
    PRL_PROBE5(flow, "secondary", prl_secondary_state_name(core->state), event.handle, event.generation,
               prl_reason_name(PRL_REASON_OK));
    event.value = core->out_bytes;
    event.value2 = dp_clock_ns(dp);
    dp_event(dp, &event, NULL, 0);
}
