/* SPDX-License-Identifier: BSD-2-Clause */
/* What reasons and states are called in traces (probes.h): the enum's own words, in lower case. */
#ifndef PRL_CORE_NAMES_H
#define PRL_CORE_NAMES_H

#ifndef PRL_CFFI
#include <stdint.h>
#endif

const char *prl_reason_name(uint8_t reason);         /* PRL_REASON_* */
const char *prl_primary_state_name(uint8_t state);   /* enum prl_primary_state */
const char *prl_secondary_state_name(uint8_t state); /* enum prl_secondary_state */

#endif /* PRL_CORE_NAMES_H */
