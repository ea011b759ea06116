/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The machine itself behind the datapath's table of functions (io.h): Linux, through the kernel_*.c and xsk.c.
 *
 * What the loop sleeps on is registered once with epoll (7), so that a wait costs one look at what became ready, not a
 * walk over all sources before and after it.
 *
 * The deadline is a timer that stays: it is set anew only for an earlier one, and when it fires for one that has moved
 * on since, the pass finds nothing to do. A timeout given to each wait would program the CPU's timer before it and
 * again behind it, and where a hypervisor has to be asked that costs as much as the system call itself.
 */
#ifndef PRL_IO_HOST_H
#define PRL_IO_HOST_H

#include <stdint.h>

#include "io/io.h"
#include "io/kernel.h"
#include "io/lif.h"

struct prl_host_config {
    const struct prl_dp_lif *lif; /* copied */
    uint32_t lifs;
    int inject_fd, hold_fd; /* the TAPs; these and lan_fd are taken over, also on failure */
    int lan_fd;             /* of the LAN heartbeats, or -1 */
};

extern const struct prl_io prl_host_io;

/* NULL, and words in error[PRL_ERROR_BYTES]. */
struct prl_host *prl_host_open(const struct prl_host_config *config, struct prl_kernel *kernel, char *error);

#endif /* PRL_IO_HOST_H */
