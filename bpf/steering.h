/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What steer.bpf.c and the front's side of it (userspace/io/steer.c) both know, and socket.bpf.c of them. */
#ifndef PRL_STEERING_H
#define PRL_STEERING_H

/* Pairs of a peer's address and a service address. */
#define PRL_STEER_PEERS_MAX 256

/* The listeners of a peer, which stand side by side in the map of sockets. */
enum prl_steer_listener {
    PRL_STEER_INNER = 0, /* of what this host's daemon opens to the peer */
    PRL_STEER_OUTER = 1, /* of what the peer opens to the service address */
    PRL_STEER_LISTENERS = 2,
};

#define PRL_STEER_BGP_PORT 179

/* From where a front connects to its daemon: ports that no peer connects from, and none but root may. */
#define PRL_STEER_DIAL_FIRST 512
#define PRL_STEER_DIAL_LAST 1023
#define PRL_STEER_NO_DIAL 0

/* In network order, IPv4 as IPv4-mapped IPv6. */
struct prl_steer_ends {
    __u32 peer[4], service[4];
};

#endif /* PRL_STEERING_H */
