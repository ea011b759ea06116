/* SPDX-License-Identifier: BSD-2-Clause */
/* What the programs know of the sessions' sockets: the mark gate, and their state. */
#ifndef PRL_IO_KERNEL_SOCKETS_H
#define PRL_IO_KERNEL_SOCKETS_H

#ifndef PRL_CFFI
#include <stdint.h>
#endif

#include "prl_abi.h"
#include "tcp/moment.h"

struct prl_kernel;

/* The mark gate (R1a) of one socket: attach before the flow is SETUP. Removing it is SO_DETACH_FILTER. */
int prl_kernel_gate_attach(struct prl_kernel *kernel, int fd, uint32_t slot);
int prl_kernel_gate_detach(struct prl_kernel *kernel, int fd);
/* For a socket that nobody has a descriptor of any more: the gate that stays on it lets everything pass. */
int prl_kernel_gate_cookie(int fd, uint64_t *cookie);
int prl_kernel_gate_forget(struct prl_kernel *kernel, uint64_t cookie);
/* Reads the sockets' state of these slots into prl_flow.sock (one system call per PRL_SAMPLE_MAX slots). */
int prl_kernel_sample(struct prl_kernel *kernel, const uint32_t *slots, uint32_t count);
/* How many references there are to the file of the TCP socket that has these ends and that `fd` is a descriptor of: one for each
 * descriptor of any process (threads that share a table have one), each that is on its way in a message, each that a system call
 * uses at this moment. Or -errno; -ENOENT: it was not found. Any thread may call it. */
int prl_kernel_references(const struct prl_kernel *kernel, const struct prl_flow_key *key, int fd);
/* Whether that socket has a filter, classic or eBPF, in whose place a mark gate would come: one that no prld attached, this one or
 * one before it. Or -errno as above. */
int prl_kernel_is_filtered(const struct prl_kernel *kernel, const struct prl_flow_key *key, int fd);
/* The moment of that socket if it is at rest (nothing in its queues, all acknowledged both ways): as prl_moment_copy() would have
 * it, but without repair mode, so that nobody needs to stand still for it. Or -errno as above; -EBUSY: it is not at rest. */
int prl_kernel_rest(const struct prl_kernel *kernel, const struct prl_flow_key *key, int fd,
                    struct prl_moment *moment, struct prl_moment_counts *counts);

#endif /* PRL_IO_KERNEL_SOCKETS_H */
