/* SPDX-License-Identifier: BSD-2-Clause */
/* Does what the state machine of ownership asks for (core/ownership.h): lease, silence, take-over. */
#ifndef PRL_NODE_OWNERSHIP_H
#define PRL_NODE_OWNERSHIP_H

#include <stdbool.h>
#include <stdint.h>

#include "wire/wire.h"

struct prl_dp;

int dp_owner_open(struct prl_dp *dp, char *error); /* 0, or -errno and words in error[PRL_ERROR_BYTES] */
void dp_owner_do(struct prl_dp *dp, uint32_t todo); /* enum prl_owner_do */
/* Whether the kernel may open the flows of a datapath that is dead; it asks no arbiter. */
void dp_owner_keep_closed(struct prl_dp *dp);
void dp_owner_tick(struct prl_dp *dp);
uint64_t dp_owner_next_ns(const struct prl_dp *dp);
void dp_owner_woke(struct prl_dp *dp); /* before the heartbeat is renewed (L6) */
void dp_owner_message(struct prl_dp *dp, const struct prl_msg *msg);
void dp_owner_datagrams(struct prl_dp *dp); /* heartbeats, or answers of the other node's kernel, have come */
/* Looks at the frames that the programs have seen of the LAN. */
void dp_owner_watch_lan(struct prl_dp *dp);
/* A claim with our token fences in XDP; the state machine and the flows follow. One without it is answered. */
void dp_owner_notice_fencing(struct prl_dp *dp);
/* The kernel opened the flows of a datapath that hung: no flow becomes active before the next tick has noticed it (L4). */
bool dp_owner_is_bypassed(const struct prl_dp *dp);
/* The connection has ended, or is to. */
void dp_link_lost(struct prl_dp *dp, const char *why);

#endif /* PRL_NODE_OWNERSHIP_H */
