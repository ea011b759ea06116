/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Packets as bytes: parsing, checksums, and the few packets that prl makes itself. Nothing here keeps state.
 * A packet may lie in several pieces (generic mode: whole TSO packets over 4 KiB frames); all its headers are in
 * the first piece.
 */
#ifndef PRL_TCP_PACKET_H
#define PRL_TCP_PACKET_H

#ifdef PRL_CFFI
struct iovec {
    void *iov_base;
    size_t iov_len;
};
#else
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>
#endif

#include "tcp/md5sig.h"
#include "prl_abi.h"

#define PRL_PACKET_PIECES_MAX 24
/* Ethernet with two tags, IPv6 with options, TCP with options: no crafted packet is longer. */
#define PRL_CRAFT_MAX 256

struct prl_packet {
    uint16_t l2_bytes;      /* Ethernet header and VLAN tags; 0 when the bytes start at L3 */
    uint16_t l4_offset;     /* from the start of L3 */
    uint16_t data_offset;   /* payload, from the start of L3 */
    uint8_t version;        /* 4 or 6 */
    uint8_t proto;          /* IPPROTO_TCP, IPPROTO_UDP; anything else was not parsed further */
    uint32_t l3_bytes;      /* from the L3 header to the packet's end, link padding excluded */
    uint32_t payload_bytes; /* L4 payload */
    uint32_t vlans;         /* as in struct prl_flow_key */
    /* TCP only */
    uint32_t seq, ack;
    uint16_t window; /* raw field */
    uint8_t tcp_flags;
    uint16_t urgent; /* raw field, of a segment with PRL_TCP_URG */
    uint16_t stamps_offset; /* TSval and TSecr, from the start of L3; 0 = none */
    uint16_t md5_offset; /* signature (RFC 2385), likewise */
    bool has_timestamps;
    uint32_t tsval, tsecr;
};

#define PRL_TCP_FIN 0x01
#define PRL_TCP_SYN 0x02
#define PRL_TCP_RST 0x04
#define PRL_TCP_PSH 0x08
#define PRL_TCP_ACK 0x10
#define PRL_TCP_URG 0x20

/* Parses `have` contiguous bytes of a packet of `total` bytes. ethernet: an Ethernet header is in front.
 * 0, or -EBADMSG: truncated or inconsistent (counted by the caller, never reinjected). */
int prl_packet_parse(const uint8_t *bytes, uint32_t have, uint32_t total, bool ethernet,
                     struct prl_packet *packet);

/* Addresses, and ports where there are any, of a parsed packet; `incoming`: destination is local. */
void prl_packet_key(const uint8_t *l3, const struct prl_packet *packet, bool incoming, uint16_t lif,
                    struct prl_flow_key *key);
/* The key of the flow that an incoming packet belongs to, all of which lies at `l3`: its own, or that of the packet that an ICMP
 * error quotes (R1). 0, or -EBADMSG: it belongs to none. */
int prl_packet_flow_key(const uint8_t *l3, const struct prl_packet *packet, uint16_t lif,
                        struct prl_flow_key *key);
bool prl_packet_is_icmp(const struct prl_packet *packet);

enum prl_checksum {
    PRL_CHECKSUM_BAD = 0,
    PRL_CHECKSUM_FULL = 1,
    PRL_CHECKSUM_PARTIAL = 2, /* the field holds the pseudo-header sum: the sender left the rest to its NIC */
};
/* Judges the L4 checksum of a TCP or UDP packet. piece[0] starts at L3. */
enum prl_checksum prl_packet_checksum(const struct iovec *piece, uint32_t pieces, const struct prl_packet *packet);
/* Sum of the payload's 64-bit words in ones' complement, the same however the packet is cut. Same pieces. */
uint64_t prl_packet_payload_sum(const struct iovec *piece, uint32_t pieces, const struct prl_packet *packet);
/* Judges by that sum and the headers alone: who needs both reads the payload once. */
enum prl_checksum prl_packet_checksum_by(const uint8_t *l3, const struct prl_packet *packet, uint64_t payload_sum);
/* The Internet checksum (RFC 1071) of these bytes, to be stored as it is. */
uint16_t prl_internet_checksum(const void *at, uint32_t bytes);
/* Writes packet->l3_bytes into the L3 header, and the IPv4 header's checksum. */
void prl_packet_set_length(uint8_t *l3, const struct prl_packet *packet);
/* Replaces the acknowledgement number and the window; checksum and signature are then the caller's affair. */
void prl_packet_set_ack(uint8_t *l3, const struct prl_packet *packet, uint32_t ack, uint16_t window);
void prl_packet_set_stamps(uint8_t *l3, const struct prl_packet *packet, uint32_t tsval, uint32_t tsecr);
/* Puts the pseudo-header sum into the L4 checksum field, for VIRTIO_NET_HDR_F_NEEDS_CSUM. */
void prl_packet_set_partial(uint8_t *l3, const struct prl_packet *packet);

/* A segment without payload. Writes from the L3 header on, with full checksums; returns its bytes. */
struct prl_craft {
    const struct prl_flow_key *key;
    bool from_peer; /* remote → local, else local → remote */
    uint32_t seq, ack;
    uint16_t window; /* raw field */
    uint8_t tcp_flags;
    bool has_timestamps;
    uint32_t tsval, tsecr;
    const struct prl_md5_key *md5; /* NULL or without bytes: not signed */
};
uint32_t prl_packet_craft(const struct prl_craft *craft, uint8_t out[PRL_CRAFT_MAX]);

/* Claims of a service address (L7), whole Ethernet frames to all; each returns its bytes. trailer: struct prl_claim or
 * prl_claim_token; of 0 bytes to defend an address that is ours. */
struct prl_trailer {
    uint32_t bytes; /* a multiple of 8 */
    uint8_t data[32];
};
uint32_t prl_packet_claim_arp(const uint8_t addr[16], const uint8_t mac[6], bool reply,
                              const struct prl_trailer *trailer, uint8_t out[PRL_CRAFT_MAX]);
uint32_t prl_packet_claim_na(const uint8_t addr[16], const uint8_t mac[6], const struct prl_trailer *trailer,
                             uint8_t out[PRL_CRAFT_MAX]);
/* struct prl_claim of what was MACed. */
void prl_packet_trailer(const struct prl_claimed *claimed, uint64_t mac, struct prl_trailer *trailer);
void prl_packet_trailer_token(const uint8_t token[PRL_TOKEN_BYTES], struct prl_trailer *trailer);
/* ICMPv6 echo request to all nodes, for who knows no neighbour (RFC 4443, 4.1). */
uint32_t prl_packet_ask_all(const uint8_t own[16], const uint8_t mac[6], uint8_t out[PRL_CRAFT_MAX]);
/* ARP request or neighbour solicitation for a neighbour's own address, to its MAC address, or to all (NULL): its answer is
 * evidence (L6). */
uint32_t prl_packet_ask(const uint8_t own[16], const uint8_t mac[6], const uint8_t target[16],
                        const uint8_t target_mac[6], uint8_t out[PRL_CRAFT_MAX]);

bool prl_addr_is_v4(const uint8_t addr[16]);
bool prl_key_is_unconnected(const struct prl_flow_key *key); /* a UDP flow with any number of peers */

#endif /* PRL_TCP_PACKET_H */
