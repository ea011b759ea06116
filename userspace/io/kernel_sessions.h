/* SPDX-License-Identifier: BSD-2-Clause */
/* What TCP says of the sessions of service addresses (bpf/sessions.bpf.c, docs/sessions.md). */
#ifndef PRL_IO_KERNEL_SESSIONS_H
#define PRL_IO_KERNEL_SESSIONS_H

#ifndef PRL_CFFI
#include <stdbool.h>
#include <stdint.h>
#endif

#include "prl_abi.h"

struct prl_kernel;

/* Has TCP call the program from now on, for as long as this process lives. 0 or -errno and why in error[PRL_ERROR_BYTES]: the
 * ends of sockets have to be looked for. */
int prl_kernel_sessions_attach(struct prl_kernel *kernel, char *error);
/* The oldest of what it has told, and that there was one. */
int prl_kernel_sessions_news(struct prl_kernel *kernel, struct prl_news *news);

/* How many TCP sessions of service addresses no flow here has, shadows being flows, too; the first `capacity` of them in `found`.
 * Or -errno. `ofs`: of these addresses alone; ifindex 0 is any, and a socket that is bound to no device is of each. 0: of all.
 * Goes through all TCP sockets of this network namespace: some 0.1 us for each. */
int prl_kernel_strangers(struct prl_kernel *kernel, const struct prl_addr_key *of, uint32_t ofs,
                         struct prl_stranger *found, uint32_t capacity);

#ifndef PRL_CFFI
/* Readable while there is news; -1: the program is not attached. */
int prl_kernel_sessions_fd(const struct prl_kernel *kernel);
void prl_kernel_sessions_close(struct prl_kernel *kernel);
#endif

#endif /* PRL_IO_KERNEL_SESSIONS_H */
