/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Does the shadow's kernel really have what was acknowledged, and the same as the primary's?
 *
 *     R8    The kernel can drop a reinjected packet. What a batch fed is compared with the sockets while its bytes are
 *           still in the link's buffer; what they do not cover is kept (copied into the packet memory), fed again when it
 *           is next in line and still missing, and the shadow is void if that does not help.
 *           A packet that came by the cable (docs/mirror.md) is not here to be fed again: nothing more of its flow is acknowledged
 *           until the socket has it, if it is next in line there.
 *     R12a  The primary's hashes and numbers (compare.h) are to be found here; a difference voids the shadow.
 */
#ifndef PRL_PATH_VERIFY_H
#define PRL_PATH_VERIFY_H

#include <stdbool.h>

#include "flow/flow.h"
#include "tcp/packet.h"
#include "wire/wire.h"

int dp_verify_open(struct prl_dp *dp); /* 0 or -ENOMEM */
void dp_verify_close(struct prl_dp *dp);

/* data: from L3 on, where it stays until dp_verify_flush(); NULL: it is not here. */
void dp_verify_fed(struct prl_dp *dp, struct dp_flow *flow, uint32_t seq, const uint8_t *data, uint16_t lif,
                   const struct prl_packet *packet);
/* Looks whether sockets have what nothing is acknowledged before; costs nothing when there is no such flow. */
void dp_verify_look(struct prl_dp *dp);
bool dp_verify_waits(const struct prl_dp *dp); /* there is one */
void dp_verify_flush(struct prl_dp *dp); /* before the link's buffer moves: what is not in the sockets is kept */
void dp_verify_compare(struct prl_dp *dp, struct dp_flow *flow, const struct prl_msg *msg);
void dp_verify_tick(struct prl_dp *dp, struct dp_flow *flow); /* of a shadow, or of a session that was one */
bool dp_verify_is_due(const struct dp_flow *flow); /* dp_verify_tick() has something left to do */
/* Take-over: what its kernel does not have; false: it has all. */
bool dp_verify_refeed(struct prl_dp *dp, struct dp_flow *flow);
/* Whether input that the peer may have been told of is next in line, and in no socket yet: only kept here. */
bool dp_verify_lacks(struct prl_dp *dp, struct dp_flow *flow);
void dp_verify_forget(struct prl_dp *dp, struct dp_flow *flow);

#endif /* PRL_PATH_VERIFY_H */
