/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Sessions that wait to be protected from the end of their handshake on (docs/sessions.md): the peer is told that there is no
 * room, and what it sends all the same does not come in, until userspace takes the session's entry away or its time is
 * over. Nothing of it happens without a datapath that works.
 */
#ifndef PRL_BIRTH_H
#define PRL_BIRTH_H

#include <linux/in.h>
#include "maps.h"

#define PRL_TCP_FLAGS_AT 13 /* in the TCP header */
#define PRL_TCP_FLAG_FIN 0x01
#define PRL_TCP_FLAG_SYN 0x02
#define PRL_TCP_FLAG_RST 0x04
#define PRL_TCP_FLAG_ACK 0x10

/* Most often it is 0, and nothing else is asked. */
static __always_inline int prl_is_anything_awaited(struct prl_node *node)
{
    return PRL_READ(node->awaited) && prl_health_about_now(node) == PRL_HEALTHY;
}

enum prl_opened { PRL_OPENED_BY_PEER, PRL_OPENED_HERE };

/* The endpoint that a session is of, by who has opened it; NULL: its sessions do not wait. */
static __always_inline struct prl_awaited *prl_awaited_of(const struct prl_flow_key *key, enum prl_opened opened)
{
    struct prl_flow_key endpoint = {.proto = IPPROTO_TCP, .lif = key->lif};

    __builtin_memcpy(endpoint.local, key->local, sizeof(endpoint.local));
    if (opened == PRL_OPENED_HERE) {
        __builtin_memcpy(endpoint.remote, key->remote, sizeof(endpoint.remote));
        endpoint.remote_port = key->remote_port;
    } else {
        endpoint.local_port = key->local_port;
    }
    return bpf_map_lookup_elem(&prl_awaited, &endpoint);
}

/* For how long a new session may wait, in ns; 0: it does not. */
static __always_inline __u64 prl_awaited_ns(const struct prl_flow_key *key, enum prl_opened opened)
{
    struct prl_awaited *awaited = prl_awaited_of(key, opened);
    return awaited && PRL_READ(awaited->late) < PRL_BIRTHS_LATE_MAX ? PRL_READ(awaited->wait_ns) : 0;
}

/* The time of a session was over: whose it was is not known any more, and of one key hardly more than one is awaited. */
static __always_inline void prl_born_late(const struct prl_flow_key *key)
{
    struct prl_awaited *awaited = prl_awaited_of(key, PRL_OPENED_BY_PEER);
    if (!awaited)
        awaited = prl_awaited_of(key, PRL_OPENED_HERE);
    if (awaited)
        PRL_COUNT(awaited->late);
}

/* What a flow's key is in prl_newborns: TCP knows nothing of tags. */
static __always_inline void prl_newborn_key(struct prl_flow_key *key, const struct prl_flow_key *flow)
{
    *key = *flow;
    key->vlans = 0;
}

static __always_inline int prl_is_waiting(const struct prl_newborn *newborn, __u64 now_ns)
{
    return (__s64)(PRL_READ(newborn->until_ns) - now_ns) > 0;
}

#endif /* PRL_BIRTH_H */
