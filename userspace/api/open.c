/* SPDX-License-Identifier: BSD-2-Clause */
#include "api/datapath.h"
#include "io/host.h"
#include "loop/open.h"

struct prl_dp *prl_dp_open(const struct prl_dp_config *config, struct prl_kernel *kernel, char *error)
{
    const struct prl_host_config machine = {
        .lif = config->lif,
        .lifs = config->lifs,
        .inject_fd = config->inject_fd,
        .hold_fd = config->hold_fd,
        .lan_fd = config->lan_fd,
    };
    struct prl_host *host = prl_host_open(&machine, kernel, error);

    return host ? dp_open(config, &prl_host_io, host, error) : NULL;
}
