/* SPDX-License-Identifier: BSD-2-Clause */
/* A frame of a flow, as captured: parsed, judged, held, given to the primary's state machine. */
#ifndef PRL_PATH_INPUT_H
#define PRL_PATH_INPUT_H

#include <stdint.h>

#include "io/umem.h"

struct prl_dp;

void dp_input(struct prl_dp *dp, const struct prl_received *received);

#endif /* PRL_PATH_INPUT_H */
