/* SPDX-License-Identifier: BSD-2-Clause */
/* The one lock of a datapath. */
#ifndef PRL_LOOP_LOCK_H
#define PRL_LOOP_LOCK_H

struct prl_dp;

void dp_lock(struct prl_dp *dp);
void dp_unlock(struct prl_dp *dp); /* with nothing gathered left */

#endif /* PRL_LOOP_LOCK_H */
