/* SPDX-License-Identifier: BSD-2-Clause */
/* What the loop waits for, and when it polls instead. How a wait is done is the machine's affair (io.h). */
#ifndef PRL_LOOP_WAIT_H
#define PRL_LOOP_WAIT_H

#include <stdbool.h>
#include <stdint.h>

struct prl_dp;

struct dp_wait {
    uint32_t link_events, output_events, headers_events; /* what is watched for now */
    uint64_t until_ns; /* the next pass begins then at the latest */
    uint64_t poll_until_ns;              /* the end of adaptive polling */
    uint64_t crowded_until_ns;           /* no polling before */
    uint64_t away_ns, back_ns;           /* absences that are not made up for yet; the end of the last one */
};

/* Under the lock: what there is to wait for, until next_ns (CLOCK_BOOTTIME) at the latest. 0 or -errno. */
int dp_wait_prepare(struct prl_dp *dp, struct dp_wait *wait, uint64_t next_ns);
/* Whether to look for work again rather than to sleep. */
bool dp_polls_on(struct prl_dp *dp, struct dp_wait *wait, bool worked);
/* Lets others have the CPU, and notes how long they kept it. */
void dp_give_way(const struct prl_dp *dp, struct dp_wait *wait);

#endif /* PRL_LOOP_WAIT_H */
