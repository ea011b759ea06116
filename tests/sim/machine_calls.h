/* SPDX-License-Identifier: BSD-2-Clause */
/* What a machine tells the world, in Python, at the moment at which it happens. */
#ifndef SIM_MACHINE_CALLS_H
#define SIM_MACHINE_CALLS_H

#ifndef PRL_CFFI
#include <stdint.h>
#endif

/* A segment leaves for the peer. */
void sim_wire(uint32_t node, uint32_t session, uint64_t seq, uint32_t bytes, uint32_t flags, uint64_t ack,
              uint64_t edge);
/* A segment comes to a socket (enum sim_way), or leaves unreplicated (SIM_UNREPLICATED, of output); or a shadow's kernel has dropped
 * what cannot be fed again (SIM_UNSEEN), or something else. */
void sim_stack(uint32_t node, uint32_t session, uint64_t seq, uint32_t bytes, uint32_t flags, uint64_t ack,
               int way);
void sim_claims(uint32_t node, uint32_t service, const uint8_t *trailer); /* of zeros: a defence */
void sim_asks(uint32_t node); /* a neighbour, for its own address */
/* A heartbeat or a probe, by the LAN or by the link (enum prl_probe_path). */
void sim_datagram(uint32_t node, uint32_t path, const uint8_t *bytes, uint32_t count);

/* A clone of the peer's frame leaves by the cable (docs/mirror.md). */
void sim_mirror(uint32_t node, uint32_t session, uint64_t seq, uint32_t bytes, uint64_t ack, uint32_t flags,
                uint32_t number);

#endif /* SIM_MACHINE_CALLS_H */
