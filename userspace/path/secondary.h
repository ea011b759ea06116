/* SPDX-License-Identifier: BSD-2-Clause */
/* What the primary sends to its shadows: input to feed, output to append, and the end. */
#ifndef PRL_PATH_SECONDARY_H
#define PRL_PATH_SECONDARY_H

#include "wire/wire.h"

struct prl_dp;

void dp_secondary_message(struct prl_dp *dp, const struct prl_msg *msg);

#endif /* PRL_PATH_SECONDARY_H */
