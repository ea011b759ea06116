/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The tables of a BGP front (bgp/rib.h). UPDATEs with any body, into either column; the difference; columns that are emptied. A second RIB is whoever
 * is sent all that: what is written is whole messages that it takes without a fault, and at the end it has what the first one's source says.
 */
#include "bgp/message.h"
#include "bgp/rib.h"

#include <errno.h>
#include <stdbool.h>

#include "fuzz.h"

#define SOURCE (1u << PRL_BGP_SOURCE)
#define SENT (1u << PRL_BGP_SENT)
#define STEPS_MAX 64
#define ROOM (2 * PRL_BGP_EXTENDED_MAX)

struct pair {
    struct prl_bgp_rib *rib;
    struct prl_bgp_rib *other;
    bool extended;
};

static uint8_t room[ROOM];

static uint32_t longest(const struct pair *pair)
{
    return pair->extended ? PRL_BGP_EXTENDED_MAX : PRL_BGP_MESSAGE_MAX;
}

static struct prl_bgp_rib *opened(uint32_t paths, uint32_t routes_max, uint64_t attributes_max)
{
    struct prl_bgp_limits limits = {.routes_max = routes_max, .paths = paths, .attributes_max = attributes_max};
    struct prl_bgp_rib *rib;

    assert(!prl_bgp_rib_open(&rib, &limits));
    return rib;
}

static uint32_t differing(const struct prl_bgp_rib *rib)
{
    struct prl_bgp_rib_status status;

    prl_bgp_rib_status(rib, &status);
    assert(!status.incomplete);
    return status.differing;
}

/* What was written, into a column of the other one. */
static void give(struct pair *pair, uint32_t columns, int64_t bytes)
{
    struct prl_bgp_applied applied;

    assert(bytes >= 0 && bytes <= ROOM);
    for (uint32_t done = 0; done < bytes;) {
        int length = prl_bgp_frame(room + done, (uint32_t)bytes - done, pair->extended);

        assert(length > 0);
        assert(prl_bgp_rib_apply(pair->other, columns, room + done, (uint32_t)length, &applied) == 0);
        assert(applied.withdrawn + applied.announced > 0 && !applied.families_unknown);
        done += (uint32_t)length;
    }
}

/* Without the link-local address it says what it said, and there is nothing more to be taken out. Freed here. */
static void cut(uint8_t *message, uint32_t bytes)
{
    struct prl_bgp_update before, after;
    int code = prl_bgp_update_parse(message, bytes, &before);
    uint32_t shorter = prl_bgp_cut_link_local(message, bytes);

    assert(prl_bgp_update_parse(message, shorter, &after) == code);
    if (!code) {
        assert(bytes - shorter == before.next_hop.bytes - after.next_hop.bytes);
        assert(after.reached.bytes == before.reached.bytes && after.announced.bytes == before.announced.bytes);
        assert(after.cut == before.cut);
    }
    assert(prl_bgp_cut_link_local(message, shorter) == shorter);
    free(message);
}

/* An UPDATE with a body of the input's. False: the RIB is incomplete. */
static bool update(struct pair *pair, struct fuzz_input *input, uint32_t columns)
{
    uint32_t body = (uint32_t)fuzz_number(input, 2), bytes;
    struct prl_bgp_applied applied, again;
    uint8_t *message;
    int length, done;

    if (body > input->left)
        body = (uint32_t)input->left;
    if (body > PRL_BGP_EXTENDED_MAX - PRL_BGP_HEADER)
        body = PRL_BGP_EXTENDED_MAX - PRL_BGP_HEADER;
    bytes = PRL_BGP_HEADER + body;
    message = malloc(bytes);
    assert(message);
    memset(message, 0xff, PRL_BGP_HEADER - 3);
    message[16] = (uint8_t)(bytes >> 8);
    message[17] = (uint8_t)bytes;
    message[18] = PRL_BGP_UPDATE;
    fuzz_take(input, message + PRL_BGP_HEADER, body);
    length = prl_bgp_frame(message, bytes, pair->extended);
    done = 0;
    if (length == (int)bytes) {
        done = prl_bgp_rib_apply(pair->rib, columns, message, bytes, &applied);
        if (done >= 0 && columns & SENT) {
            assert(prl_bgp_rib_apply(pair->other, SENT, message, bytes, &again) == done);
            assert(!memcmp(&applied, &again, sizeof(again)));
        }
    } else {
        assert(length == -2); /* too short, or too long */
    }
    cut(message, bytes);
    assert(done >= 0 || done == -EBADMSG || done == -ENOSPC);
    return done != -ENOSPC;
}

static void stream(struct fuzz_input *input, bool extended)
{
    uint32_t bytes = (uint32_t)fuzz_number(input, 1);
    uint8_t *exact = fuzz_exact(input->at, bytes < input->left ? bytes : input->left);
    int length = prl_bgp_frame(exact, bytes < input->left ? bytes : (uint32_t)input->left, extended);

    assert(length >= -2 && length <= (int)bytes);
    free(exact);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct fuzz_input input = {data, bytes};
    uint8_t how = (uint8_t)fuzz_number(&input, 1);
    struct pair pair = {
        .rib = opened(how & 15, 4000, 1 << 18),
        .other = opened(how & 15, 100000, 1 << 24),
        .extended = how & 16,
    };
    struct prl_bgp_place place = {0};
    bool complete = true;

    for (int step = 0; step < STEPS_MAX && input.left && complete; step++) {
        uint8_t what = (uint8_t)fuzz_number(&input, 1);

        switch (what & 3) {
        case 0:
            complete = update(&pair, &input, what >> 2 & (SOURCE | SENT));
            break;
        case 1:
            give(&pair, SENT, prl_bgp_rib_difference(pair.rib, longest(&pair), room, longest(&pair)));
            break;
        case 2:
            prl_bgp_rib_clear(pair.rib, what >> 2 & (SOURCE | SENT));
            if (what >> 2 & SENT)
                prl_bgp_rib_clear(pair.other, SENT);
            break;
        default:
            stream(&input, pair.extended);
        }
    }
    if (complete) {
        while (differing(pair.rib))
            give(&pair, SENT, prl_bgp_rib_difference(pair.rib, longest(&pair), room, ROOM));
        while (place.family < PRL_BGP_FAMILIES)
            give(&pair, SOURCE, prl_bgp_rib_walk(pair.rib, PRL_BGP_SOURCE, &place, longest(&pair), room, ROOM));
        assert(!differing(pair.other));
    } else {
        assert(prl_bgp_rib_difference(pair.rib, longest(&pair), room, ROOM) == -ESTALE);
    }
    prl_bgp_rib_close(pair.rib);
    prl_bgp_rib_close(pair.other);
    return 0;
}
