/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * L3 elision (R15): REPLICATE without the IP header. The addresses and the protocol stand in the flow's key, lengths
 * and checksum follow from the rest; what remains travels in PRL_ELIDED_FIELDS bytes in front of the L4 header:
 *
 *     IPv4   TOS | first byte of flags and fragment offset | identification (16) | TTL
 *     IPv6   version, traffic class, flow label (32)       | hop limit
 *
 * A header that would not come back byte by byte is not elided. Pure functions, no state.
 */
#ifndef PRL_ELIDE_H
#define PRL_ELIDE_H

#ifndef PRL_CFFI
#include <stdint.h>
#endif

#include "packet.h"
#include "prl_abi.h"

#define PRL_ELIDED_FIELDS 5

/* `l3`: the whole L3 header of an incoming packet that prl_packet_parse() accepted as `packet`. Returns the bytes of
 * L3 header that `out` stands for (the element is `out`, then the packet from there on), or 0: send it whole. */
int prl_elide(const uint8_t *l3, const struct prl_packet *packet, const struct prl_flow_key *key,
              uint8_t out[PRL_ELIDED_FIELDS]);

/* Rebuilds the packet from the element's value. Returns its bytes, or -EPROTO: no such packet can have been elided
 * (cut short, fields that cannot be, longer than IP can say or than `capacity`). */
int prl_unelide(const uint8_t *value, uint32_t bytes, const struct prl_flow_key *key, uint8_t *out,
                uint32_t capacity);

#endif /* PRL_ELIDE_H */
