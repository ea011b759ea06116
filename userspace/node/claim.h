/* SPDX-License-Identifier: BSD-2-Clause */
/* What claims are known by (L7): keys of an epoch, and the terms of ownership. */
#ifndef PRL_NODE_CLAIM_H
#define PRL_NODE_CLAIM_H

#include <stdbool.h>
#include <stdint.h>

#include "flow/config.h"
#include "tcp/packet.h"

struct prl_dp;

int dp_claim_open(struct prl_dp *dp); /* 0 or -ENOMEM */
void dp_claim_close(struct prl_dp *dp);
/* The keys of what this node says on the LAN in a new epoch, and of what it hears there. `agreed`: of both HELLOs; the tokens
 * are of claims without PRL_CAP_CLAIM_MAC. 0, or -errno: the link has no secret of its own, though it should. */
int dp_claim_set_keys(struct prl_dp *dp, const uint8_t agreed[32], const uint8_t own_token[PRL_TOKEN_BYTES],
                      const uint8_t peer_token[PRL_TOKEN_BYTES]);
/* Services that were taken over: what is claimed of them is known by the keys of now, whatever epoch comes. */
void dp_claim_keep_keys(struct prl_dp *dp);
/* The trailer of a claim; `kept`: with the keys that were kept. */
void dp_claim_trailer(const struct prl_dp *dp, const struct prl_dp_address *address, bool kept,
                      struct prl_trailer *trailer);
/* Verifies once more the claim that XDP has obeyed, if it was one; an alarm when it is not the other node's. */
void dp_claim_verify(struct prl_dp *dp, const struct prl_dp_address *address, const struct prl_addr *entry);

/* A service has changed hands so often; a lower term than the one that is known changes nothing. */
void dp_term_raise(struct prl_dp *dp, uint32_t service, uint64_t term);
/* This node speaks again although the other one may have taken over meanwhile (L6): what that says of its own time counts no
 * more, whenever it comes. */
void dp_terms_take_back(struct prl_dp *dp);
/* It is given to the other node, whose term counts as soon as that is known to have taken it. */
void dp_term_give(struct prl_dp *dp, uint32_t service);
void dp_term_is_taken(struct prl_dp *dp, uint32_t service);

#endif /* PRL_NODE_CLAIM_H */
