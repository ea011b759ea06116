/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Receive offload in userspace: in-order segments of one flow go to the own stack as one large packet, which costs one
 * write and one trip through it. The rules are those of net/ipv4/tcp_offload.c, tcp_gro_receive(): same header but for
 * length, sequence number, checksums and PSH; every segment but the last as long as the first.
 *
 *     add ─┬─ fits behind what is gathered ─▶ gathered      the pieces must stay valid until flush
 *          └─ does not ─▶ flush, gather anew
 */
#ifndef PRL_IO_GRO_H
#define PRL_IO_GRO_H

#ifndef PRL_CFFI
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>
#endif

#include "tcp/packet.h"
#include "io/tap.h"

/* Segments and pieces of one large packet; it is never longer than IP can say. */
#define PRL_GRO_PIECES_MAX (PRL_TAP_PIECES_MAX - 1) /* one is the large packet's own header */
#define PRL_GRO_HEADER_MAX 128
#define PRL_GRO_BYTES_MAX 65000

struct prl_gro {
    struct prl_tap tap; /* the inject TAP */
    uint32_t pieces, segments;
    struct iovec piece[PRL_GRO_PIECES_MAX];
    struct prl_reinject how;
    struct prl_packet packet; /* the first one's, its length that of the whole */
    uint32_t segment_bytes;   /* payload of the first */
    uint32_t flow;            /* the caller's: packets of different flows never meet */
    uint64_t writes, failed;  /* failed: segments */
};

void prl_gro_init(struct prl_gro *gro, struct prl_tap tap);
/* Takes a packet (pieces from L3 on, headers in piece[0]). Nothing of it changes but its L4 checksum field: the large
 * packet has a header of its own, because what is gathered here may be kept and fed again as it was (R8). */
void prl_gro_add(struct prl_gro *gro, uint32_t flow, const struct prl_reinject *how, const struct iovec *piece,
                 uint32_t pieces, const struct prl_packet *packet);
void prl_gro_flush(struct prl_gro *gro);

#endif /* PRL_IO_GRO_H */
