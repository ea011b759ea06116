/* SPDX-License-Identifier: BSD-2-Clause */
/* The inject TAP of the harnesses, which keeps what was written. What the kernel would refuse of a
 * virtio-net header (include/linux/virtio_net.h, virtio_net_hdr_to_skb) is an error of ours. */
#ifndef PRL_FUZZ_TAP_H
#define PRL_FUZZ_TAP_H

#include "io/tap.h"

#define FUZZ_FRAME_MAX (70u << 10)
#define FUZZ_PIECES_MAX 1024 /* UIO_MAXIOV */

struct fuzz_frame {
    struct virtio_net_hdr vnet;
    uint8_t bytes[FUZZ_FRAME_MAX]; /* from the Ethernet header on */
    uint32_t count;
    uint32_t l3, l4; /* where they begin */
};

extern const struct prl_tap fuzz_tap;

/* Called for each frame; the harness's. */
void fuzz_wrote(const struct fuzz_frame *frame);

#endif /* PRL_FUZZ_TAP_H */
