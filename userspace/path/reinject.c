/* SPDX-License-Identifier: BSD-2-Clause */
#include "path/reinject.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>

#include "flow/dp.h"
#include "io/gro.h"

struct dp_reinject {
    struct prl_gro gro;
    struct prl_chain gathered; /* freed once the gathered packet is written */
};

int dp_reinject_open(struct prl_dp *dp)
{
    dp->reinject = calloc(1, sizeof(*dp->reinject));
    if (!dp->reinject)
        return -ENOMEM;
    prl_gro_init(&dp->reinject->gro, (struct prl_tap){.write = dp->io->inject, .host = dp->host});
    return 0;
}

void dp_reinject_close(struct prl_dp *dp)
{
    free(dp->reinject);
}

static void count(struct prl_dp *dp, uint32_t bytes)
{
    dp->counters.reinjected_packets++;
    dp->counters.reinjected_bytes += bytes;
}

void dp_reinject(struct prl_dp *dp, const struct dp_flow *flow, const struct iovec *piece, uint32_t pieces,
                 const struct prl_packet *packet, uint16_t lif)
{
    struct prl_reinject how = {
        .lif = lif,
        .vlans = flow->kernel->key.vlans,
        .mss = flow->spec.mss,
        .checked = packet->proto == IPPROTO_TCP || packet->proto == IPPROTO_UDP,
    };

    dp->io->settle_all(dp->host); /* whichever way packets go, they go in order */
    prl_gro_add(&dp->reinject->gro, flow->slot, &how, piece, pieces, packet);
    count(dp, packet->l3_bytes);
}

void dp_reinject_held(struct prl_dp *dp, const struct dp_flow *flow, struct prl_hold *hold,
                      const struct iovec *piece, uint32_t pieces)
{
    uint32_t bytes = hold->bytes;

    if (dp->reinject->gro.segments && dp->held.queued[hold - dp->held.pool.slab])
        dp_reinject_flush(dp); /* as above */
    if (dp_hold_pass(dp, hold)) {
        count(dp, bytes);
        return;
    }
    dp_reinject(dp, flow, piece, pieces, dp_hold_packet(&dp->held, hold), hold->lif);
    prl_chain_push(&dp->reinject->gathered, hold);
}

int dp_reinject_crafted(struct prl_dp *dp, const struct dp_flow *flow, const struct prl_craft *craft)
{
    struct prl_reinject how = {.lif = flow->kernel->key.lif, .vlans = flow->kernel->key.vlans};
    uint8_t bytes[PRL_CRAFT_MAX];
    struct iovec piece = {.iov_base = bytes, .iov_len = prl_packet_craft(craft, bytes)};
    struct prl_packet packet;
    int err = prl_packet_parse(bytes, (uint32_t)piece.iov_len, (uint32_t)piece.iov_len, false, &packet);

    return err ? err : prl_tap_reinject(&dp->reinject->gro.tap, &how, &piece, 1, &packet);
}

void dp_reinject_flush(struct prl_dp *dp)
{
    prl_gro_flush(&dp->reinject->gro);
    dp->io->settle_all(dp->host);
    dp_hold_free_all(dp, &dp->reinject->gathered);
}

uint32_t dp_reinject_waiting(const struct prl_dp *dp)
{
    return dp->reinject->gathered.count;
}

void dp_reinject_count(const struct prl_dp *dp, uint64_t *failed, uint64_t *writes)
{
    *failed = dp->reinject->gro.failed;
    *writes = dp->reinject->gro.writes;
}
