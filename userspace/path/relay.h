/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Input of a session that is in our hands without being protected: one that has moved here (R21), also while the other
 * node prepares a socket for it, and one whose protection has ended. It goes through prld, in order, until the session is
 * protected again or quiet.
 *
 * Of a move: what the peer sent before it read the claim comes by way of the old owner (RELAY) and is fed as it comes; what
 * came here directly goes up once nothing in front of it is missing. TCP is put in order by its sequence numbers, not by
 * messages.
 */
#ifndef PRL_PATH_RELAY_H
#define PRL_PATH_RELAY_H

#include <stdbool.h>
#include <stdint.h>

#include "flow/flow.h"
#include "wire/wire.h"

/* Input of the flow is captured from here on. */
void dp_relay_begin(struct prl_dp *dp, struct dp_flow *flow);
/* And not any more: all that was let go is the stack's. */
void dp_relay_end(struct prl_dp *dp, struct dp_flow *flow);
/* Input that came here directly; false when the entry was not taken. */
bool dp_relay_direct(struct prl_dp *dp, struct dp_flow *flow, struct prl_hold *hold);
void dp_relay_message(struct prl_dp *dp, const struct prl_msg *msg);
/* What waits goes up as far as it can. */
void dp_relay_feed(struct prl_dp *dp, struct dp_flow *flow);
/* Whether it is in our hands, and not protected; the other node may prepare for it (R17). */
bool dp_relay_is_on(const struct dp_flow *flow);
/* The flow is given to the stack once it is quiet. */
void dp_relay_settle(struct prl_dp *dp, struct dp_flow *flow);

#endif /* PRL_PATH_RELAY_H */
