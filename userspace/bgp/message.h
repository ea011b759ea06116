/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Messages in a stream of bytes, and the parts of an UPDATE (RFC 4271 section 4, RFC 4760, RFC 8654). Nothing is copied: a
 * span is a piece of the message that it was found in, and lives as long.
 */
#ifndef PRL_BGP_MESSAGE_H
#define PRL_BGP_MESSAGE_H

#ifndef PRL_CFFI
#include <stdbool.h>
#include <stdint.h>
#endif

#define PRL_BGP_HEADER 19
#define PRL_BGP_MESSAGE_MAX 4096
#define PRL_BGP_EXTENDED_MAX 65535 /* RFC 8654 */

enum prl_bgp_type {
    PRL_BGP_OPEN = 1,
    PRL_BGP_UPDATE = 2,
    PRL_BGP_NOTIFICATION = 3,
    PRL_BGP_KEEPALIVE = 4,
    PRL_BGP_ROUTE_REFRESH = 5,
};

/* Attributes that are not like the others: they have routes in them, or concern only those that stand outside. */
enum prl_bgp_attribute {
    PRL_BGP_NEXT_HOP = 3,
    PRL_BGP_MP_REACH = 14,
    PRL_BGP_MP_UNREACH = 15,
};

#define PRL_BGP_ATTRIBUTE_EXTENDED 0x10 /* its length has two octets */

struct prl_bgp_span {
    const uint8_t *at;
    uint32_t bytes;
};

struct prl_bgp_update {
    struct prl_bgp_span withdrawn; /* IPv4 unicast, in fields of its own */
    struct prl_bgp_span attributes;
    struct prl_bgp_span announced;
    /* MP_REACH_NLRI and MP_UNREACH_NLRI. The family is PRL_BGP_FAMILIES where there is none, or one that is not known. */
    uint32_t reach_family;
    struct prl_bgp_span next_hop;
    struct prl_bgp_span reached;
    uint32_t unreach_family;
    struct prl_bgp_span unreached;
    uint32_t families_unknown;
    bool
        cut; /* the list of attributes ends inside one: the routes that were found are withdrawn (RFC 7606 section 4) */
    bool end_of_rib; /* of `unreach_family`, or of IPv4 unicast where there is none (RFC 4724 section 2) */
};

/* One attribute off the front of a list. Its length with its header, or -EBADMSG: it reaches beyond the list. */
struct prl_bgp_attr {
    uint8_t flags;
    uint8_t type;
    struct prl_bgp_span value;
};

/* The length of the message that `bytes` begin with, 0: not enough of it to say or to have it whole, or -1 or -2: that is no
 * message, by the subcode of the NOTIFICATION that says so (RFC 4271 section 6.1). With `extended`, UPDATE, NOTIFICATION,
 * ROUTE-REFRESH and unknown ones may be longer than PRL_BGP_MESSAGE_MAX. Which type it is of is not looked at otherwise. */
int prl_bgp_frame(const uint8_t *at, uint32_t bytes, bool extended);

int prl_bgp_attr_take(const uint8_t *at, uint32_t bytes, struct prl_bgp_attr *attr);

/* 0, or -EBADMSG: its routes cannot be located, or it is no UPDATE. `message` is whole, as prl_bgp_frame() has measured it. */
int prl_bgp_update_parse(const uint8_t *message, uint32_t bytes, struct prl_bgp_update *update);

/* Takes the link-local address out of the next hop of MP_REACH_NLRI, where a global one stands before it (RFC 2545 section 3): it
 * is the node's own, which the other node does not have. In place; the new length of the message, which is whole. */
uint32_t prl_bgp_cut_link_local(uint8_t *message, uint32_t bytes);

#endif /* PRL_BGP_MESSAGE_H */
