/* SPDX-License-Identifier: BSD-2-Clause */
#include "api/datapath.h"
#include "flow/dp.h"
#include "loop/loop.h"
#include "loop/open.h"

int prl_dp_run(struct prl_dp *dp)
{
    return dp_run(dp);
}

void prl_dp_stop(struct prl_dp *dp)
{
    atomic_store(&dp->stop, true);
    dp->io->wake(dp->host);
}

void prl_dp_close(struct prl_dp *dp)
{
    if (dp)
        dp_close(dp);
}
