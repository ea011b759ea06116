/* SPDX-License-Identifier: BSD-2-Clause */
/* What the application sends: a held segment, from the hold TAP. */
#ifndef PRL_PATH_OUTPUT_H
#define PRL_PATH_OUTPUT_H

#include <stdbool.h>

struct prl_dp;

bool dp_output(struct prl_dp *dp); /* one of them; false when there is none, or no room */

#endif /* PRL_PATH_OUTPUT_H */
