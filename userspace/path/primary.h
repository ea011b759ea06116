/* SPDX-License-Identifier: BSD-2-Clause */
/* What happens to primaries, but for their packets: the other node's answers, and what befalls all of them at once. */
#ifndef PRL_PATH_PRIMARY_H
#define PRL_PATH_PRIMARY_H

#include <stdint.h>

#include "flow/flow.h"
#include "wire/wire.h"

void dp_primary_message(struct prl_dp *dp, const struct prl_msg *msg);
void dp_primary_fail(struct prl_dp *dp, struct dp_flow *flow, uint8_t reason);
void dp_primary_fail_all(struct prl_dp *dp, uint8_t reason);
void dp_primary_open_all(struct prl_dp *dp);
/* The service is another's: no session of its goes on here, taken over or not. */
void dp_primary_fence_service(struct prl_dp *dp, uint32_t service);

#endif /* PRL_PATH_PRIMARY_H */
