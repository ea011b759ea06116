/* SPDX-License-Identifier: BSD-2-Clause */
/* The codec: every number in it comes from wire.def. */
#include "wire/wire.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#define PRL_MSG(name, type, ...)                                                                                  \
    _Static_assert(sizeof(struct prl_fixed_##name) % 4 == 0 &&                                                    \
                       PRL_WIRE_HEADER + sizeof(struct prl_fixed_##name) + PRL_TLV_HEADER <= PRL_WIRE_PREFIX_MAX, \
                   "fixed part of " #name);
#define PRL_TLV(name, type, ...) _Static_assert((type) > 0 && (type) < PRL_TLV_MANDATORY, "type of " #name);
#include "wire/wire.def"

struct msg_info {
    const char *name;
    uint8_t since;
    uint8_t fixed_bytes;
    uint16_t data_type, other_data_type; /* elements that carry its data, the first one usually */
};

static const struct msg_info messages[PRL_MSG_COUNT] = {
#define PRL_MSG(name, type, since, data, other_data) \
    [type] = {#name, since, sizeof(struct prl_fixed_##name), PRL_TLV_##data, PRL_TLV_##other_data},
#include "wire/wire.def"
};

struct tlv_info {
    uint8_t since; /* protocol version; 0 = unknown */
    bool mandatory;
};

static const struct tlv_info elements[] = {
#define PRL_TLV(name, type, mandatory, since, what) [type] = {since, mandatory},
#include "wire/wire.def"
};

static const char *const reasons[PRL_REASON_COUNT] = {
#define PRL_REASON(name, number, trace_name, words) [number] = (words),
#include "wire/wire.def"
};

static const struct msg_info *info_of(uint8_t type)
{
    return type < PRL_MSG_COUNT && messages[type].name ? &messages[type] : NULL;
}

static bool may_carry(const struct msg_info *info, uint16_t data_type)
{
    return data_type && (data_type == info->data_type || data_type == info->other_data_type);
}

static bool is_data_type(uint16_t type)
{
    for (uint32_t i = 0; i < PRL_MSG_COUNT; i++)
        if (may_carry(&messages[i], type))
            return true;
    return false;
}

static uint64_t get_be(const uint8_t *at, unsigned int width)
{
    uint64_t value = 0;

    for (unsigned int i = 0; i < width; i++)
        value = value << 8 | at[i];
    return value;
}

static void put_be(uint8_t *at, unsigned int width, uint64_t value)
{
    for (unsigned int i = width; i > 0; i--, value >>= 8)
        at[i - 1] = (uint8_t)value;
}

/* The rows of the table become the cases of a switch. */
static void get_fixed(struct prl_msg *msg, const uint8_t *fixed)
{
    switch (msg->type) {
    default:
#define PRL_MSG(name, ...) \
    break;                 \
    case PRL_MSG_##name:; /* before C23 no declaration follows a label, and clang keeps to that */
#define PRL_FIELD(message, field, member, width, unit)                                 \
    _Static_assert(sizeof(msg->member) == (width), "width of " #message "'s " #field); \
    msg->member = get_be(fixed + offsetof(struct prl_fixed_##message, field), width);
#include "wire/wire.def"
    }
}

static void put_fixed(const struct prl_msg *msg, uint8_t *fixed)
{
    switch (msg->type) {
    default:
#define PRL_MSG(name, ...) \
    break;                 \
    case PRL_MSG_##name:
#define PRL_FIELD(message, field, member, width, unit) \
    put_be(fixed + offsetof(struct prl_fixed_##message, field), width, msg->member);
#define PRL_UNUSED(message, width) memset(fixed + offsetof(struct prl_fixed_##message, unused), 0, width);
#include "wire/wire.def"
    }
}

uint32_t prl_wire_padding(uint32_t bytes)
{
    return -bytes & 3;
}

int64_t prl_wire_length(const uint8_t *buf, size_t have)
{
    uint32_t length;

    if (have >= 1 && (buf[0] < PRL_WIRE_VERSION_MIN || buf[0] > PRL_WIRE_VERSION))
        return -EPROTO;
    if (have < 8)
        return 0;
    length = (uint32_t)get_be(buf + 4, 4);
    if (length < PRL_WIRE_HEADER || length > PRL_WIRE_MAX || length % 4)
        return -EPROTO;
    return length;
}

int prl_tlv_next(const uint8_t *tlvs, size_t bytes, size_t *at, struct prl_tlv *tlv)
{
    size_t left = bytes - *at;
    uint32_t value_bytes;
    uint16_t type;

    if (*at >= bytes)
        return *at == bytes ? 0 : -EPROTO;
    if (left < PRL_TLV_HEADER)
        return -EPROTO;
    type = (uint16_t)get_be(tlvs + *at, 2);
    value_bytes = (uint32_t)get_be(tlvs + *at + 4, 4);
    left -= PRL_TLV_HEADER;
    if (value_bytes > left || prl_wire_padding(value_bytes) > left - value_bytes)
        return -EPROTO;
    tlv->type = type & (PRL_TLV_MANDATORY - 1);
    tlv->mandatory = (type & PRL_TLV_MANDATORY) != 0;
    tlv->pad = 0;
    tlv->bytes = value_bytes;
    tlv->value = tlvs + *at + PRL_TLV_HEADER;
    *at += PRL_TLV_HEADER + (size_t)value_bytes + prl_wire_padding(value_bytes);
    return 1;
}

uint64_t prl_wire_echo_wait_ns(const struct prl_msg *msg)
{
    struct prl_tlv tlv;
    size_t at = 0;

    while (prl_tlv_next(msg->tlvs, msg->tlvs_bytes, &at, &tlv) > 0)
        if (tlv.type == PRL_TLV_ECHO_WAIT && tlv.bytes == 8)
            return get_be(tlv.value, 8);
    return 0;
}

int prl_tlv_is_known(uint16_t type, uint8_t version)
{
    return type < sizeof(elements) / sizeof(elements[0]) && elements[type].since &&
           elements[type].since <= version;
}

int prl_tlv_is_mandatory(uint16_t type)
{
    return prl_tlv_is_known(type, PRL_WIRE_VERSION) && elements[type].mandatory;
}

uint8_t prl_wire_common_version(uint8_t other_min, uint8_t other_max)
{
    uint8_t version = other_max < PRL_WIRE_VERSION ? other_max : PRL_WIRE_VERSION;

    return version < other_min || version < PRL_WIRE_VERSION_MIN ? 0 : version;
}

/* Checks all TLVs and finds the one that carries the message's bytes. */
static int get_tlvs(struct prl_msg *msg, const struct msg_info *info)
{
    struct prl_tlv tlv;
    bool is_unsupported = false;
    size_t at = 0;
    int more;

    msg->data = msg->tlvs;
    while ((more = prl_tlv_next(msg->tlvs, msg->tlvs_bytes, &at, &tlv)) > 0) {
        if (!prl_tlv_is_known(tlv.type, msg->version)) {
            is_unsupported |= tlv.mandatory;
        } else if (may_carry(info, tlv.type)) {
            if (msg->data_type)
                return -EPROTO;
            msg->data = tlv.value;
            msg->data_type = tlv.type;
            msg->data_bytes = tlv.bytes;
        } else if (is_data_type(tlv.type)) {
            return -EPROTO;
        }
    }
    if (more < 0)
        return more;
    return is_unsupported ? -ENOTSUP : 0;
}

static bool has_wanted_data(const struct prl_msg *msg)
{
    switch (msg->type) {
    case PRL_MSG_REPLICATE:
    case PRL_MSG_MIRRORED:
    case PRL_MSG_RELAY:
        return msg->data_bytes > 0 && msg->data_bytes <= PRL_PACKET_MAX;
    case PRL_MSG_OUTPUT:
        return msg->data_bytes > 0 || (msg->bits & (PRL_OUTPUT_FIN | PRL_OUTPUT_RST));
    case PRL_MSG_SETUP:
        return msg->data_bytes > 0;
    default:
        return true;
    }
}

int prl_wire_decode(const uint8_t *buf, size_t bytes, struct prl_msg *msg)
{
    const struct msg_info *info;
    int error;

    memset(msg, 0, sizeof(*msg));
    if (bytes < PRL_WIRE_HEADER || prl_wire_length(buf, bytes) != (int64_t)bytes)
        return -EPROTO;
    msg->version = buf[0];
    msg->type = buf[1];
    msg->flags = (uint16_t)get_be(buf + 2, 2);
    msg->length = (uint32_t)bytes;
    msg->handle = (uint32_t)get_be(buf + 8, 4);
    msg->seq = (uint32_t)get_be(buf + 12, 4);
    info = info_of(msg->type);
    if (!info || info->since > msg->version)
        return -ENOTSUP;
    if (bytes - PRL_WIRE_HEADER < info->fixed_bytes)
        return -EPROTO;
    get_fixed(msg, buf + PRL_WIRE_HEADER);
    msg->tlvs = buf + PRL_WIRE_HEADER + info->fixed_bytes;
    msg->tlvs_bytes = (uint32_t)(bytes - PRL_WIRE_HEADER - info->fixed_bytes);
    error = get_tlvs(msg, info);
    if (error)
        return error;
    return has_wanted_data(msg) ? 0 : -EPROTO;
}

/* Header and fixed part; `rest_bytes` follow them. Returns the bytes written, or -errno. */
static int put_front(struct prl_msg *msg, size_t rest_bytes, uint8_t *out, size_t capacity)
{
    const struct msg_info *info = info_of(msg->type);
    size_t front_bytes;

    if (!msg->version) {
        msg->version = PRL_WIRE_VERSION;
        if (msg->type == PRL_MSG_HELLO) /* the other side's version is not known yet */
            msg->version = PRL_WIRE_VERSION_MIN;
    }
    if (!info || info->since > msg->version)
        return -ENOTSUP;
    front_bytes = PRL_WIRE_HEADER + info->fixed_bytes;
    if (front_bytes > capacity || rest_bytes > PRL_WIRE_MAX - front_bytes)
        return -EMSGSIZE;
    msg->length = (uint32_t)(front_bytes + rest_bytes);
    out[0] = msg->version;
    out[1] = msg->type;
    put_be(out + 2, 2, msg->flags);
    put_be(out + 4, 4, msg->length);
    put_be(out + 8, 4, msg->handle);
    put_be(out + 12, 4, msg->seq);
    put_fixed(msg, out + PRL_WIRE_HEADER);
    return (int)front_bytes;
}

static void put_tlv_header(uint8_t *at, uint16_t type, bool mandatory, uint32_t bytes)
{
    put_be(at, 2, mandatory ? type | PRL_TLV_MANDATORY : type);
    put_be(at + 2, 2, 0);
    put_be(at + 4, 4, bytes);
}

void prl_tlv_begin(uint8_t *at, uint16_t type, int mandatory, uint32_t bytes)
{
    put_tlv_header(at, type, mandatory != 0, bytes);
}

int prl_wire_encode_prefix(struct prl_msg *msg, uint8_t *out, size_t capacity)
{
    const struct msg_info *info = info_of(msg->type);
    uint16_t data_type = msg->data_type || !info ? msg->data_type : info->data_type;
    uint32_t bytes = msg->data_bytes;
    size_t rest_bytes = 0;
    int front_bytes;

    if (bytes) {
        if (!info || !may_carry(info, data_type) || bytes > PRL_WIRE_MAX)
            return -EMSGSIZE;
        if (capacity < PRL_TLV_HEADER)
            return -EMSGSIZE;
        capacity -= PRL_TLV_HEADER;
        rest_bytes = PRL_TLV_HEADER + (size_t)bytes + prl_wire_padding(bytes);
    }
    front_bytes = put_front(msg, rest_bytes, out, capacity);
    if (front_bytes < 0 || !bytes)
        return front_bytes;
    put_tlv_header(out + front_bytes, data_type, true, bytes);
    return front_bytes + PRL_TLV_HEADER;
}

int prl_wire_encode(struct prl_msg *msg, const uint8_t *tlvs, size_t tlvs_bytes, uint8_t *out, size_t capacity)
{
    int front_bytes;

    if (tlvs_bytes > capacity || tlvs_bytes > PRL_WIRE_MAX)
        return -EMSGSIZE;
    front_bytes = put_front(msg, tlvs_bytes, out, capacity - tlvs_bytes);
    if (front_bytes > 0 && tlvs_bytes)
        memcpy(out + front_bytes, tlvs, tlvs_bytes);
    return front_bytes < 0 ? front_bytes : front_bytes + (int)tlvs_bytes;
}

int prl_tlv_put(uint8_t *buf, size_t capacity, size_t *at, uint16_t type, int mandatory, const void *value,
                uint32_t bytes)
{
    size_t need = PRL_TLV_HEADER + (size_t)bytes + prl_wire_padding(bytes);

    if (*at > capacity || need > capacity - *at)
        return -EMSGSIZE;
    put_tlv_header(buf + *at, type, mandatory != 0, bytes);
    if (bytes)
        memcpy(buf + *at + PRL_TLV_HEADER, value, bytes);
    memset(buf + *at + PRL_TLV_HEADER + bytes, 0, prl_wire_padding(bytes));
    *at += need;
    return 0;
}

const char *prl_msg_name(uint8_t type)
{
    const struct msg_info *info = info_of(type);

    return info ? info->name : "unknown";
}

const char *prl_reason_text(uint8_t reason)
{
    return reason < PRL_REASON_COUNT ? reasons[reason] : "unknown reason";
}
