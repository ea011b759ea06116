/* SPDX-License-Identifier: BSD-2-Clause */
/* What the primary sends to its shadows: input to feed, output to append, and the end. */
#ifndef PRL_PATH_SECONDARY_H
#define PRL_PATH_SECONDARY_H

#include <stdint.h>

#include "tcp/packet.h"
#include "wire/wire.h"

struct prl_dp;
struct dp_flow;

void dp_secondary_message(struct prl_dp *dp, const struct prl_msg *msg);
/* A frame of the flow's came by the cable (docs/mirror.md), and waits in the kernel. */
void dp_secondary_frame(struct prl_dp *dp, struct dp_flow *flow, uint32_t number, uint64_t queued,
                        const struct prl_packet *packet);
/* Works on messages that have waited for their frames, as far as these are here, or will not come. */
void dp_secondary_advance(struct prl_dp *dp, struct dp_flow *flow);
/* Those of all flows: to be called when dp_mirror_next_ns() has come. */
void dp_secondary_advance_all(struct prl_dp *dp);

#endif /* PRL_PATH_SECONDARY_H */
