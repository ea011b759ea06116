/* SPDX-License-Identifier: BSD-2-Clause */
/* Deadlines, lost holds, ended sessions, grown space: everything that time brings to flows. */
#ifndef PRL_PATH_TIMERS_H
#define PRL_PATH_TIMERS_H

struct prl_dp;

int dp_timers_open(struct prl_dp *dp); /* 0 or -ENOMEM */
void dp_timers_close(struct prl_dp *dp);
/* To be called when dp->tick_ns has come. */
void dp_flows_tick(struct prl_dp *dp);

#endif /* PRL_PATH_TIMERS_H */
