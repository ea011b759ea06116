/* SPDX-License-Identifier: BSD-2-Clause */
#include "tcp/sockopt.h"

#include <errno.h>
#include <sys/socket.h>

uint32_t prl_sock_options_set(int fd, const struct prl_sock_option *options, uint32_t count, int32_t *errors)
{
    uint32_t refused = 0;

    for (uint32_t i = 0; i < count; i++) {
        const struct prl_sock_option *one = &options[i];

        errors[i] = setsockopt(fd, one->level, one->option, one->value, one->bytes) < 0 ? -errno : 0;
        refused += errors[i] != 0;
    }
    return refused;
}
