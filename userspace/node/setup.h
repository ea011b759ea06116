/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Setting up in two steps (R17): what does not move is said while nothing waits, and a socket made ready over there.
 * Then the input stands still from primary_setup() to dp_setup_done(), and all in between happens here:
 *
 *     primary    setup ─ copy ─ pieces, MOMENT ─▶ restore, enter, SETUP_DONE    secondary
 *                activate, drain      ◀──────────┘
 */
#ifndef PRL_NODE_SETUP_H
#define PRL_NODE_SETUP_H

#include <stdint.h>

#include "flow/flow.h"
#include "flow/spec.h"
#include "tcp/moment.h"
#include "wire/wire.h"

int dp_setups_open(struct prl_dp *dp); /* 0 or -ENOMEM */
void dp_setups_close(struct prl_dp *dp);

/* What api/datapath.h says of prl_dp_primary_moment(), prl_dp_secondary_prepare(), prl_dp_secondary_unprepare(). */
int dp_setup_send_moment(struct prl_dp *dp, const struct prl_moment_spec *spec, struct prl_moment_counts *counts,
                         uint32_t *committed);
int dp_setup_prepare(struct prl_dp *dp, const struct prl_flow_spec *spec, const struct prl_ready *ready);
int dp_setup_unprepare(struct prl_dp *dp, uint32_t handle, uint32_t generation);

void dp_setup_queues(struct prl_dp *dp, const struct prl_msg *msg); /* secondary: a piece of a moment's queues */
void dp_setup_moment(struct prl_dp *dp, const struct prl_msg *msg); /* secondary: SETUP with a moment */
void dp_setup_done(struct prl_dp *dp, struct dp_flow *flow, const struct prl_msg *msg); /* primary: the answer */

#endif /* PRL_NODE_SETUP_H */
