/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Packets for the own stack, which come to it by the inject TAP, or wait in it already and are let go on. They are gathered (gro.h) and written by
 * dp_reinject_flush(): before the flow's input comes to the stack by itself, before its bytes go, before the lock does.
 */
#ifndef PRL_PATH_REINJECT_H
#define PRL_PATH_REINJECT_H

#include <stdint.h>
#include <sys/uio.h>

#include "flow/flow.h"
#include "tcp/packet.h"

int dp_reinject_open(struct prl_dp *dp); /* 0 or -ENOMEM */
void dp_reinject_close(struct prl_dp *dp);

/* A packet whose checksum is good; its pieces, from L3 on, stay where they are until the flush. */
void dp_reinject(struct prl_dp *dp, const struct dp_flow *flow, const struct iovec *piece, uint32_t pieces,
                 const struct prl_packet *packet, uint16_t lif);
/* Held input, which is in no chain any more, with its pieces: the flush frees it. */
void dp_reinject_held(struct prl_dp *dp, const struct dp_flow *flow, struct prl_hold *hold,
                      const struct iovec *piece, uint32_t pieces);
/* A segment of our own making, as though from the peer; at once. 0 or -errno. */
int dp_reinject_crafted(struct prl_dp *dp, const struct dp_flow *flow, const struct prl_craft *craft);
void dp_reinject_flush(struct prl_dp *dp);

/* Packets that wait for the flush with their entries, and what was written up to now. */
uint32_t dp_reinject_waiting(const struct prl_dp *dp);
void dp_reinject_count(const struct prl_dp *dp, uint64_t *failed, uint64_t *writes);

#endif /* PRL_PATH_REINJECT_H */
