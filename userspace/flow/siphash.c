/* SPDX-License-Identifier: BSD-2-Clause */
#include "flow/siphash.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#define FINAL_ROUNDS 3

int prl_siphash_key(struct prl_siphash_key *key)
{
    return getrandom(key, sizeof(*key), 0) == sizeof(*key) ? 0 : -errno;
}

static uint64_t rotate(uint64_t value, unsigned int bits)
{
    return value << bits | value >> (64 - bits);
}

static void mix(uint64_t v[4])
{
    v[0] += v[1];
    v[1] = rotate(v[1], 13) ^ v[0];
    v[0] = rotate(v[0], 32);
    v[2] += v[3];
    v[3] = rotate(v[3], 16) ^ v[2];
    v[0] += v[3];
    v[3] = rotate(v[3], 21) ^ v[0];
    v[2] += v[1];
    v[1] = rotate(v[1], 17) ^ v[2];
    v[2] = rotate(v[2], 32);
}

static void take(uint64_t v[4], uint64_t word)
{
    v[3] ^= word;
    mix(v);
    v[0] ^= word;
}

uint64_t prl_siphash(const struct prl_siphash_key *key, const void *data, size_t bytes)
{
    uint64_t v[4] = {
        key->word[0] ^ 0x736f6d6570736575ull,
        key->word[1] ^ 0x646f72616e646f6dull,
        key->word[0] ^ 0x6c7967656e657261ull,
        key->word[1] ^ 0x7465646279746573ull,
    };
    const uint8_t *at = data;
    uint64_t word, last = (uint64_t)bytes << 56;
    size_t left = bytes;

    for (; left >= sizeof(word); left -= sizeof(word), at += sizeof(word)) {
        memcpy(&word, at, sizeof(word)); /* little-endian, as all that prl runs on */
        take(v, word);
    }
    word = 0;
    memcpy(&word, at, left);
    take(v, last | word);
    v[2] ^= 0xff;
    for (int i = 0; i < FINAL_ROUNDS; i++)
        mix(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}
