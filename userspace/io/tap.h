/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The two TAP devices (IFF_VNET_HDR, so that whole TSO packets go through): the inject TAP, whose written frames tc
 * gives to the stack as though their interface had received them, and the hold TAP, which delivers the
 * application's held segments and takes them back for the wire.
 */
#ifndef PRL_IO_TAP_H
#define PRL_IO_TAP_H

#ifndef PRL_CFFI
#include <linux/virtio_net.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>
#endif

#include "tcp/packet.h"

/* Pieces of one write: a large packet put together from many segments. */
#define PRL_TAP_PIECES_MAX 64
#define PRL_TAP_BUFFER_BYTES (68 * 1024)

struct prl_reinject {
    uint16_t lif;
    uint32_t vlans;
    uint32_t mss;       /* payload of the peer's segments; more makes it a GSO packet */
    bool checked;       /* L4 checksum verified: the field is made partial and the kernel trusts it */
};
/* Where whole frames are written to, vnet header first: 0 or -errno. */
struct prl_host;
struct prl_tap {
    int (*write)(struct prl_host *host, const struct iovec *piece, int pieces);
    struct prl_host *host;
};
/* Gives a packet (pieces from L3 on; headers in piece[0], which is written to) to the own stack. 0 or -errno. */
int prl_tap_reinject(const struct prl_tap *tap, const struct prl_reinject *how, struct iovec *piece,
                     uint32_t pieces, const struct prl_packet *packet);

#endif /* PRL_IO_TAP_H */
