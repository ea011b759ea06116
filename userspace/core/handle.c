/* SPDX-License-Identifier: BSD-2-Clause */
#include "core/handle.h"

#define NODE_BIT 31
#define NUMBER_MASK ((1u << NODE_BIT) - 1)

uint32_t prl_handle_next(uint32_t node, uint32_t last)
{
    uint32_t number = (last & NUMBER_MASK) + 1;

    return node << NODE_BIT | (number > NUMBER_MASK ? 1 : number);
}

bool prl_handle_is_of(uint32_t node, uint32_t handle)
{
    return handle >> NODE_BIT == node && (handle & NUMBER_MASK);
}
