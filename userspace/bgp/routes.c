/* SPDX-License-Identifier: BSD-2-Clause */
#include "bgp/routes.h"

#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_ROOM 1024u
#define FIRST_INDEX 2048u /* a power of two */
#define ALIGN 4u

int prl_bgp_routes_init(struct prl_bgp_routes *routes, uint32_t family)
{
    memset(routes, 0, sizeof(*routes));
    routes->key_bytes = prl_bgp_key_bytes(family);
    routes->row_bytes =
        ((uint32_t)offsetof(struct prl_bgp_row, key) + routes->key_bytes + ALIGN - 1) / ALIGN * ALIGN;
    return prl_siphash_key(&routes->secret);
}

void prl_bgp_routes_destroy(struct prl_bgp_routes *routes)
{
    free(routes->rows);
    free(routes->index);
    memset(routes, 0, sizeof(*routes));
}

struct prl_bgp_row *prl_bgp_routes_row(const struct prl_bgp_routes *routes, uint32_t row)
{
    return (struct prl_bgp_row *)(void *)(routes->rows + (size_t)row * routes->row_bytes);
}

static uint32_t number_of(const struct prl_bgp_routes *routes, const struct prl_bgp_row *row)
{
    return (uint32_t)((size_t)((const uint8_t *)row - routes->rows) / routes->row_bytes);
}

static uint32_t hash_of(const struct prl_bgp_routes *routes, const uint8_t *key)
{
    return (uint32_t)prl_siphash(&routes->secret, key, routes->key_bytes);
}

/* The cell of the index that has this row, or the free one where it belongs. */
static uint32_t cell_of(const struct prl_bgp_routes *routes, const uint8_t *key)
{
    uint32_t cell = hash_of(routes, key) & routes->index_mask;

    while (routes->index[cell] &&
           memcmp(prl_bgp_routes_row(routes, routes->index[cell] - 1)->key, key, routes->key_bytes) != 0)
        cell = (cell + 1) & routes->index_mask;
    return cell;
}

struct prl_bgp_row *prl_bgp_routes_find(const struct prl_bgp_routes *routes, const struct prl_bgp_prefix *prefix)
{
    uint32_t found;

    if (!routes->count)
        return NULL;
    found = routes->index[cell_of(routes, prefix->key)];
    return found ? prl_bgp_routes_row(routes, found - 1) : NULL;
}

/* The index is at most three quarters full. */
static int index_room(struct prl_bgp_routes *routes)
{
    uint32_t cells = routes->index ? routes->index_mask + 1 : 0, wanted = cells ? cells * 2 : FIRST_INDEX, *index;

    if (routes->count + 1 <= cells / 4 * 3)
        return 0;
    index = calloc(wanted, sizeof(*index));
    if (!index)
        return -ENOMEM;
    free(routes->index);
    routes->index = index;
    routes->index_mask = wanted - 1;
    for (uint32_t i = 0; i < routes->end; i++) {
        const struct prl_bgp_row *row = prl_bgp_routes_row(routes, i);

        if (row->set[0] || row->set[1])
            index[cell_of(routes, row->key)] = i + 1;
    }
    return 0;
}

static int row_room(struct prl_bgp_routes *routes)
{
    uint32_t room = routes->room ? routes->room + routes->room / 4 : FIRST_ROOM;
    uint8_t *rows;

    if (routes->free || routes->end < routes->room)
        return 0;
    rows = realloc(routes->rows, (size_t)room * routes->row_bytes);
    if (!rows)
        return -ENOMEM;
    routes->rows = rows;
    routes->room = room;
    return 0;
}

struct prl_bgp_row *prl_bgp_routes_add(struct prl_bgp_routes *routes, const struct prl_bgp_prefix *prefix)
{
    struct prl_bgp_row *row;
    uint32_t number;

    if (index_room(routes) < 0 || row_room(routes) < 0)
        return NULL;
    if (routes->free) {
        number = routes->free - 1;
        row = prl_bgp_routes_row(routes, number);
        memcpy(&routes->free, row->key, sizeof(routes->free));
    } else {
        number = routes->end++;
        row = prl_bgp_routes_row(routes, number);
    }
    memset(row, 0, routes->row_bytes);
    memcpy(row->key, prefix->key, routes->key_bytes);
    routes->index[cell_of(routes, row->key)] = number + 1;
    routes->count++;
    return row;
}

void prl_bgp_routes_remove(struct prl_bgp_routes *routes, struct prl_bgp_row *row)
{
    uint32_t mask = routes->index_mask, hole = cell_of(routes, row->key), next, number = number_of(routes, row);

    assert(!row->set[0] && !row->set[1] && routes->index[hole] == number + 1);
    /* What stands behind the hole, and not where its hash says, moves up. */
    for (next = (hole + 1) & mask; routes->index[next]; next = (next + 1) & mask) {
        uint32_t home = hash_of(routes, prl_bgp_routes_row(routes, routes->index[next] - 1)->key) & mask;

        if (((next - home) & mask) >= ((next - hole) & mask)) {
            routes->index[hole] = routes->index[next];
            hole = next;
        }
    }
    routes->index[hole] = 0;
    memcpy(row->key, &routes->free, sizeof(routes->free));
    routes->free = number + 1;
    routes->count--;
}

void prl_bgp_routes_trim(struct prl_bgp_routes *routes)
{
    if (routes->count)
        return;
    free(routes->rows);
    free(routes->index);
    routes->rows = NULL;
    routes->index = NULL;
    routes->index_mask = routes->room = routes->end = routes->free = 0;
}

uint64_t prl_bgp_routes_bytes(const struct prl_bgp_routes *routes)
{
    return (uint64_t)routes->room * routes->row_bytes +
           (routes->index ? (routes->index_mask + 1ull) * sizeof(*routes->index) : 0);
}
