/* SPDX-License-Identifier: BSD-2-Clause */
/* Serial number arithmetic on 32 bits (RFC 1982; TCP's own, RFC 9293, 3.4): order holds within 2^31. */
#ifndef PRL_TCP_SERIAL_H
#define PRL_TCP_SERIAL_H

/* The first number of a flow's messages, in both directions, after a snapshot. */
#define PRL_SEQ_FIRST 1

#ifndef PRL_CFFI
#include <stdbool.h>
#include <stdint.h>

static inline bool prl_serial_lt(uint32_t a, uint32_t b)
{
    return (int32_t)(a - b) < 0;
}

static inline bool prl_serial_le(uint32_t a, uint32_t b)
{
    return (int32_t)(a - b) <= 0;
}

static inline uint32_t prl_serial_max(uint32_t a, uint32_t b)
{
    return prl_serial_lt(a, b) ? b : a;
}

static inline uint32_t prl_serial_min(uint32_t a, uint32_t b)
{
    return prl_serial_lt(a, b) ? a : b;
}
#endif

#endif /* PRL_TCP_SERIAL_H */
