/* SPDX-License-Identifier: BSD-2-Clause */
/* Routes into UPDATEs: as many into one as fit, MP_REACH_NLRI first (RFC 7606 section 5.1). */
#ifndef PRL_BGP_PACK_H
#define PRL_BGP_PACK_H

#include <stdbool.h>
#include <stdint.h>

#include "bgp/sets.h"

/* What is said of routes of one family. */
struct prl_bgp_saying {
    uint32_t family;
    bool paths;
    bool withdrawn;
    enum prl_bgp_form form;
    struct prl_bgp_span next_hop;   /* of the form REACH */
    struct prl_bgp_span attributes; /* none of withdrawn routes */
};

/* That routes have the set of this content, or, with `withdrawn`, no longer have it: in the form in which they were announced. */
struct prl_bgp_saying prl_bgp_saying(uint32_t family, bool paths, struct prl_bgp_span content, bool withdrawn);
/* How long an UPDATE is with this route alone. */
uint32_t prl_bgp_pack_alone(const struct prl_bgp_saying *saying, const uint8_t *key);
/* Writes one UPDATE of at most `message_max` bytes about the first of `count` keys, each of which would have room alone. Returns its
 * length, and in `packed` how many keys it is about. */
uint32_t prl_bgp_pack(const struct prl_bgp_saying *saying, const uint8_t *const *keys, uint32_t count,
                      uint32_t message_max, uint8_t *into, uint32_t *packed);

#endif /* PRL_BGP_PACK_H */
