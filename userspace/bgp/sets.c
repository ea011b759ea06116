/* SPDX-License-Identifier: BSD-2-Clause */
#include "bgp/sets.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_ROOM 256u /* a power of two: of an index it is half */
#define FLAGS_MEANT 0xe0 /* optional, transitive, partial (RFC 4271 section 4.3) */
#define TYPES 256

struct prl_bgp_set {
    uint32_t hash;
    uint32_t references;
    uint32_t bytes;
    uint8_t content[];
};

int prl_bgp_sets_init(struct prl_bgp_sets *sets, uint64_t bytes_max)
{
    memset(sets, 0, sizeof(*sets));
    sets->bytes_max = bytes_max;
    sets->fresh = 1;
    sets->room = FIRST_ROOM;
    sets->index_mask = 2 * FIRST_ROOM - 1;
    sets->at = (struct prl_bgp_set **)calloc(sets->room, sizeof(struct prl_bgp_set *));
    sets->free = calloc(sets->room, sizeof(uint32_t));
    sets->index = calloc(sets->index_mask + 1, sizeof(uint32_t));
    if (!sets->at || !sets->free || !sets->index) {
        prl_bgp_sets_destroy(sets);
        return -ENOMEM;
    }
    return prl_siphash_key(&sets->key);
}

void prl_bgp_sets_destroy(struct prl_bgp_sets *sets)
{
    if (sets->at)
        for (uint32_t number = 1; number < sets->fresh; number++)
            free(sets->at[number]);
    free((void *)sets->at);
    free(sets->free);
    free(sets->index);
    memset(sets, 0, sizeof(*sets));
}

uint32_t prl_bgp_sets_used(const struct prl_bgp_sets *sets)
{
    return sets->fresh - 1 - sets->freed;
}

uint64_t prl_bgp_sets_memory(const struct prl_bgp_sets *sets)
{
    return sets->bytes + sets->room * (uint64_t)(sizeof(struct prl_bgp_set *) + 3 * sizeof(uint32_t));
}

uint32_t prl_bgp_set_spell(const struct prl_bgp_update *update, enum prl_bgp_form form, uint8_t *into)
{
    const uint8_t *list = update->attributes.at;
    struct prl_bgp_attr attr[TYPES];
    uint8_t seen[TYPES] = {0}, *to = into;
    uint32_t left = update->attributes.bytes;

    while (left) {
        struct prl_bgp_attr next;
        int taken = prl_bgp_attr_take(list, left, &next);

        assert(taken > 0);
        list += taken;
        left -= (uint32_t)taken;
        if (!seen[next.type]) {
            attr[next.type] = next;
            seen[next.type] = 1;
        }
    }
    *to++ = (uint8_t)form;
    if (form == PRL_BGP_FORM_REACH) {
        *to++ = (uint8_t)update->next_hop.bytes;
        memcpy(to, update->next_hop.at, update->next_hop.bytes);
        to += update->next_hop.bytes;
        seen[PRL_BGP_NEXT_HOP] = 0; /* of the routes in the fields of IPv4 (RFC 4760 section 3) */
    }
    seen[PRL_BGP_MP_REACH] = seen[PRL_BGP_MP_UNREACH] = 0;
    for (uint32_t type = 0; type < TYPES; type++) {
        const struct prl_bgp_attr *one = &attr[type];

        if (!seen[type])
            continue;
        *to++ = (one->flags & FLAGS_MEANT) | (one->value.bytes > UINT8_MAX ? PRL_BGP_ATTRIBUTE_EXTENDED : 0);
        *to++ = (uint8_t)type;
        if (one->value.bytes > UINT8_MAX)
            *to++ = (uint8_t)(one->value.bytes >> 8);
        *to++ = (uint8_t)one->value.bytes;
        memcpy(to, one->value.at, one->value.bytes);
        to += one->value.bytes;
    }
    return (uint32_t)(to - into);
}

/* What a set takes of the limit: its allocation. */
static uint64_t weight(uint32_t bytes)
{
    return sizeof(struct prl_bgp_set) + bytes;
}

static void put_into_index(struct prl_bgp_sets *sets, uint32_t number)
{
    uint32_t cell = sets->at[number]->hash & sets->index_mask;

    while (sets->index[cell])
        cell = (cell + 1) & sets->index_mask;
    sets->index[cell] = number;
}

/* Room for one more number: `at` and `free` are as long as each other, the index is twice that. */
static int make_room(struct prl_bgp_sets *sets)
{
    uint32_t room = sets->room * 2, *freed, *index;
    struct prl_bgp_set **at;

    if (sets->freed || sets->fresh < sets->room)
        return 0;
    at = (struct prl_bgp_set **)realloc((void *)sets->at, room * sizeof(struct prl_bgp_set *));
    if (!at)
        return -ENOMEM;
    sets->at = at;
    freed = realloc(sets->free, room * sizeof(*freed));
    if (!freed)
        return -ENOMEM;
    sets->free = freed;
    index = calloc(2 * (size_t)room, sizeof(*index));
    if (!index)
        return -ENOMEM;
    free(sets->index);
    sets->index = index;
    sets->index_mask = 2 * room - 1;
    sets->room = room;
    for (uint32_t number = 1; number < sets->fresh; number++)
        put_into_index(sets, number); /* none is freed */
    return 0;
}

int prl_bgp_sets_take(struct prl_bgp_sets *sets, const uint8_t *content, uint32_t bytes, uint32_t *number)
{
    uint32_t hash = (uint32_t)prl_siphash(&sets->key, content, bytes), cell;
    struct prl_bgp_set *set;

    for (cell = hash & sets->index_mask; sets->index[cell]; cell = (cell + 1) & sets->index_mask) {
        set = sets->at[sets->index[cell]];
        if (set->hash == hash && set->bytes == bytes && !memcmp(set->content, content, bytes)) {
            set->references++;
            *number = sets->index[cell];
            return 0;
        }
    }
    if (sets->bytes + weight(bytes) > sets->bytes_max)
        return -ENOSPC;
    set = make_room(sets) < 0 ? NULL : malloc(sizeof(*set) + bytes);
    if (!set)
        return -ENOMEM;
    set->hash = hash;
    set->references = 1;
    set->bytes = bytes;
    memcpy(set->content, content, bytes);
    *number = sets->freed ? sets->free[--sets->freed] : sets->fresh++;
    sets->at[*number] = set;
    sets->bytes += weight(bytes);
    put_into_index(sets, *number);
    return 0;
}

void prl_bgp_sets_hold(struct prl_bgp_sets *sets, uint32_t number)
{
    sets->at[number]->references++;
}

/* Open addressing without tombstones: what stands behind the hole, and not where its hash says, moves up. */
static void take_from_index(struct prl_bgp_sets *sets, uint32_t number)
{
    uint32_t mask = sets->index_mask, hole = sets->at[number]->hash & mask, next;

    while (sets->index[hole] != number)
        hole = (hole + 1) & mask;
    for (next = (hole + 1) & mask; sets->index[next]; next = (next + 1) & mask) {
        uint32_t home = sets->at[sets->index[next]]->hash & mask;

        if (((next - home) & mask) >= ((next - hole) & mask)) {
            sets->index[hole] = sets->index[next];
            hole = next;
        }
    }
    sets->index[hole] = 0;
}

void prl_bgp_sets_drop(struct prl_bgp_sets *sets, uint32_t number)
{
    struct prl_bgp_set *set = sets->at[number];

    assert(set->references);
    if (--set->references)
        return;
    take_from_index(sets, number);
    sets->bytes -= weight(set->bytes);
    free(set);
    sets->at[number] = NULL;
    sets->free[sets->freed++] = number;
}

struct prl_bgp_span prl_bgp_sets_content(const struct prl_bgp_sets *sets, uint32_t number)
{
    return (struct prl_bgp_span){sets->at[number]->content, sets->at[number]->bytes};
}
