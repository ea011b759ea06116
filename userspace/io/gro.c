/* SPDX-License-Identifier: BSD-2-Clause */
#include "io/gro.h"

#include <netinet/in.h>
#include <string.h>

void prl_gro_init(struct prl_gro *gro, struct prl_tap tap)
{
    memset(gro, 0, sizeof(*gro));
    gro->tap = tap;
}

static const uint8_t *header_of(const struct prl_gro *gro)
{
    return gro->piece[0].iov_base;
}

/* Everything that must be the same, down to TCP's reserved bits (RFC 9768 uses one); the caller knows that addresses and
 * ports are. */
static bool same_headers(const uint8_t *a, const uint8_t *b, const struct prl_packet *packet)
{
    uint32_t tcp = packet->l4_offset, options = tcp + 20;

    if (packet->version == 4) {
        if (tcp != 20 || a[0] != b[0] || a[1] != b[1] || a[6] != b[6] || a[8] != b[8])
            return false; /* options, TOS, DF, TTL */
    } else if (memcmp(a, b, 4) != 0 || a[7] != b[7] || memcmp(a + 40, b + 40, tcp - 40) != 0) {
        return false; /* class and label, hop limit, extension headers */
    }
    return a[tcp + 12] == b[tcp + 12] && memcmp(a + options, b + options, packet->data_offset - options) == 0;
}

static bool fits(const struct prl_gro *gro, uint32_t flow, const struct prl_reinject *how,
                 const struct iovec *piece, uint32_t pieces, const struct prl_packet *packet)
{
    const struct prl_packet *first = &gro->packet;

    return gro->segments && gro->flow == flow && packet->proto == IPPROTO_TCP && first->proto == IPPROTO_TCP &&
           how->checked && gro->how.checked && how->lif == gro->how.lif && packet->version == first->version &&
           packet->data_offset <= PRL_GRO_HEADER_MAX && packet->l4_offset == first->l4_offset &&
           packet->data_offset == first->data_offset && packet->seq == first->seq + first->payload_bytes &&
           packet->ack == first->ack && packet->window == first->window &&
           (packet->tcp_flags & ~PRL_TCP_PSH) == PRL_TCP_ACK && first->tcp_flags == PRL_TCP_ACK &&
           first->payload_bytes && packet->payload_bytes && packet->payload_bytes <= gro->segment_bytes &&
           first->payload_bytes % gro->segment_bytes == 0 &&
           first->l3_bytes + packet->payload_bytes <= PRL_GRO_BYTES_MAX &&
           gro->pieces + pieces <= PRL_GRO_PIECES_MAX && same_headers(header_of(gro), piece[0].iov_base, packet);
}

static void gather(struct prl_gro *gro, const struct iovec *piece, uint32_t pieces, uint32_t skip)
{
    for (uint32_t i = 0; i < pieces; i++, skip = 0) {
        if (piece[i].iov_len == skip)
            continue;
        gro->piece[gro->pieces].iov_base = (uint8_t *)piece[i].iov_base + skip;
        gro->piece[gro->pieces++].iov_len = piece[i].iov_len - skip;
    }
    gro->segments++;
}

void prl_gro_add(struct prl_gro *gro, uint32_t flow, const struct prl_reinject *how, const struct iovec *piece,
                 uint32_t pieces, const struct prl_packet *packet)
{
    if (fits(gro, flow, how, piece, pieces, packet)) {
        gather(gro, piece, pieces, packet->data_offset);
        gro->packet.payload_bytes += packet->payload_bytes;
        gro->packet.l3_bytes += packet->payload_bytes;
        gro->packet.tcp_flags |= packet->tcp_flags;
        return;
    }
    prl_gro_flush(gro);
    gro->flow = flow;
    gro->how = *how;
    gro->packet = *packet;
    gro->segment_bytes = packet->payload_bytes;
    gather(gro, piece, pieces, 0);
}

/* The first header speaks for all of them, but for length, PSH, and the header's own checksum. */
static int write_large(struct prl_gro *gro)
{
    uint32_t header_bytes = gro->packet.data_offset;
    struct iovec whole[PRL_TAP_PIECES_MAX];
    uint8_t header[PRL_GRO_HEADER_MAX];

    memcpy(header, gro->piece[0].iov_base, header_bytes);
    prl_packet_set_length(header, &gro->packet);
    header[gro->packet.l4_offset + 13] = gro->packet.tcp_flags;
    gro->how.mss = gro->segment_bytes;
    memcpy(whole + 1, gro->piece, gro->pieces * sizeof(*whole));
    whole[0].iov_base = header;
    whole[0].iov_len = header_bytes;
    whole[1].iov_base = (uint8_t *)whole[1].iov_base + header_bytes;
    whole[1].iov_len -= header_bytes;
    return prl_tap_reinject(&gro->tap, &gro->how, whole, gro->pieces + 1, &gro->packet);
}

void prl_gro_flush(struct prl_gro *gro)
{
    int err;

    if (gro->segments == 0)
        return;
    if (gro->segments > 1)
        err = write_large(gro);
    else
        err = prl_tap_reinject(&gro->tap, &gro->how, gro->piece, gro->pieces, &gro->packet);
    if (err)
        gro->failed += gro->segments;
    gro->writes++;
    gro->segments = 0;
    gro->pieces = 0;
}
