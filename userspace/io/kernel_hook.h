/* SPDX-License-Identifier: BSD-2-Clause */
/* The programs that come first in line on what leaves by a device (struct prl_filter: by netlink). */
#ifndef PRL_IO_KERNEL_HOOK_H
#define PRL_IO_KERNEL_HOOK_H

#include <stdbool.h>
#include <stdint.h>

/* Whether the program with this id is one of prl's: a device may have got another owner since. */
bool prl_kernel_is_ours(uint32_t id);

/*
 * Puts `program` first in line on a device's egress, in the place of one of a former life. Returns enum
 * prl_guard, with words[PRL_ERROR_BYTES] about what was in front, or -errno. `mute` (prl_mute) helps while it moves;
 * `made` is prl_clsact_make()'s.
 */
int prl_hook_put(uint32_t ifindex, int program, int mute, int made, char *words);
/* Whether a program of prl's is on a device's egress. */
bool prl_hook_is_guarded(uint32_t ifindex);
/* Takes all programs of prl's off a device's egress. */
void prl_hook_take_off(uint32_t ifindex);
/* The kernel's number of a program, or 0; with its name[BPF_OBJ_NAME_LEN] unless that is NULL. */
uint32_t prl_program_id(int program, char *name);

#endif /* PRL_IO_KERNEL_HOOK_H */
