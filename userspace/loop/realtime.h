/* SPDX-License-Identifier: BSD-2-Clause */
/* The thread that holds the lease has a real-time class where it may (docs/kernel-answers.md): whoever calls dp_run() gives it to it.
 * It preempts all that is not real-time, so it has a share of the time (core/share.h): for the rest of a window in which it has
 * taken that, it is as any other thread of its nice value. */
#ifndef PRL_LOOP_REALTIME_H
#define PRL_LOOP_REALTIME_H

#include "core/share.h"

struct prl_dp;

struct dp_realtime {
    int policy, priority; /* of the class that the thread came with; priority 0: none that is to be bounded */
    struct prl_share share;
};

/* What the calling thread is. */
void dp_realtime_begin(struct dp_realtime *realtime);
/* After each pass. */
void dp_realtime_pass(struct prl_dp *dp, struct dp_realtime *realtime);

#endif /* PRL_LOOP_REALTIME_H */
