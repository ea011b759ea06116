/* SPDX-License-Identifier: BSD-2-Clause */
#include "bgp/rib.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bgp/message.h"
#include "bgp/pack.h"
#include "bgp/routes.h"
#include "bgp/sets.h"

#define SLICE 1024 /* routes that are sorted by what is said of them before they are packed */
#define AGES 256   /* so many numbers has the age of a row */
#define BOTH (1u << PRL_BGP_SOURCE | 1u << PRL_BGP_SENT)

_Static_assert(PRL_BGP_SENT + 1 == PRL_BGP_COLUMNS, "as many sets in a row as there are columns");

struct prl_bgp_rib {
    struct prl_bgp_limits limits;
    struct prl_bgp_routes routes[PRL_BGP_FAMILIES];
    struct prl_bgp_sets sets;
    uint32_t count[PRL_BGP_COLUMNS][PRL_BGP_FAMILIES];
    uint32_t differing;
    uint8_t age, age_before;
    uint32_t differing_of
        [AGES]; /* rows that have become different in an age; its number is free again when there are none */
    bool incomplete;
    struct prl_bgp_place next; /* where the difference goes on */
    /* Of one slice, while it is packed. */
    struct prl_bgp_row *row[SLICE];
    uint64_t order[SLICE]; /* what is said, in the upper half; which row, in the lower */
    const uint8_t *key[SLICE];
    uint8_t spelling[PRL_BGP_SET_MAX];
};

int prl_bgp_rib_open(struct prl_bgp_rib **rib, const struct prl_bgp_limits *limits)
{
    struct prl_bgp_rib *made;
    int error;

    if (!limits->routes_max || limits->routes_max > PRL_BGP_ROUTES_MAX || limits->paths >> PRL_BGP_FAMILIES)
        return -EINVAL;
    made = calloc(1, sizeof(*made));
    if (!made)
        return -ENOMEM;
    made->limits = *limits;
    error = prl_bgp_sets_init(&made->sets, limits->attributes_max);
    for (uint32_t family = 0; !error && family < PRL_BGP_FAMILIES; family++)
        error = prl_bgp_routes_init(&made->routes[family], family);
    if (error) {
        prl_bgp_rib_close(made);
        return error;
    }
    *rib = made;
    return 0;
}

void prl_bgp_rib_close(struct prl_bgp_rib *rib)
{
    if (!rib)
        return;
    for (uint32_t family = 0; family < PRL_BGP_FAMILIES; family++)
        prl_bgp_routes_destroy(&rib->routes[family]);
    prl_bgp_sets_destroy(&rib->sets);
    free(rib);
}

static bool has_paths(const struct prl_bgp_rib *rib, uint32_t family)
{
    return rib->limits.paths >> family & 1;
}

static uint32_t rows_of(const struct prl_bgp_rib *rib)
{
    uint32_t rows = 0;

    for (uint32_t family = 0; family < PRL_BGP_FAMILIES; family++)
        rows += rib->routes[family].count;
    return rows;
}

/* Gives a row this set in one column. All that is counted by what rows have is counted here. */
static void put_set(struct prl_bgp_rib *rib, uint32_t family, struct prl_bgp_row *row, uint32_t column,
                    uint32_t set)
{
    uint32_t old = row->set[column];
    bool differed = row->set[PRL_BGP_SOURCE] != row->set[PRL_BGP_SENT];

    if (old == set)
        return;
    if (set)
        prl_bgp_sets_hold(&rib->sets, set);
    row->set[column] = set;
    if (old)
        prl_bgp_sets_drop(&rib->sets, old);
    rib->count[column][family] += (set ? 1u : 0u) - (old ? 1u : 0u);
    if (differed) {
        rib->differing--;
        rib->differing_of[row->age]--;
    }
    if (row->set[PRL_BGP_SOURCE] != row->set[PRL_BGP_SENT]) {
        row->age = rib->age;
        rib->differing++;
        rib->differing_of[row->age]++;
    }
}

static void put_sets(struct prl_bgp_rib *rib, uint32_t family, struct prl_bgp_row *row, uint32_t columns,
                     uint32_t set)
{
    for (uint32_t column = 0; column < PRL_BGP_COLUMNS; column++)
        if (columns >> column & 1)
            put_set(rib, family, row, column, set);
    if (!row->set[PRL_BGP_SOURCE] && !row->set[PRL_BGP_SENT])
        prl_bgp_routes_remove(&rib->routes[family], row);
}

/* Adds the routes of a span to `count`. 0, or -EBADMSG: one of them is none. */
static int count_routes(const struct prl_bgp_rib *rib, uint32_t family, struct prl_bgp_span routes,
                        uint32_t *count)
{
    struct prl_bgp_prefix prefix;

    for (uint32_t done = 0; done < routes.bytes; (*count)++) {
        int taken =
            prl_bgp_prefix_take(family, has_paths(rib, family), routes.at + done, routes.bytes - done, &prefix);

        if (taken < 0)
            return taken;
        done += (uint32_t)taken;
    }
    return 0;
}

static void withdraw(struct prl_bgp_rib *rib, uint32_t columns, uint32_t family, struct prl_bgp_span routes)
{
    struct prl_bgp_prefix prefix;

    for (uint32_t done = 0; done < routes.bytes;) {
        struct prl_bgp_row *row;

        done += (uint32_t)prl_bgp_prefix_take(family, has_paths(rib, family), routes.at + done,
                                              routes.bytes - done, &prefix);
        row = prl_bgp_routes_find(&rib->routes[family], &prefix);
        if (row)
            put_sets(rib, family, row, columns, 0);
    }
}

static int announce_with(struct prl_bgp_rib *rib, uint32_t columns, uint32_t family, struct prl_bgp_span routes,
                         uint32_t set)
{
    struct prl_bgp_prefix prefix;

    for (uint32_t done = 0; done < routes.bytes;) {
        struct prl_bgp_row *row;

        done += (uint32_t)prl_bgp_prefix_take(family, has_paths(rib, family), routes.at + done,
                                              routes.bytes - done, &prefix);
        row = prl_bgp_routes_find(&rib->routes[family], &prefix);
        if (!row) {
            if (rows_of(rib) >= rib->limits.routes_max)
                return -ENOSPC;
            row = prl_bgp_routes_add(&rib->routes[family], &prefix);
            if (!row)
                return -ENOMEM;
        }
        put_sets(rib, family, row, columns, set);
    }
    return 0;
}

static int announce(struct prl_bgp_rib *rib, uint32_t columns, const struct prl_bgp_update *update,
                    enum prl_bgp_form form)
{
    bool reach = form == PRL_BGP_FORM_REACH;
    struct prl_bgp_span routes = reach ? update->reached : update->announced;
    uint32_t set, bytes;
    int error;

    if (!routes.bytes)
        return 0;
    bytes = prl_bgp_set_spell(update, form, rib->spelling);
    error = prl_bgp_sets_take(&rib->sets, rib->spelling, bytes, &set);
    if (error)
        return error;
    error = announce_with(rib, columns, reach ? update->reach_family : PRL_BGP_IPV4_UNICAST, routes, set);
    prl_bgp_sets_drop(&rib->sets, set); /* the rows have it */
    return error;
}

int prl_bgp_rib_apply(struct prl_bgp_rib *rib, uint32_t columns, const uint8_t *message, uint32_t bytes,
                      struct prl_bgp_applied *applied)
{
    struct prl_bgp_update update;
    uint32_t withdrawn = 0, announced = 0;
    int error;

    memset(applied, 0, sizeof(*applied));
    applied->end_of_rib = PRL_BGP_FAMILIES;
    if (rib->incomplete)
        return -ESTALE;
    if (columns & ~BOTH)
        return -EINVAL;
    if (prl_bgp_update_parse(message, bytes, &update) < 0 ||
        count_routes(rib, PRL_BGP_IPV4_UNICAST, update.withdrawn, &withdrawn) < 0 ||
        count_routes(rib, update.unreach_family, update.unreached, &withdrawn) < 0 ||
        count_routes(rib, PRL_BGP_IPV4_UNICAST, update.announced, &announced) < 0 ||
        count_routes(rib, update.reach_family, update.reached, &announced) < 0)
        return -EBADMSG;
    applied->families_unknown = update.families_unknown;
    applied->withdrawn = update.cut ? withdrawn + announced : withdrawn;
    applied->announced = update.cut ? 0 : announced;
    /* What an UPDATE both withdraws and announces is announced (RFC 4271 section 4.3). */
    withdraw(rib, columns, PRL_BGP_IPV4_UNICAST, update.withdrawn);
    withdraw(rib, columns, update.unreach_family, update.unreached);
    if (update.cut) {
        withdraw(rib, columns, PRL_BGP_IPV4_UNICAST, update.announced);
        withdraw(rib, columns, update.reach_family, update.reached);
        return PRL_BGP_AS_WITHDRAWN;
    }
    error = announce(rib, columns, &update, PRL_BGP_FORM_FIELDS);
    if (!error)
        error = announce(rib, columns, &update, PRL_BGP_FORM_REACH);
    rib->incomplete = error != 0;
    if (update.end_of_rib)
        applied->end_of_rib =
            update.unreach_family < PRL_BGP_FAMILIES ? update.unreach_family : PRL_BGP_IPV4_UNICAST;
    return error;
}

void prl_bgp_rib_clear(struct prl_bgp_rib *rib, uint32_t columns)
{
    for (uint32_t family = 0; family < PRL_BGP_FAMILIES; family++) {
        struct prl_bgp_routes *routes = &rib->routes[family];

        for (uint32_t i = 0; i < routes->end; i++) {
            struct prl_bgp_row *row = prl_bgp_routes_row(routes, i);

            if (row->set[PRL_BGP_SOURCE] || row->set[PRL_BGP_SENT])
                put_sets(rib, family, row, columns, 0);
        }
        prl_bgp_routes_trim(routes);
    }
    if ((columns & BOTH) == BOTH)
        rib->incomplete = false;
}

/* What a walk writes, and where. */
struct walk {
    bool difference; /* else the routes of `column` */
    uint32_t column;
    struct prl_bgp_place *place;
    uint32_t message_max;
    uint8_t *into;
    uint32_t room;
    uint32_t used;
    uint32_t looked;
};

static bool is_wanted(const struct walk *walk, const struct prl_bgp_row *row)
{
    return walk->difference ? row->set[PRL_BGP_SOURCE] != row->set[PRL_BGP_SENT] : row->set[walk->column] != 0;
}

/* What is to be said of a row. */
static struct prl_bgp_saying say(const struct prl_bgp_rib *rib, const struct walk *walk,
                                 const struct prl_bgp_row *row)
{
    uint32_t column = walk->difference ? PRL_BGP_SOURCE : walk->column, set = row->set[column];
    bool withdrawn = !set;

    return prl_bgp_saying(walk->place->family, has_paths(rib, walk->place->family),
                          prl_bgp_sets_content(&rib->sets, withdrawn ? row->set[PRL_BGP_SENT] : set), withdrawn);
}

/* The number by which rows are sorted: equal where what is said of them is. Withdrawals are first. */
static uint32_t saying_number(const struct prl_bgp_saying *saying, const struct walk *walk,
                              const struct prl_bgp_row *row)
{
    if (saying->withdrawn)
        return saying->form == PRL_BGP_FORM_REACH;
    return row->set[walk->difference ? PRL_BGP_SOURCE : walk->column] + 1; /* set numbers begin with 1 */
}

/*
 * Collects the next rows of the place's family, so many that each has room in a message of its own. Returns how many, and moves the place behind
 * the last that was looked at; -EMSGSIZE: the first would not fit into any message. `full`: the next one has no room.
 */
static int collect(struct prl_bgp_rib *rib, struct walk *walk, bool *full)
{
    const struct prl_bgp_routes *routes = &rib->routes[walk->place->family];
    uint32_t left = walk->room - walk->used, count = 0;

    *full = false;
    for (; walk->place->row < routes->end && count < SLICE && walk->looked < PRL_BGP_LOOK_MAX;
         walk->place->row++) {
        struct prl_bgp_row *row = prl_bgp_routes_row(routes, walk->place->row);
        struct prl_bgp_saying saying;
        uint32_t alone;

        walk->looked++;
        if (!is_wanted(walk, row))
            continue;
        saying = say(rib, walk, row);
        alone = prl_bgp_pack_alone(&saying, row->key);
        if (alone > walk->message_max) {
            if (!count)
                return -EMSGSIZE;
            break;
        }
        if (alone > left) {
            *full = true;
            break;
        }
        left -= alone;
        rib->row[count] = row;
        rib->order[count] = (uint64_t)saying_number(&saying, walk, row) << 32 | count;
        count++;
    }
    return (int)count;
}

static int by_order(const void *one, const void *other)
{
    uint64_t a = *(const uint64_t *)one, b = *(const uint64_t *)other;

    return (a > b) - (a < b);
}

static void pack_slice(struct prl_bgp_rib *rib, struct walk *walk, uint32_t count)
{
    qsort(rib->order, count, sizeof(rib->order[0]), by_order);
    for (uint32_t i = 0; i < count; i++)
        rib->key[i] = rib->row[(uint32_t)rib->order[i]]->key;
    for (uint32_t first = 0; first < count;) {
        uint32_t end = first, packed;
        struct prl_bgp_saying saying = say(rib, walk, rib->row[(uint32_t)rib->order[first]]);

        while (end < count && rib->order[end] >> 32 == rib->order[first] >> 32)
            end++;
        while (first < end) {
            walk->used += prl_bgp_pack(&saying, rib->key + first, end - first, walk->message_max,
                                       walk->into + walk->used, &packed);
            assert(packed && walk->used <= walk->room);
            first += packed;
        }
    }
    for (uint32_t i = 0; walk->difference && i < count; i++)
        put_sets(rib, walk->place->family, rib->row[i], 1u << PRL_BGP_SENT, rib->row[i]->set[PRL_BGP_SOURCE]);
}

static int64_t run(struct prl_bgp_rib *rib, struct walk *walk)
{
    bool full = false;

    if (walk->message_max < PRL_BGP_MESSAGE_MAX || walk->message_max > PRL_BGP_EXTENDED_MAX ||
        walk->room < walk->message_max || walk->room > INT32_MAX)
        return -EINVAL;
    if (rib->incomplete)
        return -ESTALE;
    while (!full && walk->looked < PRL_BGP_LOOK_MAX && (!walk->difference || rib->differing)) {
        int count;

        if (walk->place->family == PRL_BGP_FAMILIES) {
            if (!walk->difference)
                break;
            *walk->place = (struct prl_bgp_place){0}; /* what it was to find lies before where it began */
        }
        count = collect(rib, walk, &full);
        if (count < 0)
            return walk->used ? (int64_t)walk->used : count;
        pack_slice(rib, walk, (uint32_t)count);
        if (walk->place->row >= rib->routes[walk->place->family].end) {
            *walk->place = (struct prl_bgp_place){.family = walk->place->family + 1};
            if (!walk->difference)
                break;
        }
    }
    return walk->used;
}

int64_t prl_bgp_rib_difference(struct prl_bgp_rib *rib, uint32_t message_max, uint8_t *into, uint32_t room)
{
    return run(
        rib, &(struct walk){
                 .difference = true, .place = &rib->next, .message_max = message_max, .into = into, .room = room});
}

int64_t prl_bgp_rib_walk(struct prl_bgp_rib *rib, uint32_t column, struct prl_bgp_place *place,
                         uint32_t message_max, uint8_t *into, uint32_t room)
{
    if (column >= PRL_BGP_COLUMNS || place->family > PRL_BGP_FAMILIES)
        return -EINVAL;
    return run(rib, &(struct walk){
                        .column = column, .place = place, .message_max = message_max, .into = into, .room = room});
}

/* Where all numbers are taken, by routes that differ since so many ages, this age goes on. */
void prl_bgp_rib_age(struct prl_bgp_rib *rib)
{
    for (uint32_t tries = 0; tries < AGES; tries++) {
        uint8_t next = (uint8_t)(rib->age + 1 + tries);

        if (rib->differing_of[next] || next == rib->age || next == rib->age_before)
            continue;
        rib->age_before = rib->age;
        rib->age = next;
        return;
    }
}

void prl_bgp_rib_status(const struct prl_bgp_rib *rib, struct prl_bgp_rib_status *status)
{
    memset(status, 0, sizeof(*status));
    for (uint32_t family = 0; family < PRL_BGP_FAMILIES; family++) {
        status->source[family] = rib->count[PRL_BGP_SOURCE][family];
        status->sent[family] = rib->count[PRL_BGP_SENT][family];
        status->bytes += prl_bgp_routes_bytes(&rib->routes[family]);
    }
    status->differing = rib->differing;
    status->lasting = rib->differing - rib->differing_of[rib->age] -
                      (rib->age_before != rib->age ? rib->differing_of[rib->age_before] : 0);
    status->sets = prl_bgp_sets_used(&rib->sets);
    status->incomplete = rib->incomplete;
    status->attribute_bytes = rib->sets.bytes;
    status->bytes += sizeof(*rib) + prl_bgp_sets_memory(&rib->sets);
}
