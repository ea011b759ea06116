/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The routes of one family: rows in an array, found by their keys through an index beside it. A row keeps its place as long as it
 * lives, so that a walk from the first to the last misses none that is there all the while; a free row's place is another's.
 *
 *     index:  0 │ row 17 │ row 3 │ 0 …        by the hash of the key (SipHash: a peer chooses prefixes), 0: free
 *     rows:   sets of both columns │ age │ key      20 bytes of IPv4, 32 of IPv6
 */
#ifndef PRL_BGP_ROUTES_H
#define PRL_BGP_ROUTES_H

#include <stdint.h>

#include "bgp/prefix.h"
#include "flow/siphash.h"

#define PRL_BGP_COLUMNS 2

struct prl_bgp_row {
    uint32_t set[PRL_BGP_COLUMNS]; /* numbers of attribute sets; 0: not there. A row of which both are is free */
    uint8_t age;                   /* where both are not equal: since when, more or less (rib.c) */
    uint8_t key[];
};

struct prl_bgp_routes {
    struct prl_siphash_key secret;
    uint8_t *rows;
    uint32_t *index;
    uint32_t index_mask;
    uint32_t row_bytes;
    uint32_t key_bytes;
    uint32_t room;
    uint32_t end; /* behind the last row that was ever used */
    uint32_t free; /* the first free row and 1; its key begins with the next */
    uint32_t count;
};

/* 0, or what the kernel says that has no randomness. An empty one takes no memory. */
int prl_bgp_routes_init(struct prl_bgp_routes *routes, uint32_t family);
void prl_bgp_routes_destroy(struct prl_bgp_routes *routes);
struct prl_bgp_row *prl_bgp_routes_row(const struct prl_bgp_routes *routes, uint32_t row); /* row < end */
struct prl_bgp_row *prl_bgp_routes_find(const struct prl_bgp_routes *routes, const struct prl_bgp_prefix *prefix);
/* The row of a prefix that is not there yet; the caller gives it a set at once. NULL: no memory. Rows move: pointers to others are void. */
struct prl_bgp_row *prl_bgp_routes_add(struct prl_bgp_routes *routes, const struct prl_bgp_prefix *prefix);
/* Frees a row whose sets are 0. */
void prl_bgp_routes_remove(struct prl_bgp_routes *routes, struct prl_bgp_row *row);
/* Gives the memory back where no row is left. */
void prl_bgp_routes_trim(struct prl_bgp_routes *routes);
uint64_t prl_bgp_routes_bytes(const struct prl_bgp_routes *routes); /* of memory */

#endif /* PRL_BGP_ROUTES_H */
