/* SPDX-License-Identifier: BSD-2-Clause */
/* Handles of flows: the top bit is the index of the node that allocated one, the rest a number from 1 on. */
#ifndef PRL_CORE_HANDLE_H
#define PRL_CORE_HANDLE_H

#ifndef PRL_CFFI
#include <stdbool.h>
#include <stdint.h>
#endif

/* The handle behind `last` (0: the first one) in the half of `node`: after the half's last number comes its first. */
uint32_t prl_handle_next(uint32_t node, uint32_t last);
/* Whether `node` may have allocated it. */
bool prl_handle_is_of(uint32_t node, uint32_t handle);

#endif /* PRL_CORE_HANDLE_H */
