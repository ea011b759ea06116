/* SPDX-License-Identifier: BSD-2-Clause */
#include "bgp/pack.h"

#include <string.h>

#include "bgp/prefix.h"

#define OPTIONAL 0x80 /* MP_REACH_NLRI and MP_UNREACH_NLRI are optional and not transitive (RFC 4760) */
#define LENGTHS 4     /* of the withdrawn routes, and of the attributes */

static uint8_t *put16(uint8_t *at, uint32_t value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
    return at + 2;
}

struct prl_bgp_saying prl_bgp_saying(uint32_t family, bool paths, struct prl_bgp_span content, bool withdrawn)
{
    struct prl_bgp_saying saying = {.family = family, .paths = paths, .withdrawn = withdrawn};
    uint32_t head = 1;

    saying.form = (enum prl_bgp_form)content.at[0];
    if (withdrawn)
        return saying;
    if (saying.form == PRL_BGP_FORM_REACH) {
        saying.next_hop = (struct prl_bgp_span){content.at + 2, content.at[1]};
        head = 2 + saying.next_hop.bytes;
    }
    saying.attributes = (struct prl_bgp_span){content.at + head, content.bytes - head};
    return saying;
}

/* The value of MP_REACH_NLRI or MP_UNREACH_NLRI with so many bytes of routes. */
static uint32_t value_bytes(const struct prl_bgp_saying *saying, uint32_t nlri_bytes)
{
    return (saying->withdrawn ? 3 : 5 + saying->next_hop.bytes) + nlri_bytes;
}

static uint32_t attribute_head(uint32_t value)
{
    return value > UINT8_MAX ? 4 : 3;
}

static uint32_t message_bytes(const struct prl_bgp_saying *saying, uint32_t nlri_bytes)
{
    uint32_t routes = nlri_bytes;

    if (saying->form == PRL_BGP_FORM_REACH) {
        routes = value_bytes(saying, nlri_bytes);
        routes += attribute_head(routes);
    }
    return PRL_BGP_HEADER + LENGTHS + saying->attributes.bytes + routes;
}

uint32_t prl_bgp_pack_alone(const struct prl_bgp_saying *saying, const uint8_t *key)
{
    return message_bytes(saying, prl_bgp_nlri_bytes(saying->paths, key));
}

static uint8_t *put_routes(uint8_t *at, const struct prl_bgp_saying *saying, const uint8_t *const *keys,
                           uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        at += prl_bgp_prefix_put(saying->paths, keys[i], at);
    return at;
}

/* The head of MP_REACH_NLRI or MP_UNREACH_NLRI, up to the routes. */
static uint8_t *put_head(uint8_t *at, const struct prl_bgp_saying *saying, uint32_t nlri_bytes)
{
    uint32_t value = value_bytes(saying, nlri_bytes);

    *at++ = OPTIONAL | (value > UINT8_MAX ? PRL_BGP_ATTRIBUTE_EXTENDED : 0);
    *at++ = saying->withdrawn ? PRL_BGP_MP_UNREACH : PRL_BGP_MP_REACH;
    if (value > UINT8_MAX)
        *at++ = (uint8_t)(value >> 8);
    *at++ = (uint8_t)value;
    at = put16(at, prl_bgp_afi(saying->family));
    *at++ = (uint8_t)prl_bgp_safi(saying->family);
    if (saying->withdrawn)
        return at;
    *at++ = (uint8_t)saying->next_hop.bytes;
    memcpy(at, saying->next_hop.at, saying->next_hop.bytes);
    at += saying->next_hop.bytes;
    *at++ = 0; /* reserved */
    return at;
}

uint32_t prl_bgp_pack(const struct prl_bgp_saying *saying, const uint8_t *const *keys, uint32_t count,
                      uint32_t message_max, uint8_t *into, uint32_t *packed)
{
    bool fields = saying->form == PRL_BGP_FORM_FIELDS;
    uint32_t nlri = 0, n, bytes;
    uint8_t *at = into;

    for (n = 0; n < count; n++) {
        uint32_t more = nlri + prl_bgp_nlri_bytes(saying->paths, keys[n]);

        if (message_bytes(saying, more) > message_max)
            break;
        nlri = more;
    }
    bytes = message_bytes(saying, nlri);
    memset(at, 0xff, PRL_BGP_HEADER - 3);
    at = put16(at + PRL_BGP_HEADER - 3, bytes);
    *at++ = PRL_BGP_UPDATE;
    if (fields && saying->withdrawn) {
        at = put16(at, nlri);
        at = put_routes(at, saying, keys, n);
        put16(at, 0);
    } else {
        at = put16(at, 0);
        at = put16(at, bytes - PRL_BGP_HEADER - LENGTHS - (fields ? nlri : 0));
        if (!fields)
            at = put_routes(put_head(at, saying, nlri), saying, keys, n);
        if (saying->attributes.bytes)
            memcpy(at, saying->attributes.at, saying->attributes.bytes);
        at += saying->attributes.bytes;
        if (fields)
            put_routes(at, saying, keys, n);
    }
    *packed = n;
    return bytes;
}
