/* SPDX-License-Identifier: BSD-2-Clause */
#include "loop/lock.h"

#include "flow/dp.h"
#include "path/reinject.h"

void dp_lock(struct prl_dp *dp)
{
    atomic_fetch_add(&dp->waiting, 1);
    pthread_mutex_lock(&dp->lock);
    atomic_fetch_sub(&dp->waiting, 1);
}

void dp_unlock(struct prl_dp *dp)
{
    dp_reinject_flush(dp);
    pthread_mutex_unlock(&dp->lock);
}
