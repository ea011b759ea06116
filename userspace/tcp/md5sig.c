/* SPDX-License-Identifier: BSD-2-Clause */
#include "tcp/md5sig.h"

#include <netinet/in.h>
#include <string.h>

#include "tcp/packet.h"

#define BLOCK_BYTES 64u
#define LENGTH_AT 56u /* in the last block */
#define TCP_HEADER_BYTES 20u
#define TCP_CHECK_AT 16u

/* ---- MD5 (RFC 1321, 3.4) ---- */

static const uint32_t sine[64] = {
    0xd76aa478, 0xe8c7b756, 0x242070db, 0xc1bdceee, 0xf57c0faf, 0x4787c62a, 0xa8304613, 0xfd469501,
    0x698098d8, 0x8b44f7af, 0xffff5bb1, 0x895cd7be, 0x6b901122, 0xfd987193, 0xa679438e, 0x49b40821,
    0xf61e2562, 0xc040b340, 0x265e5a51, 0xe9b6c7aa, 0xd62f105d, 0x02441453, 0xd8a1e681, 0xe7d3fbc8,
    0x21e1cde6, 0xc33707d6, 0xf4d50d87, 0x455a14ed, 0xa9e3e905, 0xfcefa3f8, 0x676f02d9, 0x8d2a4c8a,
    0xfffa3942, 0x8771f681, 0x6d9d6122, 0xfde5380c, 0xa4beea44, 0x4bdecfa9, 0xf6bb4b60, 0xbebfbc70,
    0x289b7ec6, 0xeaa127fa, 0xd4ef3085, 0x04881d05, 0xd9d4d039, 0xe6db99e5, 0x1fa27cf8, 0xc4ac5665,
    0xf4292244, 0x432aff97, 0xab9423a7, 0xfc93a039, 0x655b59c3, 0x8f0ccc92, 0xffeff47d, 0x85845dd1,
    0x6fa87e4f, 0xfe2ce6e0, 0xa3014314, 0x4e0811a1, 0xf7537e82, 0xbd3af235, 0x2ad7d2bb, 0xeb86d391,
};
static const uint8_t turn[4][4] = {{7, 12, 17, 22}, {5, 9, 14, 20}, {4, 11, 16, 23}, {6, 10, 15, 21}};

struct md5 {
    uint32_t state[4];
    uint64_t bytes;
    uint8_t block[BLOCK_BYTES];
};

static uint32_t get_le(const uint8_t *at)
{
    return (uint32_t)at[3] << 24 | (uint32_t)at[2] << 16 | (uint32_t)at[1] << 8 | at[0];
}

static void put_le(uint8_t *at, uint32_t word)
{
    for (uint32_t i = 0; i < 4; i++)
        at[i] = (uint8_t)(word >> 8 * i);
}

/* One step of round `round`; the four rounds differ in the function and in the order of the words. */
static uint32_t mixed(uint32_t round, uint32_t b, uint32_t c, uint32_t d)
{
    switch (round) {
    case 0:
        return (b & c) | (~b & d);
    case 1:
        return (b & d) | (c & ~d);
    case 2:
        return b ^ c ^ d;
    default:
        return c ^ (b | ~d);
    }
}

static void add_block(struct md5 *md5, const uint8_t *block)
{
    static const uint8_t factor[4] = {1, 5, 3, 7}, offset[4] = {0, 1, 5, 0};
    uint32_t a = md5->state[0], b = md5->state[1], c = md5->state[2], d = md5->state[3];

    for (uint32_t i = 0; i < 64; i++) {
        uint32_t round = i / 16, by = turn[round][i % 4];
        uint32_t word = get_le(block + 4 * ((factor[round] * i + offset[round]) % 16));
        uint32_t sum = a + mixed(round, b, c, d) + word + sine[i];

        a = d;
        d = c;
        c = b;
        b += sum << by | sum >> (32 - by);
    }
    md5->state[0] += a;
    md5->state[1] += b;
    md5->state[2] += c;
    md5->state[3] += d;
}

static void add(struct md5 *md5, const uint8_t *data, size_t bytes)
{
    size_t have = md5->bytes % BLOCK_BYTES;

    md5->bytes += bytes;
    if (have + bytes < BLOCK_BYTES) {
        memcpy(md5->block + have, data, bytes);
        return;
    }
    if (have) {
        memcpy(md5->block + have, data, BLOCK_BYTES - have);
        add_block(md5, md5->block);
        data += BLOCK_BYTES - have;
        bytes -= BLOCK_BYTES - have;
    }
    for (; bytes >= BLOCK_BYTES; data += BLOCK_BYTES, bytes -= BLOCK_BYTES)
        add_block(md5, data);
    memcpy(md5->block, data, bytes);
}

void prl_md5(const struct prl_md5_piece *piece, uint32_t count, uint8_t out[PRL_MD5_DIGEST_BYTES])
{
    static const uint8_t padding[BLOCK_BYTES] = {0x80};
    struct md5 md5 = {.state = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476}};
    uint8_t bits[8];

    for (uint32_t i = 0; i < count; i++)
        if (piece[i].bytes)
            add(&md5, piece[i].data, piece[i].bytes);
    put_le(bits, (uint32_t)(md5.bytes << 3));
    put_le(bits + 4, (uint32_t)(md5.bytes >> 29));
    add(&md5, padding, 1 + (LENGTH_AT - 1 - md5.bytes) % BLOCK_BYTES);
    add(&md5, bits, sizeof(bits));
    for (uint32_t i = 0; i < 4; i++)
        put_le(out + 4 * i, md5.state[i]);
}

/* ---- RFC 2385, 2.0 ---- */

static void signature(const uint8_t *l3, const struct prl_packet *packet, const struct prl_md5_key *key,
                      uint8_t out[PRL_MD5_DIGEST_BYTES])
{
    uint32_t l4_bytes = packet->l3_bytes - packet->l4_offset;
    uint8_t header[TCP_HEADER_BYTES];
    /* IPv4: zero, protocol, length in 16 bits; IPv6: length in 32 bits, zeros, next header (RFC 8200, 8.1). */
    const uint8_t tail4[4] = {0, IPPROTO_TCP, (uint8_t)(l4_bytes >> 8), (uint8_t)l4_bytes};
    const uint8_t tail6[8] = {(uint8_t)(l4_bytes >> 24),
                              (uint8_t)(l4_bytes >> 16),
                              (uint8_t)(l4_bytes >> 8),
                              (uint8_t)l4_bytes,
                              0,
                              0,
                              0,
                              IPPROTO_TCP};
    bool v4 = packet->version == 4;
    const struct prl_md5_piece piece[] = {
        {l3 + (v4 ? 12 : 8), v4 ? 8 : 32}, /* both addresses */
        {v4 ? tail4 : tail6, v4 ? sizeof(tail4) : sizeof(tail6)},
        {header, sizeof(header)},
        {l3 + packet->data_offset, packet->payload_bytes},
        {key->key, key->bytes},
    };

    memcpy(header, l3 + packet->l4_offset, sizeof(header));
    memset(header + TCP_CHECK_AT, 0, 2);
    prl_md5(piece, sizeof(piece) / sizeof(piece[0]), out);
}

bool prl_md5sig_sign(uint8_t *l3, const struct prl_packet *packet, const struct prl_md5_key *key)
{
    if (!packet->md5_offset)
        return false;
    signature(l3, packet, key, l3 + packet->md5_offset);
    return true;
}

bool prl_md5sig_check(const uint8_t *l3, const struct prl_packet *packet, const struct prl_md5_key *key)
{
    uint8_t expected[PRL_MD5_DIGEST_BYTES];

    if (!packet->md5_offset)
        return false;
    signature(l3, packet, key, expected);
    return memcmp(expected, l3 + packet->md5_offset, sizeof(expected)) == 0;
}
