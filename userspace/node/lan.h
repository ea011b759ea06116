/* SPDX-License-Identifier: BSD-2-Clause */
/* LAN heartbeats (L3): they trigger or veto, and never renew a lease. */
#ifndef PRL_NODE_LAN_H
#define PRL_NODE_LAN_H

#include <stdbool.h>
#include <stdint.h>

#include "core/ownership.h"

struct prl_dp;

enum dp_lan_type { DP_LAN_HEARTBEAT = 1, DP_LAN_RENOUNCE = 2 };

/* A heartbeat of the other node's, in this epoch. */
struct dp_lan_heard {
    uint64_t sent_ns; /* its clock */
    uint32_t service; /* of which it tells that its sender owns it, if it does */
    uint8_t term;     /* of that, the low 8 bits */
    bool tells, owns;
    bool renounces;
    struct prl_answer answer; /* it is none, but an answer of the other node's kernel, when sent_ns is not 0 */
};

int dp_lan_open(struct prl_dp *dp); /* 0 or -ENOMEM */
void dp_lan_close(struct prl_dp *dp);
/* Of a new epoch. */
void dp_lan_set_key(struct prl_dp *dp, const uint8_t key[32]);
/* What the newest one that was heard said of its sender's clock. */
uint64_t dp_lan_counter(const struct prl_dp *dp);
void dp_lan_send(struct prl_dp *dp, enum dp_lan_type type);
/* 1 and the next one, 0 when it was refused, or -errno: there is none. */
int dp_lan_next(struct prl_dp *dp, struct dp_lan_heard *heard);

#endif /* PRL_NODE_LAN_H */
