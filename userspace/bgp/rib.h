/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The routes of one direction of a session: what its source says, and what was sent on (docs/bgp-front.md).
 *
 *     UPDATE of the source ── apply ──▶ SOURCE ── difference ──▶ UPDATEs, SENT
 *                                       each column ── walk ──▶ UPDATEs: for a node that joins, for a ROUTE-REFRESH
 *
 * A RIB owns its memory; messages are only read while a call lasts, and what a call writes goes into its caller's buffer. The same calls
 * write the same bytes. Nothing is shared between two RIBs; one is used by one thread at a time.
 */
#ifndef PRL_BGP_RIB_H
#define PRL_BGP_RIB_H

#ifndef PRL_CFFI
#include <stdbool.h>
#include <stdint.h>
#endif

#include "bgp/prefix.h"

enum prl_bgp_column {
    PRL_BGP_SOURCE,
    PRL_BGP_SENT,
};

#define PRL_BGP_ROUTES_MAX \
    100000000u /* of one RIB, whatever `routes_max` asks for: row numbers stay far from 32 bits */
#define PRL_BGP_LOOK_MAX 65536u /* rows that one call of difference or walk looks at, about */
#define PRL_BGP_AS_WITHDRAWN 1

struct prl_bgp_limits {
    uint32_t routes_max;     /* rows, of all families: a route that only one column has takes one, too */
    uint32_t paths;          /* families, a bit for each, in which NLRI have path identifiers (RFC 7911) */
    uint64_t attributes_max; /* bytes, of all attribute sets */
};

/* What an UPDATE has said. */
struct prl_bgp_applied {
    uint32_t withdrawn;  /* routes that it withdraws, whether or not they were there */
    uint32_t announced;
    uint32_t end_of_rib; /* the family, or PRL_BGP_FAMILIES */
    uint32_t families_unknown;
};

/* How far a walk has come: at the first row of a family at its beginning, at that of the next at its end. */
struct prl_bgp_place {
    uint32_t family;
    uint32_t row;
};

struct prl_bgp_rib_status {
    uint32_t source[PRL_BGP_FAMILIES]; /* routes */
    uint32_t sent[PRL_BGP_FAMILIES];
    uint32_t differing; /* routes of which SOURCE and SENT are not equal */
    uint32_t lasting;   /* of these, those of which nothing has been said since before the last but one age */
    uint32_t sets;      /* different sets of attributes */
    uint32_t incomplete; /* 1: a limit was reached, or memory was */
    uint64_t attribute_bytes;
    uint64_t bytes; /* of memory, about, with those */
};

struct prl_bgp_rib;

/* 0, -ENOMEM, -EINVAL: the limits make no sense; or what the kernel says that has no randomness. */
int prl_bgp_rib_open(struct prl_bgp_rib **rib, const struct prl_bgp_limits *limits);
void prl_bgp_rib_close(struct prl_bgp_rib *rib); /* NULL is fine */

/*
 * Takes an UPDATE, whole, into the columns of which a bit is set (1 << column). 0; PRL_BGP_AS_WITHDRAWN: its attributes cannot be told
 * apart, so that its routes, as far as they could be located, count as withdrawn (RFC 7606 section 4); -EBADMSG: its routes cannot
 * be located, nothing has changed; -ENOSPC: a limit is reached; -ENOMEM. After the last two the RIB is incomplete: that, difference and
 * walk then return -ESTALE until both columns have been cleared.
 */
int prl_bgp_rib_apply(struct prl_bgp_rib *rib, uint32_t columns, const uint8_t *message, uint32_t bytes,
                      struct prl_bgp_applied *applied);

/* Empties columns (a bit for each). Both: what was lost counts no longer. */
void prl_bgp_rib_clear(struct prl_bgp_rib *rib, uint32_t columns);

/*
 * Writes UPDATEs, each of at most `message_max` bytes, that make SENT into SOURCE, and counts them as sent. Returns how many bytes; more is to
 * be said as long as `differing` is not 0, also after a call that wrote nothing. -EMSGSIZE: the next route does not fit into such a message;
 * -EINVAL: no room for one message, or no length of one; -ESTALE.
 */
int64_t prl_bgp_rib_difference(struct prl_bgp_rib *rib, uint32_t message_max, uint8_t *into, uint32_t room);

/* Writes a column from `place` on, of one family at most, and moves that. As the difference otherwise; calls of apply may come between. A column
 * that is walked to its end has every route as it is, provided whoever reads has all UPDATEs that were applied meanwhile, each after what was
 * written before it. */
int64_t prl_bgp_rib_walk(struct prl_bgp_rib *rib, uint32_t column, struct prl_bgp_place *place,
                         uint32_t message_max, uint8_t *into, uint32_t room);

/* A while has passed: a new age begins. What differs since before the age that ends now is lasting from here on. */
void prl_bgp_rib_age(struct prl_bgp_rib *rib);

void prl_bgp_rib_status(const struct prl_bgp_rib *rib, struct prl_bgp_rib_status *status);

#endif /* PRL_BGP_RIB_H */
