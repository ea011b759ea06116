/* SPDX-License-Identifier: BSD-2-Clause */
/* The congestion controls of the shadows' applications, by number: a flow has no room for a name. */
#ifndef PRL_FLOW_CONGESTION_H
#define PRL_FLOW_CONGESTION_H

#include <stdint.h>

#define DP_CONGESTION_BYTES 16 /* TCP_CA_NAME_MAX */
/* Different ones; a kernel has some twenty. Further ones are refused. */
#define DP_CONGESTIONS_MAX 64

struct dp_congestions {
    char name[DP_CONGESTIONS_MAX][DP_CONGESTION_BYTES]; /* [0] is none */
    uint32_t last;
};

/* The number of a name, or -ENOSPC. */
int dp_congestion_number(struct dp_congestions *known, const char name[DP_CONGESTION_BYTES]);

#endif /* PRL_FLOW_CONGESTION_H */
