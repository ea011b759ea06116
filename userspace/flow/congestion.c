/* SPDX-License-Identifier: BSD-2-Clause */
#include "flow/congestion.h"

#include <errno.h>
#include <string.h>

int dp_congestion_number(struct dp_congestions *known, const char name[DP_CONGESTION_BYTES])
{
    for (uint32_t i = 0; i <= known->last; i++)
        if (strncmp(known->name[i], name, sizeof(known->name[i])) == 0)
            return (int)i;
    if (known->last + 1 == DP_CONGESTIONS_MAX)
        return -ENOSPC;
    memcpy(known->name[++known->last], name, sizeof(known->name[0]));
    return (int)known->last;
}
