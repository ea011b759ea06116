/* SPDX-License-Identifier: BSD-2-Clause */
#include "path/compare.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>

#include "flow/dp.h"
#include "flow/send.h"

#define HASH_FACTOR 0x9e3779b97f4a7c15ull
/* Quiet for so long, a flow's sockets can be compared, too. */
#define DP_COMPARE_QUIET_NS 20000000ull

struct dp_compares {
    uint32_t due[PRL_SAMPLE_MAX]; /* slots of quiet flows whose numbers go to the other side in this tick */
    uint32_t count;
};

int dp_compares_open(struct prl_dp *dp)
{
    dp->compares = calloc(1, sizeof(*dp->compares));
    return dp->compares ? 0 : -ENOMEM;
}

void dp_compares_close(struct prl_dp *dp)
{
    free(dp->compares);
}

static uint64_t mix(uint64_t hash, uint64_t word)
{
    hash = (hash ^ word) * HASH_FACTOR;
    return hash ^ hash >> 29;
}

void dp_compare_hash(struct dp_flow *flow, uint64_t sum, const struct prl_packet *packet)
{
    uint64_t hash = flow->compare.hash;

    hash = mix(hash, (uint64_t)packet->seq << 32 | packet->payload_bytes);
    hash = mix(hash, (uint64_t)packet->ack << 32 | packet->tcp_flags);
    flow->compare.hash = mix(hash, sum);
}

bool dp_compare_is_possible(uint32_t state)
{
    return state == TCP_ESTABLISHED || state == TCP_CLOSE_WAIT || state == TCP_FIN_WAIT2;
}

static void send_compare(struct prl_dp *dp, struct dp_flow *flow, uint32_t seq, uint32_t flags)
{
    struct prl_msg msg = {
        .type = PRL_MSG_COMPARE,
        .handle = flow->spec.handle,
        .seq = seq,
        .out_seq = dp_primary_of(flow)->out_next - 1,
        .rcv_nxt = flow->kernel->sock.rcv_nxt,
        .snd_una = flow->kernel->sock.snd_una,
        .compare_flags = flags,
        .hash = flow->compare.hash,
    };

    if (dp->capabilities & PRL_CAP_COMPARE)
        dp_send(dp, &msg);
}

void dp_compare_released(struct prl_dp *dp, struct dp_flow *flow, uint32_t seq)
{
    flow->last_input_ns = dp->now_ns;
    if (seq % DP_COMPARE_EVERY == 0)
        send_compare(dp, flow, seq, 0);
}

void dp_compare_accepted(struct dp_flow *flow, uint32_t seq)
{
    uint32_t at = seq / DP_COMPARE_EVERY % 2;

    if (seq % DP_COMPARE_EVERY != 0)
        return;
    dp_shadow_of(flow)->check_seq[at] = seq;
    dp_shadow_of(flow)->check_hash[at] = flow->compare.hash;
}

/* Nothing is on its way, so the sockets must agree as well. */
void dp_compare_tick(struct prl_dp *dp, struct dp_flow *flow)
{
    const struct prl_primary *primary = dp_primary_of(flow);
    uint32_t in = primary->in_next - 1, out = primary->out_next - 1;
    struct dp_compares *compares = dp->compares;
    bool quiet = prl_primary_is_quiet(primary) && dp->now_ns - flow->last_input_ns >= DP_COMPARE_QUIET_NS;

    if (primary->state != PRL_PRIMARY_ACTIVE || flow->kernel->key.proto != IPPROTO_TCP || !quiet ||
        (in == flow->compare.sent_in && out == flow->compare.sent_out))
        return;
    flow->compare.sent_in = in;
    flow->compare.sent_out = out;
    compares->due[compares->count++] = flow->slot;
    if (compares->count == PRL_SAMPLE_MAX)
        dp_compare_send_due(dp);
}

void dp_compare_send_due(struct prl_dp *dp)
{
    struct dp_compares *compares = dp->compares;

    if (compares->count)
        dp->io->sample(dp->host, compares->due, compares->count);
    for (uint32_t i = 0; i < compares->count; i++) {
        struct dp_flow *flow = &dp->flows[compares->due[i]];

        if (dp_primary_of(flow)->state == PRL_PRIMARY_ACTIVE && dp_compare_is_possible(flow->kernel->sock.state))
            send_compare(dp, flow, dp_primary_of(flow)->in_next - 1, PRL_COMPARE_SOCKET);
    }
    compares->count = 0;
}

bool dp_compare_is_due(const struct dp_flow *flow)
{
    const struct prl_primary *primary = dp_primary_of(flow);

    return primary->state == PRL_PRIMARY_ACTIVE && flow->kernel->key.proto == IPPROTO_TCP &&
           (primary->in_next - 1 != flow->compare.sent_in || primary->out_next - 1 != flow->compare.sent_out);
}
