/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A service moves by word over the link (R21; core/switchover.h has the rules).
 *
 *     old owner   silence (LEAVING) ─▶ COMMIT ─▶ RELAY of what waits, and of what still comes ─▶ RELAY_END
 *     new owner   flows captured (RELAY) ─▶ address OWNER ─▶ claim ─▶ TAKEN; relayed input is fed as it comes, input
 *                 that came here directly once nothing in front of it is missing
 *
 * The claim reaches the old owner and the peer at the same time, but what the peer sent before it read the claim is
 * still on its way to the old owner then. So the claim alone is no end: the old owner goes on relaying until it is quiet,
 * and the new owner orders TCP by sequence number, not by messages.
 */
#ifndef PRL_NODE_SWITCHOVER_H
#define PRL_NODE_SWITCHOVER_H

#include "wire/wire.h"

struct prl_dp;

void dp_switchover_message(struct prl_dp *dp, const struct prl_msg *msg); /* SWITCHOVER */
/* The other node's REQUEST of `asked_ns`, once it is known how many sessions without a flow the move would lose. */
void dp_switchover_asked(struct prl_dp *dp, uint32_t service, uint8_t flags, uint64_t asked_ns,
                         uint32_t strangers);
void dp_switchover_pass(struct prl_dp *dp);

#endif /* PRL_NODE_SWITCHOVER_H */
