/* SPDX-License-Identifier: BSD-2-Clause */
#include "core/hold.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tcp/serial.h"

int prl_pool_init(struct prl_pool *pool, uint32_t capacity)
{
    memset(pool, 0, sizeof(*pool));
    pool->slab = calloc(capacity ? capacity : 1, sizeof(*pool->slab));
    if (!pool->slab)
        return -ENOMEM;
    pool->capacity = capacity;
    for (uint32_t i = capacity; i > 0; i--) {
        pool->slab[i - 1].next = pool->free;
        pool->free = &pool->slab[i - 1];
    }
    return 0;
}

void prl_pool_destroy(struct prl_pool *pool)
{
    free(pool->slab);
    memset(pool, 0, sizeof(*pool));
}

struct prl_hold *prl_pool_get(struct prl_pool *pool)
{
    struct prl_hold *hold = pool->free;

    if (!hold)
        return NULL;
    pool->free = hold->next;
    pool->used++;
    memset(hold, 0, sizeof(*hold));
    return hold;
}

void prl_pool_put(struct prl_pool *pool, struct prl_hold *hold)
{
    assert(pool->used > 0);
    assert(hold >= pool->slab && hold < pool->slab + pool->capacity);
    hold->next = pool->free;
    pool->free = hold;
    pool->used--;
}

void prl_chain_push(struct prl_chain *chain, struct prl_hold *hold)
{
    hold->next = NULL;
    if (chain->tail)
        chain->tail->next = hold;
    else
        chain->head = hold;
    chain->tail = hold;
    chain->count++;
    chain->bytes += hold->bytes;
}

struct prl_hold *prl_chain_pop(struct prl_chain *chain)
{
    struct prl_hold *hold = chain->head;

    if (!hold)
        return NULL;
    chain->head = hold->next;
    if (!chain->head)
        chain->tail = NULL;
    chain->count--;
    chain->bytes -= hold->bytes;
    hold->next = NULL;
    return hold;
}

void prl_chain_split(struct prl_chain *from, uint32_t seq, struct prl_chain *to)
{
    while (from->head && prl_serial_le(from->head->seq, seq))
        prl_chain_push(to, prl_chain_pop(from));
}

void prl_chain_append(struct prl_chain *to, struct prl_chain *from)
{
    if (!from->head)
        return;
    if (to->tail)
        to->tail->next = from->head;
    else
        to->head = from->head;
    to->tail = from->tail;
    to->count += from->count;
    to->bytes += from->bytes;
    memset(from, 0, sizeof(*from));
}

struct prl_hold *prl_chain_take(struct prl_chain *chain, uint32_t seq)
{
    struct prl_hold *before = NULL;

    for (struct prl_hold *hold = chain->head; hold; before = hold, hold = hold->next) {
        if (hold->seq != seq)
            continue;
        if (!before)
            return prl_chain_pop(chain);
        before->next = hold->next;
        if (chain->tail == hold)
            chain->tail = before;
        chain->count--;
        chain->bytes -= hold->bytes;
        hold->next = NULL;
        return hold;
    }
    return NULL;
}

void prl_hold_times_add(struct prl_hold_times *times, uint64_t held_ns)
{
    uint64_t whole = held_ns >> PRL_HOLD_FIRST_BIT;
    uint32_t bucket = whole ? 64 - (uint32_t)__builtin_clzll(whole) : 0;

    times->sum_ns += held_ns;
    times->bucket[bucket < PRL_HOLD_BUCKETS ? bucket : PRL_HOLD_BUCKETS - 1]++;
}
