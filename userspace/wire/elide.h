/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * L3 elision (R15): REPLICATE without the IP header. The addresses and the protocol stand in the flow's key, lengths
 * and checksum follow from the rest; what remains travels in PRL_ELIDED_FIELDS bytes in front of the L4 header:
 *
 *     IPv4   TOS (8) | TTL (8) | identification (16) | flags and fragment offset (16)       | zero (16)
 *     IPv6   version, traffic class, flow label (32)                        | hop limit (8) | zero (24)
 *
 * A header that would not come back byte by byte is not elided. So many fields that the receiver can put the header
 * where they, and the message around them, have been: the packet itself is never moved. Pure functions, no state.
 */
#ifndef PRL_WIRE_ELIDE_H
#define PRL_WIRE_ELIDE_H

#ifndef PRL_CFFI
#include <stdint.h>
#endif

#include "tcp/packet.h"
#include "prl_abi.h"

#define PRL_ELIDED_FIELDS 8
/* What stands in front of the value in its message, and may be overwritten: headers and fixed part of REPLICATE. */
#define PRL_UNELIDE_ROOM 32

/* `l3`: the whole L3 header of an incoming packet that prl_packet_parse() accepted as `packet`. Returns the bytes of
 * L3 header that `out` stands for (the element is `out`, then the packet from there on), or 0: send it whole. */
int prl_elide(const uint8_t *l3, const struct prl_packet *packet, const struct prl_flow_key *key,
              uint8_t out[PRL_ELIDED_FIELDS]);

/* Rebuilds the L3 header of the element's value in place, so that it ends where the L4 header begins; this overwrites
 * up to PRL_UNELIDE_ROOM bytes in front of `value`. Returns the header's bytes: the packet begins at
 * value + PRL_ELIDED_FIELDS less these. Or -EPROTO, nothing changed: no such packet can have been elided. */
int prl_unelide(uint8_t *value, uint32_t bytes, const struct prl_flow_key *key);

#endif /* PRL_WIRE_ELIDE_H */
