/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What steer.bpf.c and the front's side of it (userspace/io/steer.c) both know. */
#ifndef PRL_STEERING_H
#define PRL_STEERING_H

/* Pairs of a peer's address and a service address. */
#define PRL_STEER_PEERS_MAX 256

/* The listeners, by their place in the map of sockets. */
enum prl_steer_listener {
    PRL_STEER_INNER = 0, /* of what this host's daemon opens to a peer */
    PRL_STEER_OUTER = 1, /* of what a peer opens to a service address */
    PRL_STEER_LISTENERS = 2,
};

/* IPv4, in network order. */
struct prl_steer_ends {
    __u32 peer, service;
};

#endif /* PRL_STEERING_H */
