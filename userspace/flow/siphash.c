/* SPDX-License-Identifier: BSD-2-Clause */
#include "flow/siphash.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "prl_siphash.h"

#define ROUNDS 1
#define FINAL_ROUNDS 3

int prl_siphash_key(struct prl_siphash_key *key)
{
    return getrandom(key, sizeof(*key), 0) == sizeof(*key) ? 0 : -errno;
}

uint64_t prl_siphash(const struct prl_siphash_key *key, const void *data, size_t bytes)
{
    const __u64 secret[2] = {key->word[0], key->word[1]};
    const uint8_t *at = data;
    uint64_t word, last = (uint64_t)bytes << 56;
    __u64 v[4];
    size_t left = bytes;

    prl_siphash_begin(v, secret);
    for (; left >= sizeof(word); left -= sizeof(word), at += sizeof(word)) {
        memcpy(&word, at, sizeof(word)); /* little-endian, as all that prl runs on */
        prl_siphash_take(v, word, ROUNDS);
    }
    word = 0;
    memcpy(&word, at, left);
    prl_siphash_take(v, last | word, ROUNDS);
    v[2] ^= PRL_SIPHASH_FINAL;
    for (int i = 0; i < FINAL_ROUNDS; i++)
        prl_siphash_mix(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

uint64_t prl_siphash_claim(const struct prl_siphash_key *key, const struct prl_claimed *claimed)
{
    const __u64 secret[2] = {key->word[0], key->word[1]};

    return prl_claim_mac(secret, claimed);
}

uint64_t prl_siphash_probe(const struct prl_siphash_key *key, const struct prl_probe *probe)
{
    const __u64 secret[2] = {key->word[0], key->word[1]};

    return prl_probe_mac(secret, probe);
}
