/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * AFI/SAFI, and prefixes as they stand in NLRI (RFC 4271 section 4.3, RFC 4760 section 5, RFC 7911 section 3).
 *
 *     key:   path identifier (4) │ length in bits (1) │ address (4 or 16)
 *
 * A key is the NLRI with path identifier, its address filled up with zeros: bits beyond the length mean nothing, so they are 0, and
 * without ADD-PATH the identifier is. Two routes are the same where their keys are.
 */
#ifndef PRL_BGP_PREFIX_H
#define PRL_BGP_PREFIX_H

#ifndef PRL_CFFI
#include <stdbool.h>
#include <stdint.h>
#endif

enum prl_bgp_family {
    PRL_BGP_IPV4_UNICAST,
    PRL_BGP_IPV6_UNICAST,
    PRL_BGP_IPV4_MULTICAST,
    PRL_BGP_IPV6_MULTICAST,
    PRL_BGP_FAMILIES, /* how many, and: none of them */
};

#define PRL_BGP_PATH_BYTES 4
#define PRL_BGP_ADDRESS_MAX 16

struct prl_bgp_prefix {
    uint8_t key[PRL_BGP_PATH_BYTES + 1 + PRL_BGP_ADDRESS_MAX];
};

uint32_t prl_bgp_family(uint32_t afi, uint32_t safi); /* PRL_BGP_FAMILIES when it is none of them */
uint32_t prl_bgp_afi(uint32_t family);
uint32_t prl_bgp_safi(uint32_t family);
uint32_t prl_bgp_key_bytes(uint32_t family); /* of a prefix' key, how many are used */

/* Takes the NLRI at `at`, of which `bytes` are there. Its length, or -EBADMSG: it ends too early, or is longer than an address. */
int prl_bgp_prefix_take(uint32_t family, bool paths, const uint8_t *at, uint32_t bytes,
                        struct prl_bgp_prefix *prefix);
/* The length of the NLRI of a key. */
uint32_t prl_bgp_nlri_bytes(bool paths, const uint8_t *key);
/* Writes it; the address is of no more octets than its length in bits asks for. Returns how many bytes. */
uint32_t prl_bgp_prefix_put(bool paths, const uint8_t *key, uint8_t *into);

#endif /* PRL_BGP_PREFIX_H */
