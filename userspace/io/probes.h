/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * User-space static tracepoints (USDT) of provider `prl`; a disabled one is a nop. bpf/trace/ has scripts for them.
 * A `*` argument is the address of a string, or of 16 bytes where it says so.
 *
 * Packets:
 *     classify(handle, bytes)               a frame of a flow came from AF_XDP
 *     hold(handle, bytes)                   it waits (numbered or pending)
 *     replicate(handle, seq, bytes)         REPLICATE queued on the link
 *     ack(handle, seq, reason)              ACK or NACK received
 *     reinject(handle, seq, held_ns)        given to the host's own stack
 *     output_hold(handle, tcp_end, bytes)   a segment of the application's waits
 *     output(handle, seq, bytes)            OUTPUT queued on the link
 *     output_ack(handle, seq, reason)       OUTPUT_ACK received
 *     output_release(handle, tcp_end, held_ns)
 *     drop(*counter, handle, bytes)         dropped: the name of the counter that counts it; handle 0: of no flow
 *
 * Sessions:
 *     setup(*step, handle, generation)      what happens between two states while a session is set up
 *     flow(*role, *state, handle, generation, *reason)   a flow has a new state
 *
 * The pair:
 *     lease(rtt_ns)                         an echo of our LEASE: there and back, without its wait for the next LEASE
 *     ownership(*step, services, value)     a decision, or a step of a take-over; services: a bit each; value: ns or 0
 *     address(*addr, state, service)        a service address has a new state (enum prl_addr_state); addr: 16 bytes
 */
#ifndef PRL_IO_PROBES_H
#define PRL_IO_PROBES_H

#include <sys/sdt.h>

#define PRL_PROBE1(name, a) DTRACE_PROBE1(prl, name, a)
#define PRL_PROBE2(name, a, b) DTRACE_PROBE2(prl, name, a, b)
#define PRL_PROBE3(name, a, b, c) DTRACE_PROBE3(prl, name, a, b, c)
#define PRL_PROBE5(name, a, b, c, d, e) DTRACE_PROBE5(prl, name, a, b, c, d, e)

#endif /* PRL_IO_PROBES_H */
