/* SPDX-License-Identifier: BSD-2-Clause */
#include "wire/elide.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>

#include "tcp/packet.h"
#include "wire/wire.h"

#define IPV4_HEADER 20u
#define IPV6_HEADER 40u
#define IPV4_FIRST_BYTE 0x45 /* version 4, header of five words: no options */
#define IPV4_FRAGMENT 0x3f /* more fragments, and the offset's first bits beside the flags */
#define LENGTH_MAX 65535u

_Static_assert(PRL_UNELIDE_ROOM == PRL_WIRE_HEADER + sizeof(struct prl_fixed_REPLICATE) + PRL_TLV_HEADER,
               "what precedes the value");
_Static_assert(PRL_UNELIDE_ROOM + PRL_ELIDED_FIELDS >= IPV6_HEADER, "the longest header finds room");

static void put16(uint8_t *at, uint32_t value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

static uint32_t header_bytes(const struct prl_flow_key *key)
{
    return prl_addr_is_v4(key->local) ? IPV4_HEADER : IPV6_HEADER;
}

/* The one header that these fields stand for, or -EPROTO. The flow's peer is the source. */
static int build(const uint8_t *fields, uint32_t l4_bytes, const struct prl_flow_key *key, uint8_t *l3)
{
    uint16_t sum;

    if (header_bytes(key) == IPV4_HEADER) {
        if ((fields[4] & IPV4_FRAGMENT) || fields[5] || IPV4_HEADER + l4_bytes > LENGTH_MAX)
            return -EPROTO;
        l3[0] = IPV4_FIRST_BYTE;
        l3[1] = fields[0];
        put16(l3 + 2, IPV4_HEADER + l4_bytes);
        memcpy(l3 + 4, fields + 2, 2);
        memcpy(l3 + 6, fields + 4, 2);
        l3[8] = fields[1];
        l3[9] = key->proto;
        put16(l3 + 10, 0);
        memcpy(l3 + 12, key->remote + 12, 4);
        memcpy(l3 + 16, key->local + 12, 4);
        sum = prl_internet_checksum(l3, IPV4_HEADER);
        memcpy(l3 + 10, &sum, sizeof(sum));
        return 0;
    }
    if (fields[0] >> 4 != 6 || l4_bytes > LENGTH_MAX)
        return -EPROTO;
    memcpy(l3, fields, 4);
    put16(l3 + 4, l4_bytes);
    l3[6] = key->proto;
    l3[7] = fields[4];
    memcpy(l3 + 8, key->remote, 16);
    memcpy(l3 + 24, key->local, 16);
    return 0;
}

int prl_elide(const uint8_t *l3, const struct prl_packet *packet, const struct prl_flow_key *key,
              uint8_t out[PRL_ELIDED_FIELDS])
{
    const uint32_t header = header_bytes(key);
    uint8_t rebuilt[IPV6_HEADER];

    if (packet->l4_offset != header || packet->l3_bytes <= header)
        return 0;
    memset(out, 0, PRL_ELIDED_FIELDS);
    if (header == IPV4_HEADER) {
        out[0] = l3[1];
        out[1] = l3[8];
        memcpy(out + 2, l3 + 4, 4);
    } else {
        memcpy(out, l3, 4);
        out[4] = l3[7];
    }
    /* The proof that nothing is lost is to do what the other side will do. */
    if (build(out, packet->l3_bytes - header, key, rebuilt) || memcmp(rebuilt, l3, header) != 0)
        return 0;
    return (int)header;
}

int prl_unelide(uint8_t *value, uint32_t bytes, const struct prl_flow_key *key)
{
    const uint32_t header = header_bytes(key);
    uint8_t rebuilt[IPV6_HEADER];

    if (bytes <= PRL_ELIDED_FIELDS || build(value, bytes - PRL_ELIDED_FIELDS, key, rebuilt))
        return -EPROTO;
    memcpy(value + PRL_ELIDED_FIELDS - header, rebuilt, header);
    return (int)header;
}
