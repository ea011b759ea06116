/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Attribute sets: what is said of a route, each content kept once and known by a number. The content is a set's one spelling:
 *
 *     form (1) │ with form REACH: length of the next hop (1), next hop │ attributes, by type, of each type the first
 *
 * Of an attribute the reserved bits of its flags are 0, and its length has two octets only where one does not do. MP_REACH_NLRI and
 * MP_UNREACH_NLRI are no part of it, and a NEXT_HOP only of the form that stands in the fields of IPv4 itself.
 *
 * A set is referred to by the columns of routes; with its last reference it goes, and its number is another's.
 */
#ifndef PRL_BGP_SETS_H
#define PRL_BGP_SETS_H

#include <stdbool.h>
#include <stdint.h>

#include "bgp/message.h"
#include "flow/siphash.h"

enum prl_bgp_form {
    PRL_BGP_FORM_FIELDS, /* the routes stand in the fields of IPv4 */
    PRL_BGP_FORM_REACH,  /* in MP_REACH_NLRI */
};

#define PRL_BGP_SET_MAX (1 + 1 + 255 + PRL_BGP_EXTENDED_MAX)

struct prl_bgp_set;

struct prl_bgp_sets {
    struct prl_siphash_key key;
    struct prl_bgp_set **at; /* by number; 0 is none. One that is not used is NULL */
    uint32_t *index;         /* numbers by hash, open addressing; 0: free */
    uint32_t *free;          /* numbers that were used */
    uint32_t room;           /* of `at` and of `free` */
    uint32_t index_mask;
    uint32_t fresh; /* numbers from here on have never been used */
    uint32_t freed;
    uint64_t bytes; /* of memory, for the contents of all */
    uint64_t bytes_max;
};

/* 0, -ENOMEM, or what the kernel says that has no randomness. */
int prl_bgp_sets_init(struct prl_bgp_sets *sets, uint64_t bytes_max);
void prl_bgp_sets_destroy(struct prl_bgp_sets *sets);
uint32_t prl_bgp_sets_used(const struct prl_bgp_sets *sets);
uint64_t prl_bgp_sets_memory(const struct prl_bgp_sets *sets); /* bytes, with what finds them */

/* Writes the spelling of the set of `update` in this form into `into` (PRL_BGP_SET_MAX). Returns its length. The list of attributes
 * is one that prl_bgp_update_parse() has found whole. */
uint32_t prl_bgp_set_spell(const struct prl_bgp_update *update, enum prl_bgp_form form, uint8_t *into);

/* Puts the number of the set of this content, which has one more reference then, into `number`. 0, -ENOMEM, or -ENOSPC: bytes_max. */
int prl_bgp_sets_take(struct prl_bgp_sets *sets, const uint8_t *content, uint32_t bytes, uint32_t *number);
void prl_bgp_sets_hold(struct prl_bgp_sets *sets, uint32_t number);
void prl_bgp_sets_drop(struct prl_bgp_sets *sets, uint32_t number);
struct prl_bgp_span prl_bgp_sets_content(const struct prl_bgp_sets *sets, uint32_t number);

#endif /* PRL_BGP_SETS_H */
