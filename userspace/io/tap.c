/* SPDX-License-Identifier: BSD-2-Clause */
#include "io/tap.h"

#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <netinet/in.h>
#include <string.h>

/* Ethernet header for the inject TAP, with the flow's VLAN tags. */
static uint32_t inject_header(const struct prl_reinject *how, uint8_t version, uint8_t *out)
{
    struct prl_inject_eth eth = {
        .tag = {PRL_INJECT_TAG_0, PRL_INJECT_TAG_1, PRL_INJECT_TAG_2, PRL_INJECT_TAG_3},
        .lif_hi = (uint8_t)(how->lif >> 8),
        .lif_lo = (uint8_t)how->lif,
    };
    uint16_t type = htons(version == 4 ? ETH_P_IP : ETH_P_IPV6);
    uint16_t vids[PRL_VLANS_MAX] = {(uint16_t)(how->vlans >> 12 & 0xfff), (uint16_t)(how->vlans & 0xfff)};
    uint32_t at = sizeof(eth) - sizeof(eth.proto);

    memcpy(out, &eth, at);
    for (uint32_t i = 0; i < PRL_VLANS_MAX; i++) {
        uint16_t tag[2] = {htons(i == 0 ? ETH_P_8021AD : ETH_P_8021Q), htons(vids[i])};

        if (vids[i] == 0)
            continue;
        memcpy(out + at, tag, sizeof(tag));
        at += sizeof(tag);
    }
    memcpy(out + at, &type, sizeof(type));
    return at + sizeof(type);
}

int prl_tap_reinject(const struct prl_tap *tap, const struct prl_reinject *how, struct iovec *piece,
                     uint32_t pieces, const struct prl_packet *packet)
{
    struct virtio_net_hdr vnet = {.flags = 0, .gso_type = VIRTIO_NET_HDR_GSO_NONE};
    uint8_t header[sizeof(struct prl_inject_eth) + 4 * PRL_VLANS_MAX];
    struct iovec whole[PRL_TAP_PIECES_MAX + 2];
    uint32_t header_bytes = inject_header(how, packet->version, header);
    bool tcp = packet->proto == IPPROTO_TCP;

    if (how->checked && (tcp || packet->proto == IPPROTO_UDP)) {
        prl_packet_set_partial(piece[0].iov_base, packet);
        vnet.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
        vnet.csum_start = (uint16_t)(header_bytes + packet->l4_offset);
        vnet.csum_offset = tcp ? 16 : 6;
        if (tcp && how->mss && packet->payload_bytes > how->mss) {
            vnet.gso_type = packet->version == 4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6;
            vnet.gso_size = (uint16_t)how->mss;
            vnet.hdr_len = (uint16_t)(header_bytes + packet->data_offset);
        }
    }
    whole[0] = (struct iovec){.iov_base = &vnet, .iov_len = sizeof(vnet)};
    whole[1] = (struct iovec){.iov_base = header, .iov_len = header_bytes};
    memcpy(whole + 2, piece, pieces * sizeof(*piece));
    return tap->write(tap->host, whole, (int)pieces + 2);
}
