/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * L10: after a flap of the link sessions go on from where they were, without a new snapshot, if their shadows have all that
 * there is: nothing has passed since, or it waits here yet (docs/protocol.md, "After a flap of the link").
 */
#ifndef PRL_NODE_RESYNC_H
#define PRL_NODE_RESYNC_H

#include <stdbool.h>
#include <stdint.h>

struct prl_dp;
struct prl_msg;

int dp_resync_open(struct prl_dp *dp); /* 0 or -ENOMEM */
void dp_resync_close(struct prl_dp *dp);

/* As standby: the owner may go on alone. Every shadow that can wait for it is suspended, the others are void. */
void dp_resync_suspend(struct prl_dp *dp);
/* As owner: the standby can use no shadow any more before it has asked. What waits is released. */
void dp_resync_alone(struct prl_dp *dp);
/* A new epoch has begun. */
void dp_resync_begin(struct prl_dp *dp);
/* In every pass: says what the shadows have, PRL_RESYNC_BATCH flows at a time, and keeps the limits. True when it has worked. */
bool dp_resync_pass(struct prl_dp *dp);
/* There is more to be said, and room for it. */
bool dp_resync_goes_on(const struct prl_dp *dp);
/* In this epoch, from its beginning until the other node had said all that its shadows have; 0: it has not yet. */
uint64_t dp_resync_took_ns(const struct prl_dp *dp);
void dp_resync_message(struct prl_dp *dp, const struct prl_msg *msg);

#endif /* PRL_NODE_RESYNC_H */
