/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * User-space static tracepoints (USDT) of provider `prl`; a disabled one is a nop. bpf/trace/ has scripts for them.
 *
 *     classify(handle, bytes)               a frame of a flow came from AF_XDP
 *     hold(handle, bytes)                   it waits (numbered or pending)
 *     replicate(handle, seq, bytes)         REPLICATE queued on the link
 *     ack(handle, seq, reason)              ACK or NACK received
 *     reinject(handle, seq, held_ns)        given to the host's own stack
 *     output_hold(handle, tcp_end, bytes)   a segment of the application's waits
 *     output_release(handle, tcp_end, held_ns)
 */
#ifndef PRL_PROBES_H
#define PRL_PROBES_H

#include <sys/sdt.h>

#define PRL_PROBE2(name, a, b) DTRACE_PROBE2(prl, name, a, b)
#define PRL_PROBE3(name, a, b, c) DTRACE_PROBE3(prl, name, a, b, c)

#endif /* PRL_PROBES_H */
