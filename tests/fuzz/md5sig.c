/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * TCP signatures (md5sig.h): MD5 is OpenSSL's, however the bytes are cut; what is signed is accepted, by that key alone, and
 * nothing but the signature has changed.
 */
#include "tcp/md5sig.h"
#include "tcp/packet.h"
#include "wire/wire.h"

#include <netinet/in.h>
#include <stdbool.h>
#include <openssl/evp.h>

#include "fuzz.h"

static void digest(const uint8_t *bytes, size_t count, struct fuzz_input *input)
{
    uint8_t found[PRL_MD5_DIGEST_BYTES], expected[EVP_MAX_MD_SIZE];
    size_t first = fuzz_number(input, 2) % (count + 1),
           second = first + fuzz_number(input, 1) % (count - first + 1);
    uint8_t *part[3] = {
        fuzz_exact(bytes, first),
        fuzz_exact(bytes + first, second - first),
        fuzz_exact(bytes + second, count - second),
    };
    struct prl_md5_piece piece[] = {
        {part[0], first},
        {part[1], second - first},
        {part[2], count - second},
    };

    prl_md5(piece, 3, found);
    assert(EVP_Digest(bytes, count, expected, NULL, EVP_md5(), NULL) == 1);
    assert(!memcmp(found, expected, sizeof(found)));
    for (int i = 0; i < 3; i++)
        free(part[i]);
}

static void signature(const uint8_t *bytes, uint32_t count, const struct prl_md5_key *key, uint32_t where)
{
    uint8_t *exact = fuzz_exact(bytes, count);
    struct prl_md5_key other = *key;
    struct prl_packet packet, again;

    if (prl_packet_parse(exact, count, count, false, &packet) == 0 && packet.proto == IPPROTO_TCP) {
        bool has_place = packet.md5_offset != 0;

        assert(prl_md5sig_sign(exact, &packet, key) == has_place);
        assert(prl_md5sig_check(exact, &packet, key) == has_place);
        assert(prl_packet_parse(exact, count, count, false, &again) == 0);
        for (uint32_t i = 0; i < count; i++)
            assert(exact[i] == bytes[i] ||
                   (has_place && i >= packet.md5_offset && i < packet.md5_offset + PRL_MD5_DIGEST_BYTES));
        if (key->bytes) {
            other.key[where % key->bytes] ^= 1;
            assert(!prl_md5sig_check(exact, &packet, &other));
        }
        if (packet.payload_bytes) {
            exact[packet.data_offset + where % packet.payload_bytes] ^= 0x10;
            assert(!prl_md5sig_check(exact, &packet, key));
        }
    }
    free(exact);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct fuzz_input input = {data, bytes};
    struct prl_md5_key key = {0};
    uint32_t where;

    key.bytes = (uint32_t)fuzz_number(&input, 1) % (PRL_MD5_KEY_MAX + 1);
    fuzz_take(&input, key.key, key.bytes);
    where = (uint32_t)fuzz_number(&input, 2);
    if (input.left > PRL_PACKET_MAX)
        return 0;
    signature(input.at, (uint32_t)input.left, &key, where);
    digest(data, bytes, &input);
    return 0;
}
