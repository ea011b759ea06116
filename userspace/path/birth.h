/* SPDX-License-Identifier: BSD-2-Clause */
/* Sessions that have waited, since their handshake, to be protected (docs/sessions.md). The kernel keeps them waiting; here it ends. */
#ifndef PRL_PATH_BIRTH_H
#define PRL_PATH_BIRTH_H

#include <stdbool.h>

#include "flow/flow.h"

/* Its input is captured, or passes, from now on. */
void dp_birth_end(struct prl_dp *dp, struct dp_flow *flow);
/* What becomes of it is known: if it has waited, its peer is told how much room there is. */
void dp_birth_say(struct prl_dp *dp, struct dp_flow *flow);
/* Says it again while it may have been lost. */
void dp_birth_tick(struct prl_dp *dp, struct dp_flow *flow);
bool dp_birth_wants_time(const struct dp_flow *flow);

#endif /* PRL_PATH_BIRTH_H */
