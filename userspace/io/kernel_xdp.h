/* SPDX-License-Identifier: BSD-2-Clause */
/* prl_classify on the interfaces: in their drivers (native XDP), or in the stack, where every driver's packets come by. */
#ifndef PRL_IO_KERNEL_XDP_H
#define PRL_IO_KERNEL_XDP_H

#ifndef PRL_CFFI
#include <stdbool.h>
#include <stdint.h>
#endif

struct prl_kernel;

/* enum prl_xdp_mode: where XDP runs; 0 when no mode could be had. */
uint32_t prl_kernel_mode(const struct prl_kernel *kernel);

#ifndef PRL_CFFI
/* On all interfaces, in one mode; error as prl_kernel_attach() has it. */
int prl_kernel_attach_xdp(struct prl_kernel *kernel, char *error);
void prl_kernel_detach_xdp(struct prl_kernel *kernel);
/* Puts it on one interface again, if nothing is there. enum prl_guard, or -errno with words. */
int prl_kernel_guard_xdp(struct prl_kernel *kernel, uint32_t ifindex, char *words);
/* Takes a dead prld's off an interface. */
void prl_kernel_scrub_xdp(int ifindex);
#endif

#endif /* PRL_IO_KERNEL_XDP_H */
