/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Flows whose segments are signed (RFC 2385): tc can neither lower their window nor renew their acknowledgement, because
 * both are signed and the key is here. So what is held, and what passes with a window that must be lowered, goes through
 * the hold TAP, and is brought up to date here (R10, R19).
 */
#ifndef PRL_PATH_SIGN_H
#define PRL_PATH_SIGN_H

#include <stdint.h>

#include "flow/flow.h"
#include "tcp/packet.h"

/* The window that both sides take, for a segment with this ack and window (R10). */
uint16_t dp_sign_window(const struct dp_flow *flow, uint32_t ack, uint16_t window);
/* A held segment that is about to leave: newest ack, window and timestamps, signed. `frame` is as read from the TAP,
 * `packet` what parsing said of it from the Ethernet header on. */
void dp_sign_release(struct prl_dp *dp, struct dp_flow *flow, uint8_t *frame, const struct prl_packet *packet);

#endif /* PRL_PATH_SIGN_H */
