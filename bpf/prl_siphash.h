/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The rounds of SipHash (Aumasson, Bernstein, 2012), for the BPF programs and for userspace (userspace/flow/siphash.c). */
#ifndef PRL_SIPHASH_H
#define PRL_SIPHASH_H

#include "prl_abi.h"

#define PRL_SIPHASH_FINAL 0xff

static inline __attribute__((always_inline)) __u64 prl_siphash_rotate(__u64 value, unsigned int bits)
{
    return value << bits | value >> (64 - bits);
}

static inline __attribute__((always_inline)) void prl_siphash_begin(__u64 v[4], const __u64 key[2])
{
    v[0] = key[0] ^ 0x736f6d6570736575ull;
    v[1] = key[1] ^ 0x646f72616e646f6dull;
    v[2] = key[0] ^ 0x6c7967656e657261ull;
    v[3] = key[1] ^ 0x7465646279746573ull;
}

static inline __attribute__((always_inline)) void prl_siphash_mix(__u64 v[4])
{
    v[0] += v[1];
    v[1] = prl_siphash_rotate(v[1], 13) ^ v[0];
    v[0] = prl_siphash_rotate(v[0], 32);
    v[2] += v[3];
    v[3] = prl_siphash_rotate(v[3], 16) ^ v[2];
    v[0] += v[3];
    v[3] = prl_siphash_rotate(v[3], 21) ^ v[0];
    v[2] += v[1];
    v[1] = prl_siphash_rotate(v[1], 17) ^ v[2];
    v[2] = prl_siphash_rotate(v[2], 32);
}

/* One word of the message; a compile-time number of rounds. */
static inline __attribute__((always_inline)) void prl_siphash_take(__u64 v[4], __u64 word, unsigned int rounds)
{
    v[3] ^= word;
    for (unsigned int i = 0; i < rounds; i++)
        prl_siphash_mix(v);
    v[0] ^= word;
}

/* SipHash-2-4 of so many words, little-endian as all that prl runs on; a compile-time number of them. */
static inline __attribute__((always_inline)) __u64 prl_siphash_words(const __u64 key[2], const __u64 *word,
                                                                     unsigned int words)
{
    __u64 v[4];

    prl_siphash_begin(v, key);
    for (unsigned int i = 0; i < words; i++)
        prl_siphash_take(v, word[i], 2);
    prl_siphash_take(v, (__u64)words << 59, 2); /* the length, 8 bytes each, in the uppermost byte */
    v[2] ^= PRL_SIPHASH_FINAL;
    for (unsigned int i = 0; i < 4; i++)
        prl_siphash_mix(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* The MAC of a claim (L7). */
static inline __attribute__((always_inline)) __u64 prl_claim_mac(const __u64 key[2],
                                                                 const struct prl_claimed *claimed)
{
    __u64 word[PRL_CLAIMED_WORDS];

    __builtin_memcpy(word, claimed, sizeof(word));
    return prl_siphash_words(key, word, PRL_CLAIMED_WORDS);
}

/* The MAC of a probe, or of an answer to one (L3a). */
static inline __attribute__((always_inline)) __u64 prl_probe_mac(const __u64 key[2], const struct prl_probe *probe)
{
    __u64 word[PRL_PROBE_WORDS];

    __builtin_memcpy(word, probe, sizeof(word));
    return prl_siphash_words(key, word, PRL_PROBE_WORDS);
}

#endif /* PRL_SIPHASH_H */
