/* SPDX-License-Identifier: BSD-2-Clause */
#include "path/takeover.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>

#include "core/names.h"
#include "flow/dp.h"
#include "flow/udp.h"
#include "io/probes.h"
#include "path/mirror.h"
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

static void decide(struct prl_dp *dp, struct dp_flow *flow)
{
    struct prl_secondary *core = dp_secondary_of(flow);

    if (flow->kernel->key.proto == IPPROTO_UDP && dp_udp_diverged(dp, flow))
        dp_shadow_void(dp, flow, PRL_REASON_DIVERGED);
    /* What a program writes leaves at once, and tc has looked at the socket then. */
    if (dp_shadow_is_written(flow))
        dp_shadow_void(dp, flow, PRL_REASON_WRITTEN);
    bool was_usable = core->state == PRL_SECONDARY_ACTIVE || core->state == PRL_SECONDARY_SUSPENDED;
    if (!prl_secondary_takeover(core) && was_usable) {
        /* never confirmed, or suspended: it must not speak, and its application must know (L8) */
        dp_flow_set_flags(flow);
        dp_event_flow(dp, PRL_EVENT_SECONDARY, flow, core->state, PRL_REASON_NOT_ACTIVE);
    }
}

/* The expensive part of a take-over. */
static void go_on(struct prl_dp *dp, struct dp_flow *flow)
{
    struct prl_event event = {
        .kind = PRL_EVENT_TAKEN_FLOW,
        .handle = flow->spec.handle,
        .generation = flow->spec.generation,
    };
    struct prl_secondary *core = dp_secondary_of(flow);
    struct dp_shadow *shadow = dp_shadow_of(flow);

    if (flow->kernel->key.proto == IPPROTO_TCP)
        dp_flow_sample(dp, flow);
    /* Not found at the decision, for the peer's window had kept it back. What a moved session's program writes while it waits has left. */
    if (!flow->relaying && dp_shadow_is_written(flow)) {
        dp_shadow_fence(dp, flow, PRL_REASON_WRITTEN);
        return;
    }
    if (!prl_secondary_go_on(core))
        return;
    dp_flow_set_flags(flow);
    dp_mirror_forget(dp, flow); /* not acknowledged: the peer has it yet */
    if (flow->kernel->key.proto == IPPROTO_TCP) {
        const char *congestion = dp->congestions.name[shadow->congestion];

        dp->io->sock_set(dp->host, flow->spec.fd, IPPROTO_TCP, TCP_CONGESTION, congestion,
                         (uint32_t)strnlen(congestion, DP_CONGESTION_BYTES));
        if (flow->has_peer_ts)
            dp->io->moment_keep_ahead(dp->host, flow->spec.fd, flow->peer_tsecr,
                                      (uint32_t)((dp_clock_ns(dp) - flow->last_input_ns) / 1000000));
        if (dp_verify_refeed(dp, flow))
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
    event.seq = shadow->out_hash;
    event.value2 = dp_clock_ns(dp);
    dp_event(dp, &event, NULL, 0);
}

/* ---- a share in every pass ---- */

struct dp_takeover {
    bool goes_on; /* flows from `next` on may wait for their turn … */
    bool passed_over; /* … and some before it, for their service was not this node's */
    uint32_t next;
    uint64_t hush_until_ns;
    uint32_t mask; /* services, for who traces it */
};

int dp_takeover_open(struct prl_dp *dp)
{
    dp->takeover = calloc(1, sizeof(*dp->takeover));
    return dp->takeover ? 0 : -ENOMEM;
}

void dp_takeover_close(struct prl_dp *dp)
{
    free(dp->takeover);
}

/* False: it waits on, for its service is somebody else's; a move away may yet be undone. */
static bool take_turn(struct prl_dp *dp, struct dp_flow *flow)
{
    if (dp->owner.state[flow->service] != PRL_OWNER_OWNER)
        return false;
    go_on(dp, flow);
    return true;
}

static bool waits(const struct dp_flow *flow)
{
    return flow->used && flow->secondary && dp_secondary_of(flow)->state == PRL_SECONDARY_TAKING;
}

void dp_takeover_turn(struct prl_dp *dp, struct dp_flow *flow)
{
    if (waits(flow))
        take_turn(dp, flow);
}

/* All that have a turn have had it; else there is more. */
static bool take_turns(struct prl_dp *dp)
{
    struct dp_takeover *takeover = dp->takeover;
    uint64_t end_ns = dp_clock_ns(dp) + PRL_TAKEOVER_SHARE_NS;

    while (takeover->next < dp->flows_top) {
        struct dp_flow *flow = &dp->flows[takeover->next++];

        if (!waits(flow))
            continue;
        takeover->passed_over |= !take_turn(dp, flow);
        if (dp_clock_ns(dp) >= end_ns)
            return false;
    }
    return true;
}

void dp_takeover_decide(struct prl_dp *dp, uint32_t mask)
{
    dp->takeover->hush_until_ns = dp_clock_ns(dp) + PRL_TAKEOVER_HUSH_NS;
    dp_events_hush(&dp->events, true);
    for (uint32_t i = 0; i < dp->flows_top; i++)
        if (dp->flows[i].used && dp->flows[i].secondary && mask & 1u << dp->flows[i].service)
            decide(dp, &dp->flows[i]);
}

void dp_takeover_begin(struct prl_dp *dp, uint32_t mask)
{
    dp->takeover->goes_on = true;
    dp->takeover->passed_over = false;
    dp->takeover->next = 0;
    dp->takeover->mask |= mask;
}

void dp_takeover_again(struct prl_dp *dp)
{
    if (dp->takeover->passed_over)
        dp_takeover_begin(dp, 0);
}

bool dp_takeover_pass(struct prl_dp *dp)
{
    struct dp_takeover *takeover = dp->takeover;

    if (!takeover->goes_on)
        return false;
    takeover->goes_on = !take_turns(dp);
    if (!takeover->goes_on || dp->now_ns >= takeover->hush_until_ns)
        dp_events_hush(&dp->events, false);
    if (takeover->goes_on) {
        dp->counters.takeover_shares++;
    } else if (takeover->mask) {
        PRL_PROBE3(ownership, "taken over", takeover->mask, dp_clock_ns(dp) - dp->owner.last_heard_ns);
        takeover->mask = 0;
    }
    return true;
}

bool dp_takeover_goes_on(const struct prl_dp *dp)
{
    return dp->takeover->goes_on;
}
