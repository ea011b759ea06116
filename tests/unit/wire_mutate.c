/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Feeds mutated messages to the decoder in buffers of exactly their size, so that the address sanitizer sees
 * any read beyond them. Input: messages, each behind its length (32 bits, host order). Run by test_wire.py.
 */
#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wire.h"

#define MESSAGE_MAX 4096
#define CORPUS_MAX 128

static uint32_t random_state = 1;

static uint32_t random_below(uint32_t limit)
{
    random_state = random_state * 1664525 + 1013904223;
    return (uint32_t)(((uint64_t)random_state * limit) >> 32);
}

static uint32_t touch(const uint8_t *bytes, size_t count)
{
    uint32_t sum = 0;

    for (size_t i = 0; i < count; i++)
        sum += bytes[i];
    return sum;
}

/* Returns 1 when the message was accepted. */
static int feed(const uint8_t *bytes, size_t count)
{
    uint8_t *exact = malloc(count ? count : 1);
    struct prl_msg msg;
    struct prl_tlv tlv;
    size_t at = 0;
    int error, more;

    if (!exact)
        abort();
    memcpy(exact, bytes, count);
    if (prl_wire_length(exact, count) > 0 && count)
        touch(exact, count);
    error = prl_wire_decode(exact, count, &msg);
    if (!error) {
        assert(msg.tlvs >= exact && msg.tlvs + msg.tlvs_bytes == exact + count);
        if (msg.data)
            touch(msg.data, msg.data_bytes);
        while ((more = prl_tlv_next(msg.tlvs, msg.tlvs_bytes, &at, &tlv)) > 0)
            touch(tlv.value, tlv.bytes);
        assert(more == 0);
    }
    at = 0;
    while (prl_tlv_next(exact, count, &at, &tlv) > 0)
        touch(tlv.value, tlv.bytes);
    free(exact);
    return !error;
}

int main(int argc, char **argv)
{
    static uint8_t corpus[CORPUS_MAX][MESSAGE_MAX];
    uint32_t size[CORPUS_MAX], messages = 0, accepted = 0;
    uint32_t rounds = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 1000;
    uint8_t work[MESSAGE_MAX + 8];

    while (messages < CORPUS_MAX && fread(&size[messages], 4, 1, stdin) == 1) {
        assert(size[messages] <= MESSAGE_MAX);
        assert(fread(corpus[messages], 1, size[messages], stdin) == size[messages]);
        messages++;
    }
    assert(messages > 0);
    for (uint32_t round = 0; round < rounds; round++) {
        uint32_t which = random_below(messages), bytes = size[which];

        memcpy(work, corpus[which], bytes);
        for (uint32_t edit = random_below(5); edit > 0 && bytes > 0; edit--)
            work[random_below(bytes)] = random_below(2) ? (uint8_t)random_below(256) : 0xff * random_below(2);
        if (random_below(3) == 0)
            bytes = random_below(bytes + 1);
        if (random_below(2) == 0 && bytes >= 8) { /* make the length agree, to get deeper */
            work[4] = work[5] = 0;
            work[6] = (uint8_t)(bytes >> 8);
            work[7] = (uint8_t)bytes;
        }
        accepted += feed(work, bytes);
    }
    printf("%u\n", accepted);
    return 0;
}
