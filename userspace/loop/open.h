/* SPDX-License-Identifier: BSD-2-Clause */
/* A datapath begins and ends. */
#ifndef PRL_LOOP_OPEN_H
#define PRL_LOOP_OPEN_H

#include "flow/config.h"
#include "io/io.h"

struct prl_dp;

/* A datapath on a machine, which it takes over, also on failure: NULL and words in error[PRL_ERROR_BYTES]. */
struct prl_dp *dp_open(const struct prl_dp_config *config, const struct prl_io *io, struct prl_host *host,
                       char *error);
void dp_close(struct prl_dp *dp);

#endif /* PRL_LOOP_OPEN_H */
