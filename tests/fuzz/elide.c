/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * L3 elision (elide.h). A packet that is elided comes back byte by byte. A value of a hostile node writes nowhere but into
 * the room in front of it, and what it stands for, if it is a packet at all, stands for it in turn.
 */
#include "wire/elide.h"
#include "wire/wire.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdbool.h>

#include "fuzz.h"

static const uint8_t v4_mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

/* The value as it lies in its message: PRL_UNELIDE_ROOM in front. Returns the whole. */
static uint8_t *in_message(const uint8_t *value, uint32_t bytes)
{
    uint8_t *room = malloc(PRL_UNELIDE_ROOM + (size_t)bytes);

    assert(room);
    memset(room, 0xa5, PRL_UNELIDE_ROOM);
    if (bytes)
        memcpy(room + PRL_UNELIDE_ROOM, value, bytes);
    return room;
}

static void there_and_back(const uint8_t *l3, const struct prl_packet *packet, const struct prl_flow_key *key)
{
    uint8_t fields[PRL_ELIDED_FIELDS], *value, *room;
    int header = prl_elide(l3, packet, key, fields);
    uint32_t bytes;

    assert(header == 0 || header == 20 || header == 40);
    if (!header)
        return;
    assert(header == packet->l4_offset);
    bytes = PRL_ELIDED_FIELDS + packet->l3_bytes - (uint32_t)header;
    value = malloc(bytes);
    assert(value);
    memcpy(value, fields, PRL_ELIDED_FIELDS);
    memcpy(value + PRL_ELIDED_FIELDS, l3 + header, bytes - PRL_ELIDED_FIELDS);
    room = in_message(value, bytes);
    assert(prl_unelide(room + PRL_UNELIDE_ROOM, bytes, key) == header);
    assert(!memcmp(room + PRL_UNELIDE_ROOM + PRL_ELIDED_FIELDS - header, l3, packet->l3_bytes));
    free(value);
    free(room);
}

static void hostile(const uint8_t *value, uint32_t bytes, const struct prl_flow_key *key)
{
    uint8_t *room = in_message(value, bytes), *l3, again[PRL_ELIDED_FIELDS];
    int header = prl_unelide(room + PRL_UNELIDE_ROOM, bytes, key);
    struct prl_packet packet;
    struct prl_flow_key found;
    uint32_t l3_bytes;

    if (header < 0) {
        assert(header == -EPROTO && !memcmp(room + PRL_UNELIDE_ROOM, value, bytes));
        free(room);
        return;
    }
    l3 = room + PRL_UNELIDE_ROOM + PRL_ELIDED_FIELDS - header;
    l3_bytes = bytes - PRL_ELIDED_FIELDS + (uint32_t)header;
    if (prl_packet_parse(l3, l3_bytes, l3_bytes, false, &packet) == 0 && packet.l4_offset == header) {
        assert(packet.l3_bytes == l3_bytes);
        prl_packet_key(l3, &packet, true, key->lif, &found);
        assert(!memcmp(found.local, key->local, 16) && !memcmp(found.remote, key->remote, 16));
        assert(found.proto == key->proto);
        assert(prl_elide(l3, &packet, key, again) == header);
        assert(!memcmp(again, value, header == 20 ? 6 : 5));
    }
    free(room);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct fuzz_input input = {data, bytes};
    uint8_t how = (uint8_t)fuzz_number(&input, 1);
    struct prl_flow_key key = {.proto = how & 2 ? IPPROTO_UDP : IPPROTO_TCP};
    struct prl_packet packet;
    uint8_t *exact;

    if (how & 1) {
        fuzz_take(&input, key.local, sizeof(key.local));
        fuzz_take(&input, key.remote, sizeof(key.remote));
        if (how & 4) { /* both ends of a key are of one family */
            memcpy(key.local, v4_mapped, sizeof(v4_mapped));
            memcpy(key.remote, v4_mapped, sizeof(v4_mapped));
        } else {
            key.local[0] |= 1;
            key.remote[0] |= 1;
        }
        if (input.left <= PRL_WIRE_MAX)
            hostile(input.at, (uint32_t)input.left, &key);
        return 0;
    }
    if (input.left > PRL_PACKET_MAX)
        return 0;
    exact = fuzz_exact(input.at, input.left);
    if (prl_packet_parse(exact, (uint32_t)input.left, (uint32_t)input.left, false, &packet) == 0) {
        prl_packet_key(exact, &packet, true, 0, &key);
        there_and_back(exact, &packet, &key);
        key.remote[15] ^= 1; /* another flow's: not elided, or it would come back as another */
        uint8_t fields[PRL_ELIDED_FIELDS];
        assert(prl_elide(exact, &packet, &key, fields) == 0);
    }
    free(exact);
    return 0;
}
