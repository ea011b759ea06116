/* SPDX-License-Identifier: BSD-2-Clause */
/* The programs on the network devices. All are attached without a bpf_link: they must outlive prld, however it dies (L9). */
#ifndef PRL_IO_KERNEL_ATTACH_H
#define PRL_IO_KERNEL_ATTACH_H

#ifndef PRL_CFFI
#include <stdbool.h>
#include <stdint.h>
#endif

#include "prl_abi.h"

struct prl_kernel;

/* Attaches in the order that keeps I4: silence first (tc egress), reinjection, then XDP. 0 or -errno + error; 0 with words
 * in error: why XDP runs in the fallback mode. */
int prl_kernel_attach(struct prl_kernel *kernel, char *error);
/*
 * Sees to it that an interface has the programs that it should have, first in line: a logical one and the TAPs what
 * prl_kernel_attach() gave them, any other prl_silence. Returns enum prl_guard, with words[PRL_ERROR_BYTES] about what was
 * in front, or -errno and why it cannot be. Without `whole` only what netlink does not tell of is looked at: what leaves by
 * interfaces, some microseconds each.
 */
int prl_kernel_guard(struct prl_kernel *kernel, uint32_t ifindex, int whole, char *words);
/* Takes prl_silence off an interface that needs none; one that has gone is forgotten. */
void prl_kernel_unguard(struct prl_kernel *kernel, uint32_t ifindex);
/* A logical interface has lost its carrier, or has it again: what is reinjected gets to it by the way that there is. */
int prl_kernel_carrier(struct prl_kernel *kernel, uint32_t ifindex, int has_carrier);

#ifndef PRL_CFFI
/* Takes everything off again. */
void prl_kernel_detach(struct prl_kernel *kernel);
/* Whether a logical interface is the one recorded, and this project's silence is on it. */
bool prl_kernel_is_guarded(const struct prl_lif *lif);
/* Takes prl_classify off one logical interface of a dead instance, if it still is the one recorded. */
void prl_kernel_scrub_lif(const struct prl_lif *lif);
/* Takes silence, and what answers probes, off every interface of this network namespace. */
void prl_kernel_scrub_silence(void);
#endif

#endif /* PRL_IO_KERNEL_ATTACH_H */
