/* SPDX-License-Identifier: BSD-2-Clause */
/* What a flow is set up with. */
#ifndef PRL_FLOW_SPEC_H
#define PRL_FLOW_SPEC_H

#ifndef PRL_CFFI
#include <stdint.h>
#endif

#include "prl_abi.h"
#include "tcp/md5sig.h"

/* What had happened to a session before its snapshot, and a restored socket does not have. */
enum prl_replay {
    PRL_REPLAY_PEER_FIN = 1 << 0, /* the peer has ended its direction, at peer_seq */
    PRL_REPLAY_OWN_FIN = 1 << 1, /* the application has ended its; the FIN counts in `committed` */
    PRL_REPLAY_OWN_FIN_ACK = 1 << 2, /* and the peer has acknowledged that */
};

struct prl_flow_spec {
    struct prl_flow_key key;
    uint32_t handle; /* 0: the datapath allocates one */
    uint32_t generation; /* secondary: from SETUP; primary: from prl_dp_primary_prepare(), or 0: counted here */
    uint32_t mss; /* the peer's segment payload, for GSO of reinjected super-packets */
    uint32_t rcv_wscale;
    uint32_t snd_wscale;
    uint32_t committed; /* secondary: end of the snapshot's send queue */
    uint32_t timestamps; /* 1: RFC 7323 timestamps in use */
    uint32_t replay; /* secondary: enum prl_replay */
    uint32_t peer_seq, peer_window; /* secondary: for the segments that do it; the window as in the header */
    uint32_t hash_output; /* secondary: 1 = keep a hash of the output (R20) */
    int fd; /* the socket; the datapath keeps a duplicate of its own: the only one that prld has for long */
    char congestion[16]; /* secondary: the application's congestion control, set again at take-over */
    struct prl_md5_key md5; /* what the session's segments are signed with, both ways (RFC 2385) */
    uint64_t setup_ns; /* primary_setup(): its deadline, from now on (R6) */
    uint64_t begun_ns; /* primary_setup() says when that was (CLOCK_BOOTTIME) */
};

struct prl_moment_spec {
    uint32_t handle, generation;
    int64_t in_offset, out_offset; /* from the socket's counters to positions in the streams */
    const uint8_t *application; /* what the application gave, if that is not what was prepared */
    uint32_t application_bytes;
    uint32_t at_rest; /* 1 = only if it is, and without repair mode: its program runs */
};

#endif /* PRL_FLOW_SPEC_H */
