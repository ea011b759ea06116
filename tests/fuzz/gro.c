/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Receive offload (gro.h): what is written, cut up again as the kernel's TSO would (net/ipv4/tcp_offload.c,
 * tcp_gso_segment), is segment by segment what came in, in that order; packets of different flows never meet.
 */
#include "io/gro.h"

#include <netinet/in.h>
#include <stdbool.h>

#include "fuzz.h"
#include "fuzz_tap.h"

#define SEGMENTS_MAX 200
#define PAYLOAD_MAX 1500
#define HEADERS_MAX 160

struct segment {
    uint8_t *bytes;
    struct prl_packet packet;
    struct prl_reinject how;
    uint32_t flow;
};

static struct segment segment[SEGMENTS_MAX];
static uint32_t added, seen;

/* Where the header of a segment may differ from that of the large packet it came out of. */
static bool may_differ(const struct prl_packet *packet, uint32_t at)
{
    uint32_t tcp = packet->l4_offset;

    if (at < tcp) /* length, identification, checksum of IPv4; length of IPv6 */
        return packet->version == 4 ? (at >= 2 && at < 6) || at == 10 || at == 11 : at == 4 || at == 5;
    if (packet->proto != IPPROTO_TCP)
        return at == tcp + 6 || at == tcp + 7;
    /* sequence number, flags (see below), checksum, urgent pointer */
    return (at >= tcp + 4 && at < tcp + 8) || at == tcp + 13 || (at >= tcp + 16 && at < tcp + 20);
}

/* The next segment that came in is what stands `at` the large packet's payload. */
static void compare(const struct fuzz_frame *frame, const struct prl_packet *large, uint32_t at, uint32_t bytes,
                    bool last)
{
    const uint8_t *l3 = frame->bytes + frame->l3;
    const struct segment *one = &segment[seen++];
    const struct prl_packet *packet = &one->packet;

    assert(seen <= added && (frame->bytes[4] << 8 | frame->bytes[5]) == one->how.lif);
    assert(packet->version == large->version && packet->proto == large->proto);
    assert(packet->data_offset == large->data_offset && packet->payload_bytes == bytes);
    for (uint32_t i = 0; i < packet->data_offset; i++)
        assert(one->bytes[i] == l3[i] || may_differ(packet, i));
    assert(packet->seq == large->seq + at);
    /* TSO leaves FIN and PSH to the last one. */
    assert(packet->tcp_flags == (last ? large->tcp_flags : large->tcp_flags & ~(PRL_TCP_FIN | PRL_TCP_PSH)));
    assert(!memcmp(one->bytes + packet->data_offset, l3 + large->data_offset + at, bytes));
}

void fuzz_wrote(const struct fuzz_frame *frame)
{
    uint32_t bytes = frame->count - frame->l3, first = seen;
    struct prl_packet large;

    assert(prl_packet_parse(frame->bytes + frame->l3, bytes, bytes, false, &large) == 0);
    assert(large.l3_bytes == bytes);
    if (frame->vnet.gso_type == VIRTIO_NET_HDR_GSO_NONE) {
        compare(frame, &large, 0, large.payload_bytes, true);
        return;
    }
    /* As it was given to us large, or as we made it of many. */
    if (segment[seen].packet.payload_bytes == large.payload_bytes) {
        compare(frame, &large, 0, large.payload_bytes, true);
        return;
    }
    for (uint32_t at = 0; at < large.payload_bytes; at += frame->vnet.gso_size) {
        uint32_t left = large.payload_bytes - at;
        uint32_t part = left < frame->vnet.gso_size ? left : frame->vnet.gso_size;

        compare(frame, &large, at, part, part == left);
        assert(segment[seen - 1].flow == segment[first].flow);
    }
}

/* Addresses and ports are the flow's: the same in all its packets. */
static bool is_of_key(uint32_t at, uint32_t l4)
{
    return at >= (l4 == 20 ? 12u : 8u) && at < l4 + 4;
}

/* A segment of one of few flows, mostly the one that GRO hopes for. Returns whether it is a packet. */
static bool make(struct fuzz_input *input, uint32_t *next_seq, struct segment *made)
{
    uint8_t head[HEADERS_MAX] = {0};
    uint8_t shape = (uint8_t)fuzz_number(input, 1), oddity = (uint8_t)fuzz_number(input, 1);
    uint32_t payload = (uint32_t)fuzz_number(input, 2) % PAYLOAD_MAX, l4 = shape & 1 ? 40 : 20;
    uint32_t options = shape & 2 ? 12 : 0, headers = l4 + 20 + options, bytes = headers + payload, seq;

    made->flow = shape >> 2 & 1;
    made->how = (struct prl_reinject){.lif = shape >> 3 & 1, .checked = !(shape & 0x10), .mss = 1400};
    seq = next_seq[made->flow];
    if (shape & 1) {
        head[0] = 0x60;
        head[4] = (uint8_t)((bytes - 40) >> 8);
        head[5] = (uint8_t)(bytes - 40);
        head[6] = IPPROTO_TCP;
        head[7] = 64;
    } else {
        head[0] = 0x45;
        head[2] = (uint8_t)(bytes >> 8);
        head[3] = (uint8_t)bytes;
        head[8] = 64;
        head[9] = IPPROTO_TCP;
    }
    for (uint32_t i = 0; i < 4; i++)
        head[l4 + 4 + i] = (uint8_t)(seq >> (24 - 8 * i));
    head[l4 + 12] = (uint8_t)((20 + options) / 4 << 4);
    head[l4 + 13] = PRL_TCP_ACK | (shape & 0x20 ? PRL_TCP_PSH : 0) | (shape & 0x40 ? PRL_TCP_FIN : 0);
    if (options)
        memcpy(head + l4 + 20, "\1\1\x08\x0a\0\0\0\1\0\0\0\2", 12);
    if (!is_of_key(oddity % headers, l4))
        head[oddity % headers] ^= (uint8_t)fuzz_number(input, 1); /* any header field may differ */
    made->bytes = malloc(bytes);
    assert(made->bytes);
    memcpy(made->bytes, head, headers);
    fuzz_take(input, made->bytes + headers, payload < 16 ? payload : 16);
    for (uint32_t i = 16; i < payload; i++)
        made->bytes[headers + i] = (uint8_t)(i + seq);
    if (prl_packet_parse(made->bytes, bytes, bytes, false, &made->packet) == 0) {
        next_seq[made->flow] = made->packet.seq + made->packet.payload_bytes;
        return true;
    }
    free(made->bytes);
    return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct fuzz_input input = {data, bytes};
    uint32_t next_seq[2] = {0xfffff000, 1};
    uint8_t *kept[SEGMENTS_MAX];
    static struct prl_gro gro;
    uint32_t waiting = 0;

    prl_gro_init(&gro, fuzz_tap);
    added = seen = 0;
    while (added < SEGMENTS_MAX && input.left) {
        struct segment *one = &segment[added];
        uint32_t cut, pieces = 1;
        struct iovec piece[2];

        if (!make(&input, next_seq, one))
            continue;
        kept[added++] = fuzz_exact(one->bytes, one->packet.l3_bytes);
        cut = one->packet.data_offset + (uint32_t)fuzz_number(&input, 1);
        piece[0] = (struct iovec){one->bytes, one->packet.l3_bytes};
        if (cut < one->packet.l3_bytes) {
            piece[0].iov_len = cut;
            piece[pieces++] = (struct iovec){one->bytes + cut, one->packet.l3_bytes - cut};
        }
        prl_gro_add(&gro, one->flow, &one->how, piece, pieces, &one->packet);
        waiting = added - seen;
        assert(waiting == gro.segments && gro.pieces <= PRL_GRO_PIECES_MAX);
        if (fuzz_number(&input, 1) < 8)
            prl_gro_flush(&gro);
    }
    prl_gro_flush(&gro);
    assert(seen == added && !gro.failed);
    for (uint32_t i = 0; i < added; i++) { /* kept to be fed again: as it was, but for the L4 checksum */
        const struct prl_packet *packet = &segment[i].packet;
        uint32_t sum_at = packet->l4_offset + (packet->proto == IPPROTO_TCP ? 16 : 6);

        for (uint32_t at = 0; at < packet->l3_bytes; at++)
            assert(kept[i][at] == segment[i].bytes[at] || at == sum_at || at == sum_at + 1);
        free(kept[i]);
        free(segment[i].bytes);
    }
    return 0;
}
