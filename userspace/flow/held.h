/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The memory of held packets: an entry (core/hold.h), what parsing has said of the packet, and its bytes, which lie in the
 * packet memory (input) or in a buffer as they were read from the hold TAP (output). With the carrier "kernel" input waits
 * in the kernel, and these bytes are a copy, which goes as soon as the other node has been sent it (unless it may
 * have to be sent again: nack = retry). What ends without having been let go on is dropped there.
 */
#ifndef PRL_FLOW_HELD_H
#define PRL_FLOW_HELD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "core/hold.h"
#include "flow/config.h"
#include "io/umem.h"
#include "tcp/packet.h"

/* The last eighth of frames, entries and buffers is for flows that hold no more than so many packets (R4: when the
 * memory of all is short, the flow that took it loses packets, not the others). */
#define DP_RESERVE_SHARE 8
#define DP_FAIR_PACKETS 64
#define DP_FAIR_BUFFERS 8

/* Copies that go with one flush of the link; of more than that the copy stays until the packet goes. */
#define DP_COPIES_MAX 256

struct prl_dp;

struct dp_held {
    struct prl_pool pool;
    struct prl_packet *packet; /* of each entry of the pool */
    uint64_t *queued; /* likewise: names the packet in the kernel's queue (io.h), 0: it waits nowhere else */
    uint32_t *mirrored; /* likewise: its number on the cable (docs/mirror.md), 0: its payload was copied */
    uint64_t *sum;    /* likewise: of the payload of such a packet */
    struct dp_copied {
        uint64_t queued;
        uint32_t entry;
    } copied[DP_COPIES_MAX]; /* whose copies go with the next flush of the link */
    uint32_t copies;
    uint8_t *buffers; /* PRL_DP_OUTPUT_BUFFERS of PRL_TAP_BUFFER_BYTES */
    uint32_t buffer_bytes[PRL_DP_OUTPUT_BUFFERS];
    uint32_t buffer_free[PRL_DP_OUTPUT_BUFFERS];
    uint32_t buffers_free;
    struct prl_hold_times in, out; /* how long it waited: what was handed to the stack, what was sent */
};

int dp_held_open(struct dp_held *held); /* 0 or -ENOMEM */
void dp_held_close(struct dp_held *held);

/* An entry for a packet that was parsed, which may wait in the kernel as well (`queued`, or 0): of `bytes` bytes, at `frame` of the packet memory, from L3 on. NULL: there is none. */
struct prl_hold *dp_hold_input(struct prl_dp *dp, uint32_t frame, uint64_t queued, uint32_t bytes, uint16_t lif,
                               const struct prl_packet *packet);
/* An entry for what was read into dp_held_buffer(), which is then its; `packet` starts at the Ethernet header. Likewise. */
struct prl_hold *dp_hold_output(struct prl_dp *dp, uint32_t bytes, const struct prl_packet *packet);
/* Gives bytes and entry of a packet back that is in no chain any more. The only way in which a held packet ends. */
void dp_hold_free(struct prl_dp *dp, struct prl_hold *hold);
/* Lets a packet that waits in the kernel as well go on to the stack from there, and ends it. false: it waits nowhere else. */
bool dp_hold_pass(struct prl_dp *dp, struct prl_hold *hold);
/* Its payload went by the cable: what is here is the packet's beginning. */
void dp_hold_mirrored(struct prl_dp *dp, const struct prl_hold *hold, uint32_t number);
/* The sum of its payload (R12a), of a packet that waits in the kernel as well: its copy may go before that is wanted. */
void dp_hold_sum(struct prl_dp *dp, const struct prl_hold *hold, uint64_t payload_sum);
/* The other node is being sent the packet, for good: if it waits in the kernel as well, its copy may go. */
void dp_hold_copied(struct prl_dp *dp, const struct prl_hold *hold);
/* Gives these copies back. The link refers to none: it was flushed. */
void dp_held_drop_copies(struct prl_dp *dp);
/* Whether its bytes are here. */
static inline bool dp_hold_has_bytes(const struct prl_hold *hold)
{
    return hold->frame != PRL_FRAME_NONE;
}
/* All of a chain. */
void dp_hold_free_all(struct prl_dp *dp, struct prl_chain *chain);

/* What parsing said of it when it came. */
static inline const struct prl_packet *dp_hold_packet(const struct dp_held *held, const struct prl_hold *hold)
{
    return &held->packet[hold - held->pool.slab];
}

/* Its number on the cable, or 0. */
static inline uint32_t dp_hold_number(const struct dp_held *held, const struct prl_hold *hold)
{
    return held->mirrored[hold - held->pool.slab];
}

/* The pieces of held input, from L3 on. */
uint32_t dp_hold_pieces(struct prl_dp *dp, const struct prl_hold *hold, struct iovec *piece);
/* Held output as it was read, virtio header first, and its bytes. */
uint8_t *dp_hold_frame(struct dp_held *held, const struct prl_hold *hold, uint32_t *bytes);
/* Where the next held segment is to be read to, of PRL_TAP_BUFFER_BYTES; not before there is room (buffers_free). */
uint8_t *dp_held_buffer(struct dp_held *held);

#endif /* PRL_FLOW_HELD_H */
