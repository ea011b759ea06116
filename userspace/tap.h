/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The two TAP devices (IFF_VNET_HDR, so that whole TSO packets go through): the inject TAP, whose written frames tc
 * gives to the stack as though their interface had received them, and the hold TAP, which delivers the
 * application's held segments and takes them back for the wire.
 */
#ifndef PRL_TAP_H
#define PRL_TAP_H

#ifndef PRL_CFFI
#include <linux/virtio_net.h>
#include <stdint.h>
#include <sys/uio.h>
#endif

#include "packet.h"

/* Pieces of one write: a large packet put together from many segments. */
#define PRL_TAP_PIECES_MAX 64
#define PRL_TAP_BUFFER_BYTES (68 * 1024)

struct prl_reinject {
    uint16_t lif;
    uint32_t vlans;
    uint32_t mss;       /* payload of the peer's segments; more makes it a GSO packet */
    bool checked;       /* L4 checksum verified: the field is made partial and the kernel trusts it */
};
/* Gives a packet (pieces from L3 on; headers in piece[0], which is written to) to the own stack. 0 or -errno. */
int prl_tap_reinject(int fd, const struct prl_reinject *how, struct iovec *piece, uint32_t pieces,
                     const struct prl_packet *packet);

/* Reads one held frame, vnet header first. Bytes, 0 when there is none, or -errno. */
int prl_tap_read(int fd, uint8_t *buffer, uint32_t capacity);
/* Puts a frame read by prl_tap_read(), or made with a zero vnet header, on the wire. 0 or -errno. */
int prl_tap_release(int fd, const uint8_t *buffer, uint32_t bytes);

#endif /* PRL_TAP_H */
