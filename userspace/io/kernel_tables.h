/* SPDX-License-Identifier: BSD-2-Clause */
/* The tables of flows and of service addresses, and the sockets of AF_XDP. All of it is written by the datapath's thread alone. */
#ifndef PRL_IO_KERNEL_TABLES_H
#define PRL_IO_KERNEL_TABLES_H

#ifndef PRL_CFFI
#include <stdint.h>
#endif

#include "prl_abi.h"

struct prl_kernel;

struct prl_flow *prl_kernel_flow(struct prl_kernel *kernel, uint32_t slot); /* shared memory */
int prl_kernel_flow_add(struct prl_kernel *kernel, const struct prl_flow_key *key, uint32_t handle, uint32_t slot);
int prl_kernel_flow_rename(struct prl_kernel *kernel, const struct prl_flow_key *key, uint32_t handle,
                           uint32_t slot);
int prl_kernel_flow_del(struct prl_kernel *kernel, const struct prl_flow_key *key);
/* Where struct prl_sieve counts a flow, for whoever enters flows of his own. */
uint32_t prl_kernel_sieve_cell(const struct prl_flow_key *key);
/* Enters or replaces it; lif and bit are found from the key. -ENODEV: the interface is none of this instance's. */
int prl_kernel_addr_set(struct prl_kernel *kernel, const struct prl_addr_key *key, const struct prl_addr *value);
int prl_kernel_addr_get(struct prl_kernel *kernel, const struct prl_addr_key *key, struct prl_addr *value);
int prl_kernel_xsk_set(struct prl_kernel *kernel, uint32_t lif, uint32_t queue, int xsk_fd);

/* New sessions of the endpoint (a key of prl_awaited) wait so long to be protected (docs/sessions.md); 0: they do not. */
int prl_kernel_await(struct prl_kernel *kernel, const struct prl_flow_key *endpoint, uint64_t wait_ns);
/* The session waits no more. 1: it has waited, as found says, 0: nothing is known of that. */
int prl_kernel_newborn_end(struct prl_kernel *kernel, const struct prl_flow_key *key, struct prl_newborn *found);

#ifndef PRL_CFFI
void prl_kernel_await_nothing(struct prl_kernel *kernel);
/* Learns the bits of what an earlier life entered; they open when its entries are set anew. */
void prl_kernel_inherit_bits(struct prl_kernel *kernel);
#endif

#endif /* PRL_IO_KERNEL_TABLES_H */
