/* SPDX-License-Identifier: BSD-2-Clause */
#include "bgp/message.h"

#include <errno.h>
#include <string.h>

#include "bgp/prefix.h"

#define MARKER 16
#define NOT_SYNCHRONIZED (-1) /* RFC 4271 section 6.1 */
#define BAD_LENGTH (-2)
#define ADDRESS 16 /* bytes, of IPv6 */

static const uint8_t marker[MARKER] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                                       0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

static uint32_t get16(const uint8_t *at)
{
    return (uint32_t)at[0] << 8 | at[1];
}

static void put16(uint8_t *at, uint32_t value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

/* The shortest message of a type. A ROUTE-REFRESH of a wrong length has a NOTIFICATION of its own (RFC 7313 section 5), which
 * is the daemon's to send: it is a message all the same. */
static uint32_t shortest(uint8_t type)
{
    switch (type) {
    case PRL_BGP_OPEN:
        return 29;
    case PRL_BGP_UPDATE:
        return 23;
    case PRL_BGP_NOTIFICATION:
        return 21;
    default:
        return PRL_BGP_HEADER;
    }
}

static uint32_t longest(uint8_t type, bool extended)
{
    switch (type) {
    case PRL_BGP_KEEPALIVE:
        return PRL_BGP_HEADER;
    case PRL_BGP_OPEN:
        return PRL_BGP_MESSAGE_MAX;
    default:
        return extended ? PRL_BGP_EXTENDED_MAX : PRL_BGP_MESSAGE_MAX;
    }
}

int prl_bgp_frame(const uint8_t *at, uint32_t bytes, bool extended)
{
    uint32_t length;

    if (memcmp(at, marker, bytes < MARKER ? bytes : MARKER) != 0)
        return NOT_SYNCHRONIZED;
    if (bytes < PRL_BGP_HEADER)
        return 0;
    length = get16(at + MARKER);
    if (length < shortest(at[18]) || length > longest(at[18], extended))
        return BAD_LENGTH;
    return length <= bytes ? (int)length : 0;
}

int prl_bgp_attr_take(const uint8_t *at, uint32_t bytes, struct prl_bgp_attr *attr)
{
    uint32_t head, length;

    if (bytes < 3)
        return -EBADMSG;
    head = at[0] & PRL_BGP_ATTRIBUTE_EXTENDED ? 4 : 3;
    if (bytes < head)
        return -EBADMSG;
    length = head == 4 ? get16(at + 2) : at[2];
    if (bytes - head < length)
        return -EBADMSG;
    *attr = (struct prl_bgp_attr){.flags = at[0], .type = at[1], .value = {at + head, length}};
    return (int)(head + length);
}

/* AFI, SAFI, next hop and its length, a reserved octet, routes (RFC 4760 section 3). */
static int take_reach(const struct prl_bgp_span *value, struct prl_bgp_update *update)
{
    const uint8_t *at = value->at;
    uint32_t hop;

    if (value->bytes < 5 || value->bytes < 5u + at[3])
        return -EBADMSG;
    hop = at[3];
    update->reach_family = prl_bgp_family(get16(at), at[2]);
    if (update->reach_family == PRL_BGP_FAMILIES) {
        update->families_unknown++;
        return 0;
    }
    update->next_hop = (struct prl_bgp_span){at + 4, hop};
    update->reached = (struct prl_bgp_span){at + 5 + hop, value->bytes - 5 - hop};
    return 0;
}

static int take_unreach(const struct prl_bgp_span *value, struct prl_bgp_update *update)
{
    if (value->bytes < 3)
        return -EBADMSG;
    update->unreach_family = prl_bgp_family(get16(value->at), value->at[2]);
    if (update->unreach_family == PRL_BGP_FAMILIES) {
        update->families_unknown++;
        return 0;
    }
    update->unreached = (struct prl_bgp_span){value->at + 3, value->bytes - 3};
    return 0;
}

int prl_bgp_update_parse(const uint8_t *message, uint32_t bytes, struct prl_bgp_update *update)
{
    const uint8_t *at = message + PRL_BGP_HEADER, *end = message + bytes;
    uint32_t length, attributes = 0;
    bool reach = false, unreach = false;

    if (bytes < shortest(PRL_BGP_UPDATE) || message[PRL_BGP_HEADER - 1] != PRL_BGP_UPDATE)
        return -EBADMSG;
    memset(update, 0, sizeof(*update));
    update->reach_family = update->unreach_family = PRL_BGP_FAMILIES;
    length = get16(at);
    at += 2;
    if ((uint32_t)(end - at) < length + 2)
        return -EBADMSG;
    update->withdrawn = (struct prl_bgp_span){at, length};
    at += length;
    length = get16(at);
    at += 2;
    if ((uint32_t)(end - at) < length)
        return -EBADMSG;
    update->attributes = (struct prl_bgp_span){at, length};
    update->announced = (struct prl_bgp_span){at + length, (uint32_t)(end - at) - length};
    for (uint32_t done = 0; done < length; attributes++) {
        struct prl_bgp_attr attr;
        int taken = prl_bgp_attr_take(at + done, length - done, &attr);

        if (taken < 0) {
            update->cut = true;
            return 0;
        }
        done += (uint32_t)taken;
        if (attr.type == PRL_BGP_MP_REACH) {
            if (reach || take_reach(&attr.value, update) < 0)
                return -EBADMSG;
            reach = true;
        } else if (attr.type == PRL_BGP_MP_UNREACH) {
            if (unreach || take_unreach(&attr.value, update) < 0)
                return -EBADMSG;
            unreach = true;
        }
    }
    if (!update->withdrawn.bytes && !update->announced.bytes)
        update->end_of_rib = !attributes || (attributes == 1 && update->unreach_family < PRL_BGP_FAMILIES &&
                                             !update->unreached.bytes);
    return 0;
}

static bool is_link_local(const uint8_t *address)
{
    return address[0] == 0xfe && (address[1] & 0xc0) == 0x80;
}

uint32_t prl_bgp_cut_link_local(uint8_t *message, uint32_t bytes)
{
    struct prl_bgp_update update;
    uint8_t *list, *attribute, *hop;
    uint32_t in_value;

    if (prl_bgp_update_parse(message, bytes, &update) < 0 || update.next_hop.bytes != 2 * ADDRESS)
        return bytes;
    hop = message + (update.next_hop.at - message);
    if (is_link_local(hop) || !is_link_local(hop + ADDRESS))
        return bytes;
    list = message + (update.attributes.at - message);
    for (attribute = list;;) {
        struct prl_bgp_attr attr;
        int taken = prl_bgp_attr_take(attribute, update.attributes.bytes - (uint32_t)(attribute - list), &attr);

        if (taken < 0)
            return bytes; /* not before MP_REACH_NLRI, which was found: for the reader's peace */
        if (attr.type == PRL_BGP_MP_REACH) {
            in_value = attr.value.bytes;
            break;
        }
        attribute += taken;
    }
    if (attribute[0] & PRL_BGP_ATTRIBUTE_EXTENDED)
        put16(attribute + 2, in_value - ADDRESS);
    else
        attribute[2] = (uint8_t)(in_value - ADDRESS);
    hop[-1] = ADDRESS;
    put16(list - 2, update.attributes.bytes - ADDRESS);
    put16(message + MARKER, bytes - ADDRESS);
    memmove(hop + ADDRESS, hop + 2 * ADDRESS, (size_t)(message + bytes - (hop + 2 * ADDRESS)));
    return bytes - ADDRESS;
}
