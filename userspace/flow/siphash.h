/* SPDX-License-Identifier: BSD-2-Clause */
/* SipHash-1-3 (Aumasson, Bernstein, 2012): a hash for tables whose keys others choose; without the key nobody finds collisions. */
#ifndef PRL_FLOW_SIPHASH_H
#define PRL_FLOW_SIPHASH_H

#ifndef PRL_CFFI
#include <stddef.h>
#include <stdint.h>
#endif

#include "prl_abi.h"

struct prl_siphash_key {
    uint64_t word[2];
};

/* A random one. 0 or -errno. */
int prl_siphash_key(struct prl_siphash_key *key);
uint64_t prl_siphash(const struct prl_siphash_key *key, const void *data, size_t bytes);
/* The MAC of a claim (L7), as XDP makes it: SipHash-2-4. */
uint64_t prl_siphash_claim(const struct prl_siphash_key *key, const struct prl_claimed *claimed);
/* The MAC of a probe (L3a), as it stands in it: SipHash-2-4. */
uint64_t prl_siphash_probe(const struct prl_siphash_key *key, const struct prl_probe *probe);

#endif /* PRL_FLOW_SIPHASH_H */
