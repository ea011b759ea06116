/* SPDX-License-Identifier: BSD-2-Clause */
/* The qdisc that tc programs hang on. `made` is a descriptor of prl_clsacts. */
#ifndef PRL_IO_KERNEL_CLSACT_H
#define PRL_IO_KERNEL_CLSACT_H

#include <stdint.h>

/* 0, also where there is one, or -errno; -ENOSPC: as many as can be remembered have been made. */
int prl_clsact_make(int made, uint32_t ifindex);
/* Removes it if it was made for prl and nobody has a filter there; a device that has gone is forgotten. */
void prl_clsact_remove(int made, uint32_t ifindex);
/* The same of all devices. */
void prl_clsact_remove_all(int made);
/* Makes room: the TAPs of a prld that was killed have gone with it. */
void prl_clsact_forget_gone(int made);

#endif /* PRL_IO_KERNEL_CLSACT_H */
