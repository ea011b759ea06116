/* SPDX-License-Identifier: BSD-2-Clause */
/* The thread that holds the lease has a real-time class while it is late (docs/kernel-answers.md): whoever calls dp_run() gives it
 * the class, and may thereby. It lays it down, and a thread of its own, which keeps the class and next to never runs, gives it back
 * for PRL_RAISED_MS when something that was due has not begun for PRL_LATE_MS. All the time it would cost: it preempts who feeds
 * it, and finds one packet where there would be many. Raised, it preempts all that is not real-time, so it has a share of the time
 * (core/share.h): for the rest of a window in which it has taken that, it is as any other thread of its nice value.
 *
 * While it is in time and there is a bulk, it is a batch thread: woken, it does not even preempt an ordinary one, but waits for
 * the next tick at the most, and finds more at once.
 *
 * due_ns and state are both threads'; the watcher alone raises, the datapath's thread alone lowers. */
#ifndef PRL_LOOP_REALTIME_H
#define PRL_LOOP_REALTIME_H

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <sys/types.h>

#include "core/share.h"

struct prl_dp;

enum dp_class {
    DP_CLASS_ORDINARY,
    DP_CLASS_RAISED,
    DP_CLASS_SPENT, /* raised, but for the rest of this window */
};

struct dp_realtime {
    struct prl_dp *dp;
    int policy, priority; /* of the class that the thread came with; priority 0: none, and nobody watches */
    pid_t thread;
    pthread_t watcher;
    sem_t end; /* the watcher's */
    _Atomic uint64_t
        due_ns; /* by when the next pass begins; it is late otherwise, also in a pass, or before the lock */
    _Atomic enum dp_class state;
    uint64_t raised_until_ns; /* 0: it is not */
    struct prl_share share;
    struct prl_bulk bulk;
};

/* Of the calling thread. Without memory for a watcher it stays what it is: always before others. */
void dp_realtime_begin(struct prl_dp *dp, struct dp_realtime *realtime);
/* After each pass; `due_ns`: when the next one begins at the latest. */
void dp_realtime_pass(struct dp_realtime *realtime, uint64_t due_ns);
void dp_realtime_end(struct dp_realtime *realtime);

#endif /* PRL_LOOP_REALTIME_H */
