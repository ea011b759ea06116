/* SPDX-License-Identifier: BSD-2-Clause */
/* Frames by which a node tells the LAN where an address is, defends one, and asks whether anybody is there (L6, L7). */
#ifndef PRL_NODE_ANNOUNCE_H
#define PRL_NODE_ANNOUNCE_H

#include <stdbool.h>
#include <stdint.h>

#include "flow/config.h"

struct prl_dp;

int dp_announce_open(struct prl_dp *dp); /* 0 or -ENOMEM */
void dp_announce_close(struct prl_dp *dp);

/* Claims what this node owns of these services (a bit each), again and again. */
void dp_claims_start(struct prl_dp *dp, uint32_t services);
/* They were taken over from a node that has not said that it knows: claimed until it does. */
void dp_claims_taken_over(struct prl_dp *dp, uint32_t services);
/* Who does not know it yet is told at once, if the service is claimed. */
void dp_claims_repeat(struct prl_dp *dp, uint32_t service);
void dp_claims_tick(struct prl_dp *dp);
uint64_t dp_claims_next_ns(const struct prl_dp *dp); /* UINT64_MAX: nothing is claimed */

/* Whom to ask and to tell; whether anybody can be asked. */
bool dp_neighbours_set(struct prl_dp *dp, const struct prl_dp_neighbour *list, uint32_t count);
uint32_t dp_neighbours_count(const struct prl_dp *dp);
/* Each neighbour on the LAN is asked for its own address. */
void dp_neighbours_ask(struct prl_dp *dp);
/* Somebody who is not the other node, or not with a word of now, says that config.address[index] is his, so often up to now. */
void dp_address_defend(struct prl_dp *dp, uint32_t index, uint64_t foreign_claims);

#endif /* PRL_NODE_ANNOUNCE_H */
