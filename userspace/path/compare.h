/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Do both sides have the same (R12a)? Both hash the packets in order. The primary sends its hash every DP_COMPARE_EVERY
 * packets, and with rcv_nxt and snd_una whenever the flow is quiet; verify.h has the shadow's part.
 */
#ifndef PRL_PATH_COMPARE_H
#define PRL_PATH_COMPARE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "flow/flow.h"
#include "tcp/packet.h"

/* Busy flows compare their hashes every so many packets; more than any flow may have outstanding. */
#define DP_COMPARE_EVERY 4096u

int dp_compares_open(struct prl_dp *dp); /* 0 or -ENOMEM */
void dp_compares_close(struct prl_dp *dp);

/* The packet counts for the running hash; both sides call this in the same order. */
void dp_compare_hash(struct dp_flow *flow, uint64_t sum, const struct prl_packet *packet);
void dp_compare_released(struct prl_dp *dp, struct dp_flow *flow, uint32_t seq); /* primary: seq is through */
void dp_compare_accepted(struct dp_flow *flow, uint32_t seq); /* secondary: seq is hashed */
/* Between the other states of TCP there is more than one way, and their numbers tell less. */
bool dp_compare_is_possible(uint32_t state);
void dp_compare_tick(struct prl_dp *dp, struct dp_flow *flow); /* a primary's: its sockets, once it is quiet */
bool dp_compare_is_due(const struct dp_flow *flow); /* dp_compare_tick() has something left to do */
void dp_compare_send_due(struct prl_dp *dp); /* after the ticks of all flows: what they found due */

#endif /* PRL_PATH_COMPARE_H */
