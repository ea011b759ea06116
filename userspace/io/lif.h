/* SPDX-License-Identifier: BSD-2-Clause */
/* A logical interface: where packets of peers come in and answers leave. */
#ifndef PRL_IO_LIF_H
#define PRL_IO_LIF_H

#ifndef PRL_CFFI
#include <stdint.h>
#endif

struct prl_dp_lif {
    char name[16];
    uint32_t ifindex;
    uint8_t mac[6];
    uint16_t queues;
};

#endif /* PRL_IO_LIF_H */
