/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The datapath's loop. One pass is one trip down the data path, in batches:
 *
 *     receive ─ AF_XDP frames, held output        → state machines → REPLICATE, OUTPUT into the link's buffer
 *     link    ─ REPLICATE → reinject, ACK owed    ─ ACK → reinject or release what was held
 *     ACKs owed, link flushed                     ─ one write for all of it
 *     time    ─ lease, deadlines, claims
 */
#ifndef PRL_LOOP_LOOP_H
#define PRL_LOOP_LOOP_H

#include <stdint.h>

struct prl_dp;

int dp_loop_open(struct prl_dp *dp, char *error); /* 0, or -errno and words in error[PRL_ERROR_BYTES] */
void dp_loop_close(struct prl_dp *dp);
/* Of the link that is attached now, nothing is watched yet. */
void dp_loop_new_link(struct prl_dp *dp);
/* One turn of the loop: a pass over what is ready (enum prl_io_ready), then what there is to wait for. Whether to look for
 * more rather than to sleep, or -errno. */
int dp_turn(struct prl_dp *dp, uint32_t ready);
/* Turns and waits, until dp->stop. 0 or -errno. */
int dp_run(struct prl_dp *dp);

#endif /* PRL_LOOP_LOOP_H */
