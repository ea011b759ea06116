/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Common to the harnesses: libFuzzer's entry, and an input that is eaten from its front. What runs out gives zeros, so that
 * every input means something. What must hold is an assertion: libFuzzer keeps the input that breaks one.
 */
#ifndef PRL_FUZZ_H
#define PRL_FUZZ_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef NDEBUG
#error "the assertions are what a harness is for"
#endif

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

struct fuzz_input {
    const uint8_t *at;
    size_t left;
};

static inline void fuzz_take(struct fuzz_input *input, void *into, size_t bytes)
{
    size_t have = bytes < input->left ? bytes : input->left;

    memset(into, 0, bytes);
    if (have)
        memcpy(into, input->at, have);
    input->at += have;
    input->left -= have;
}

static inline uint64_t fuzz_number(struct fuzz_input *input, unsigned int width)
{
    uint8_t raw[8];
    uint64_t value = 0;

    fuzz_take(input, raw, width);
    for (unsigned int i = 0; i < width; i++)
        value = value << 8 | raw[i];
    return value;
}

/* A copy in memory of exactly its size: the address sanitizer sees any access beyond it. The caller frees it. */
static inline uint8_t *fuzz_exact(const void *bytes, size_t count)
{
    uint8_t *copy = malloc(count ? count : 1);

    if (!copy)
        abort();
    if (count)
        memcpy(copy, bytes, count);
    return copy;
}

/* Reads every byte, so that the sanitizer says whether it may be read. */
static inline void fuzz_touch(const void *bytes, size_t count)
{
    const volatile uint8_t *at = bytes;

    for (size_t i = 0; i < count; i++)
        (void)at[i];
}

#endif /* PRL_FUZZ_H */
