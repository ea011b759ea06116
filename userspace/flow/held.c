/* SPDX-License-Identifier: BSD-2-Clause */
#include "flow/held.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>

#include "flow/dp.h"
#include "io/tap.h"

/* struct prl_hold.frame of held output: a buffer's number with this bit; otherwise a packet of the packet memory. */
#define FRAME_IS_BUFFER (1ull << 63)

int dp_held_open(struct dp_held *held)
{
    held->buffers = malloc((size_t)PRL_DP_OUTPUT_BUFFERS * PRL_TAP_BUFFER_BYTES);
    held->packet = calloc(PRL_DP_HOLDS, sizeof(*held->packet));
    held->queued = calloc(PRL_DP_HOLDS, sizeof(*held->queued));
    held->sum = calloc(PRL_DP_HOLDS, sizeof(*held->sum));
    held->mirrored = calloc(PRL_DP_HOLDS, sizeof(*held->mirrored));
    if (!held->buffers || !held->packet || !held->queued || !held->sum || !held->mirrored ||
        prl_pool_init(&held->pool, PRL_DP_HOLDS))
        return -ENOMEM;
    for (uint32_t i = 0; i < PRL_DP_OUTPUT_BUFFERS; i++)
        held->buffer_free[held->buffers_free++] = i;
    return 0;
}

void dp_held_close(struct dp_held *held)
{
    prl_pool_destroy(&held->pool);
    free(held->packet);
    free(held->queued);
    free(held->sum);
    free(held->mirrored);
    free(held->buffers);
}

static struct prl_hold *take_entry(struct prl_dp *dp, const struct prl_packet *packet)
{
    struct prl_hold *hold = prl_pool_get(&dp->held.pool);

    if (!hold)
        return NULL;
    hold->arrived_ns = dp->now_ns;
    dp->held.packet[hold - dp->held.pool.slab] = *packet;
    return hold;
}

struct prl_hold *dp_hold_input(struct prl_dp *dp, uint32_t frame, uint64_t queued, uint32_t bytes, uint16_t lif,
                               const struct prl_packet *packet)
{
    struct prl_hold *hold = take_entry(dp, packet);

    if (!hold)
        return NULL;
    hold->frame = frame;
    hold->bytes = bytes;
    hold->lif = lif;
    dp->held.queued[hold - dp->held.pool.slab] = queued;
    dp->held.mirrored[hold - dp->held.pool.slab] = 0;
    if (packet->proto == IPPROTO_TCP) {
        hold->tcp_seq = packet->seq;
        hold->tcp_end = packet->seq + packet->payload_bytes;
    }
    return hold;
}

struct prl_hold *dp_hold_output(struct prl_dp *dp, uint32_t bytes, const struct prl_packet *packet)
{
    struct prl_hold *hold = take_entry(dp, packet);
    uint32_t buffer;

    if (!hold)
        return NULL;
    buffer = dp->held.buffer_free[--dp->held.buffers_free];
    dp->held.buffer_bytes[buffer] = bytes;
    hold->frame = buffer | FRAME_IS_BUFFER;
    hold->bytes = bytes;
    hold->tcp_seq = packet->seq;
    hold->tcp_end = packet->seq + packet->payload_bytes + (packet->tcp_flags & PRL_TCP_FIN ? 1 : 0);
    hold->is_output = 1;
    return hold;
}

void dp_hold_mirrored(struct prl_dp *dp, const struct prl_hold *hold, uint32_t number)
{
    dp->held.mirrored[hold - dp->held.pool.slab] = number;
}

void dp_hold_sum(struct prl_dp *dp, const struct prl_hold *hold, uint64_t payload_sum)
{
    dp->held.sum[hold - dp->held.pool.slab] = payload_sum;
}

bool dp_hold_pass(struct prl_dp *dp, struct prl_hold *hold)
{
    uint64_t *queued = &dp->held.queued[hold - dp->held.pool.slab];

    if (!*queued)
        return false;
    dp->io->settle(dp->host, *queued, true);
    *queued = 0;
    dp_hold_free(dp, hold);
    return true;
}

void dp_hold_free(struct prl_dp *dp, struct prl_hold *hold)
{
    uint64_t *queued = &dp->held.queued[hold - dp->held.pool.slab];

    if (*queued)
        dp->io->settle(dp->host, *queued, false);
    *queued = 0;
    if (dp->link.referred)
        prl_link_settle(&dp->link);
    if (hold->frame & FRAME_IS_BUFFER)
        dp->held.buffer_free[dp->held.buffers_free++] = (uint32_t)hold->frame;
    else
        prl_umem_free_packet(dp->umem, (uint32_t)hold->frame);
    prl_pool_put(&dp->held.pool, hold);
}

void dp_hold_copied(struct prl_dp *dp, const struct prl_hold *hold)
{
    struct dp_held *held = &dp->held;
    uint32_t entry = (uint32_t)(hold - held->pool.slab);

    if (!held->queued[entry] || dp->config.limits.nack_retry || held->copies == DP_COPIES_MAX)
        return;
    held->copied[held->copies++] = (struct dp_copied){.entry = entry, .queued = held->queued[entry]};
}

void dp_held_drop_copies(struct prl_dp *dp)
{
    struct dp_held *held = &dp->held;

    for (uint32_t i = 0; i < held->copies; i++) {
        struct prl_hold *hold = &held->pool.slab[held->copied[i].entry];

        if (held->queued[held->copied[i].entry] != held->copied[i].queued)
            continue; /* it has ended since */
        prl_umem_free_packet(dp->umem, (uint32_t)hold->frame);
        hold->frame = PRL_FRAME_NONE;
    }
    held->copies = 0;
}

void dp_hold_free_all(struct prl_dp *dp, struct prl_chain *chain)
{
    struct prl_hold *hold;

    while ((hold = prl_chain_pop(chain)))
        dp_hold_free(dp, hold);
}

uint32_t dp_hold_pieces(struct prl_dp *dp, const struct prl_hold *hold, struct iovec *piece)
{
    return prl_umem_pieces(dp->umem, (uint32_t)hold->frame, piece);
}

static uint8_t *buffer_at(struct dp_held *held, uint32_t buffer)
{
    return held->buffers + (size_t)buffer * PRL_TAP_BUFFER_BYTES;
}

uint8_t *dp_hold_frame(struct dp_held *held, const struct prl_hold *hold, uint32_t *bytes)
{
    *bytes = held->buffer_bytes[(uint32_t)hold->frame];
    return buffer_at(held, (uint32_t)hold->frame);
}

uint8_t *dp_held_buffer(struct dp_held *held)
{
    return buffer_at(held, held->buffer_free[held->buffers_free - 1]);
}
