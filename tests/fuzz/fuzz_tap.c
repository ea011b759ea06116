/* SPDX-License-Identifier: BSD-2-Clause */
#include "fuzz_tap.h"

#include <linux/if_ether.h>
#include <netinet/in.h>

#include "fuzz.h"

static int keep(struct prl_host *host, const struct iovec *piece, int pieces)
{
    static struct fuzz_frame frame;
    uint32_t left = FUZZ_FRAME_MAX, at = 0;
    uint16_t type;

    (void)host;
    assert(pieces > 1 && pieces <= FUZZ_PIECES_MAX && piece[0].iov_len == sizeof(frame.vnet));
    memcpy(&frame.vnet, piece[0].iov_base, sizeof(frame.vnet));
    for (int i = 1; i < pieces; i++) {
        assert(piece[i].iov_len <= left);
        if (piece[i].iov_len)
            memcpy(frame.bytes + at, piece[i].iov_base, piece[i].iov_len);
        at += (uint32_t)piece[i].iov_len;
        left -= (uint32_t)piece[i].iov_len;
    }
    frame.count = at;
    frame.l3 = ETH_HLEN;
    memcpy(&type, frame.bytes + 12, sizeof(type));
    while (type == htons(ETH_P_8021Q) || type == htons(ETH_P_8021AD)) {
        memcpy(&type, frame.bytes + frame.l3 + 2, sizeof(type));
        frame.l3 += 4;
    }
    assert(frame.l3 <= ETH_HLEN + 4 * PRL_VLANS_MAX && frame.l3 < frame.count);
    assert(type == htons(frame.bytes[frame.l3] >> 4 == 4 ? ETH_P_IP : ETH_P_IPV6));
    frame.l4 = 0;
    if (frame.vnet.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) {
        frame.l4 = frame.vnet.csum_start;
        assert(frame.l4 > frame.l3 && frame.l4 + frame.vnet.csum_offset + 2u <= frame.count);
    }
    if (frame.vnet.gso_type != VIRTIO_NET_HDR_GSO_NONE) {
        assert(frame.l4 && frame.vnet.gso_size);
        assert(frame.vnet.hdr_len > frame.l4 && frame.vnet.hdr_len < frame.count);
    }
    fuzz_wrote(&frame);
    return 0;
}

const struct prl_tap fuzz_tap = {.write = keep};
