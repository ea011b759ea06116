/* SPDX-License-Identifier: BSD-2-Clause */
/* Whose a service is on this node: its entries in the address table, and what follows from a change at once. */
#ifndef PRL_NODE_SERVICE_H
#define PRL_NODE_SERVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "flow/config.h"
#include "flow/dp.h"
#include "io/probes.h"

/* For whoever traces (probes.h): what is done, and how long the other node has not been heard on the link. */
static inline void dp_trace_step(const struct prl_dp *dp, const char *step, uint32_t services)
{
    PRL_PROBE3(ownership, step, services, dp_clock_ns(dp) - dp->owner.last_heard_ns);
}

/* The entries of the first moment: silent, or an owner that goes on speaking (L9). 0 or -errno. */
int dp_service_open(struct prl_dp *dp, uint32_t service);
int dp_service_set(struct prl_dp *dp, uint32_t service, uint8_t state); /* enum prl_owner_state */
/* An owner's that was decided on, whose first emission has to come in time (L2), unless that is 0. */
int dp_service_take(struct prl_dp *dp, uint32_t service, uint64_t first_by_ns);
int dp_service_leave(struct prl_dp *dp, uint32_t service); /* silent, input is still captured */
bool dp_service_is_claimed(struct prl_dp *dp, uint32_t service); /* since dp_service_leave() */
/* A good claim: silent, and no session of it goes on here. */
void dp_service_fence(struct prl_dp *dp, uint32_t service);
int dp_service_renounce(struct prl_dp *dp, uint32_t service); /* to a node that knows no SWITCHOVER */
/* What the programs have noted of an address, where it is spoken for. 0 or -errno. */
int dp_service_entry(struct prl_dp *dp, const struct prl_dp_address *address, struct prl_addr *entry);

#endif /* PRL_NODE_SERVICE_H */
