/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What is given to the own stack (tap.h, prl_tap_reinject()): whatever packet the peer has sent, the frame says where it
 * belongs and carries the packet unchanged but for the checksum field, with a header that the kernel takes.
 */
#include "fuzz_tap.h"
#include "wire/wire.h"

#include <netinet/in.h>

#include "fuzz.h"

static const uint8_t *packet_of; /* as it was */
static struct prl_packet parsed;
static struct prl_reinject how;
static uint32_t frames;

void fuzz_wrote(const struct fuzz_frame *frame)
{
    uint32_t bytes = frame->count - frame->l3, sum_at = UINT32_MAX;

    frames++;
    assert(frame->bytes[0] == PRL_INJECT_TAG_0 && frame->bytes[4] << 8 == (how.lif & 0xff00));
    assert(frame->bytes[5] == (how.lif & 0xff) && bytes == parsed.l3_bytes);
    if (frame->l4) {
        assert(how.checked && frame->l4 == frame->l3 + parsed.l4_offset);
        sum_at = parsed.l4_offset + frame->vnet.csum_offset;
    }
    for (uint32_t i = 0; i < bytes; i++)
        assert(frame->bytes[frame->l3 + i] == packet_of[i] || i == sum_at || i == sum_at + 1);
    if (frame->vnet.gso_type != VIRTIO_NET_HDR_GSO_NONE) {
        assert(parsed.proto == IPPROTO_TCP && frame->vnet.hdr_len == frame->l3 + parsed.data_offset);
        assert(frame->vnet.gso_size == how.mss);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct fuzz_input input = {data, bytes};
    uint8_t *front, *back;
    struct iovec piece[2];
    uint32_t cut;

    how = (struct prl_reinject){
        .lif = (uint16_t)fuzz_number(&input, 2),
        .vlans = (uint32_t)fuzz_number(&input, 3),
        .mss = (uint32_t)fuzz_number(&input, 2),
        .checked = fuzz_number(&input, 1) & 1,
    };
    cut = (uint32_t)fuzz_number(&input, 2);
    packet_of = input.at;
    if (input.left > PRL_PACKET_MAX ||
        prl_packet_parse(packet_of, (uint32_t)input.left, (uint32_t)input.left, false, &parsed))
        return 0;
    cut = parsed.data_offset + cut % (parsed.payload_bytes + 1);
    front = fuzz_exact(packet_of, cut);
    back = fuzz_exact(packet_of + cut, parsed.l3_bytes - cut);
    piece[0] = (struct iovec){front, cut};
    piece[1] = (struct iovec){back, parsed.l3_bytes - cut};
    frames = 0;
    assert(prl_tap_reinject(&fuzz_tap, &how, piece, 2, &parsed) == 0 && frames == 1);
    free(front);
    free(back);
    return 0;
}
