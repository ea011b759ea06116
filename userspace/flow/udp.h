/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What is different for UDP flows. A datagram has no sequence number: one that a socket drops for want of room is
 * gone for its application alone. So room is looked for before a datagram is replicated, and on the secondary before
 * it is accepted (refused there, the primary drops it as well): both sockets get the same datagrams. Should one drop
 * all the same, the two differ, and the shadow is void (R17).
 */
#ifndef PRL_FLOW_UDP_H
#define PRL_FLOW_UDP_H

#include <stdbool.h>
#include <stdint.h>

struct prl_dp;
struct dp_flow;

void dp_udp_open(const struct prl_dp *dp, struct dp_flow *flow); /* drops count from here on */
void dp_udp_sample(const struct prl_dp *dp, struct dp_flow *flow);
/* What a socket without a peer sends. 0 or -errno. */
int dp_udp_mark(const struct prl_dp *dp, const struct dp_flow *flow, bool is_shadow);
/* For a packet of so many bytes. */
bool dp_udp_has_room(const struct prl_dp *dp, const struct dp_flow *flow, uint32_t bytes);
/* The socket dropped what the other side's may have. */
bool dp_udp_diverged(const struct prl_dp *dp, const struct dp_flow *flow);

#endif /* PRL_FLOW_UDP_H */
