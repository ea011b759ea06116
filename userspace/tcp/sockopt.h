/* SPDX-License-Identifier: BSD-2-Clause */
/* Many options of a socket in one call. */
#ifndef PRL_TCP_SOCKOPT_H
#define PRL_TCP_SOCKOPT_H

#ifndef PRL_CFFI
#include <stdint.h>
#endif

#define PRL_SOCK_OPTION_BYTES 16 /* the longest value: a name of a congestion control */

struct prl_sock_option {
    int32_t level, option;
    uint32_t bytes;
    uint8_t value[PRL_SOCK_OPTION_BYTES];
};

/* Sets them in their order; one that is refused keeps none from being set. Each gets its error, 0 or negative; returns how many
 * were refused. */
uint32_t prl_sock_options_set(int fd, const struct prl_sock_option *options, uint32_t count, int32_t *errors);

#endif /* PRL_TCP_SOCKOPT_H */
