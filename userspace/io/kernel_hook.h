/* SPDX-License-Identifier: BSD-2-Clause */
/* The programs that come first in line on what leaves by a device, or comes in by it (struct prl_filter: by netlink). */
#ifndef PRL_IO_KERNEL_HOOK_H
#define PRL_IO_KERNEL_HOOK_H

#include <bpf/libbpf.h>
#include <stdbool.h>
#include <stdint.h>

/* Whether the program with this id is one of prl's: a device may have got another owner since. */
bool prl_kernel_is_ours(uint32_t id);

/*
 * Puts `program` first in line on one side of a device, in the place of one of a former life. Returns enum
 * prl_guard, with words[PRL_ERROR_BYTES] about what was in front, or -errno. `mute` (prl_mute) helps while it moves;
 * `made` is prl_clsact_make()'s.
 */
int prl_hook_put(uint32_t ifindex, enum bpf_tc_attach_point side, int program, int mute, int made, char *words);
/* Whether a program of prl's is on that side of a device. */
bool prl_hook_is_guarded(uint32_t ifindex, enum bpf_tc_attach_point side);
/* Takes all programs of prl's off a device's egress. */
void prl_hook_take_off(uint32_t ifindex);
/* The same of what comes in. */
void prl_hook_take_off_input(uint32_t ifindex);
/* The kernel's number of a program, or 0; with its name[BPF_OBJ_NAME_LEN] unless that is NULL. */
uint32_t prl_program_id(int program, char *name);

#endif /* PRL_IO_KERNEL_HOOK_H */
