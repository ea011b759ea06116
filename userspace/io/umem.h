/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The packet memory: one area cut into frames, which AF_XDP (xsk.h) captures into.
 *
 * A frame is in exactly one place: the free list, a port's fill ring, a port's receive ring, or a packet.
 * A packet is a list of frames; its first frame's number is its name (struct prl_hold.frame).
 */
#ifndef PRL_IO_UMEM_H
#define PRL_IO_UMEM_H

#ifndef PRL_CFFI
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>
#endif

#include "tcp/packet.h"
#include "prl_abi.h"

#define PRL_FRAME_NONE 0xffffffffu

struct prl_umem {
    uint8_t *area;
    uint32_t frames, frame_bytes;
    uint32_t *next;   /* of a frame in a packet */
    uint32_t *length; /* bytes in a frame of a packet */
    uint32_t *offset; /* where they start */
    uint32_t *free;   /* stack */
    uint32_t free_count;
};

struct prl_umem *prl_umem_open(uint32_t frames, uint32_t frame_bytes, char *error);
void prl_umem_close(struct prl_umem *umem);
uint32_t prl_umem_free_frames(const struct prl_umem *umem);

/* Has the start of a packet, its headers, brought into the cache. */
void prl_umem_prefetch(const struct prl_umem *umem, uint32_t packet);

/* The pieces of a packet, in order; [0] starts at the frame's first byte. At most PRL_PACKET_PIECES_MAX, and fewer than frames: those
 * that lie one behind the other in memory are one. */
uint32_t prl_umem_pieces(struct prl_umem *umem, uint32_t packet, struct iovec *piece);
/* Cuts `front` bytes off the first frame (they stay in memory, before the packet) and all behind `bytes` more. */
void prl_umem_trim(struct prl_umem *umem, uint32_t packet, uint32_t front, uint32_t bytes);
/* A packet with a copy of these bytes; PRL_FRAME_NONE when the frames do not suffice. */
uint32_t prl_umem_copy(struct prl_umem *umem, const uint8_t *bytes, uint32_t count);
/* Its first frame is the next that is taken, so that neighbours stay neighbours. */
void prl_umem_free_packet(struct prl_umem *umem, uint32_t packet);

/* A captured packet. */
struct prl_received {
    uint32_t packet; /* first frame */
    uint32_t bytes; /* of the whole packet */
    uint32_t
        mirrored; /* its number on the cable (docs/mirror.md), if its source address is such a one; 0: it is not */
    uint64_t
        queued; /* names the packet itself, which waits in the kernel (queue.h); 0: these bytes are all of it */
    bool is_cut; /* only its beginning is here */
    bool is_uncut; /* the stack makes several of it (GSO) */
    struct prl_meta meta;
};

#endif /* PRL_IO_UMEM_H */
