/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Codec of the link's messages (R13, R16). Every message is
 *
 *     0        1        2        3        4        5        6        7
 *     version  type     flags (16)        length of the whole message (32)
 *     handle (32)                         sequence number (32)
 *     fixed part of the type, then TLVs: type (16, top bit = mandatory), zero (16), length (32), value, padding to 4
 *
 * in network order. Encoding never allocates; decoding never copies and never reads past what it was given.
 */
#ifndef PRL_WIRE_WIRE_H
#define PRL_WIRE_WIRE_H

#ifndef PRL_CFFI
#include <stddef.h>
#include <stdint.h>
#endif

#define PRL_WIRE_VERSION 1
#define PRL_WIRE_VERSION_MIN 1
#define PRL_WIRE_HEADER 16
#define PRL_TLV_HEADER 8
#define PRL_TLV_MANDATORY 0x8000
#define PRL_TLV_NONE 0 /* no element has this type */
/* The largest message: a 64 KiB packet or snapshot piece with everything around it. */
#define PRL_WIRE_MAX 66560
#define PRL_SETUP_CHUNK 60000
#define PRL_PACKET_MAX 65575
/* The largest prefix that a data message has in front of its packet or payload bytes. */
#define PRL_WIRE_PREFIX_MAX 64

/* clang-format off */
enum prl_msg_type {
#define PRL_MSG(name, type, ...) PRL_MSG_##name = (type),
#include "wire/wire.def"
    PRL_MSG_COUNT
};

enum prl_tlv_type {
#define PRL_TLV(name, type, ...) PRL_TLV_##name = (type),
#include "wire/wire.def"
};

enum prl_reason {
#define PRL_REASON(name, number, ...) PRL_REASON_##name = (number),
#include "wire/wire.def"
    PRL_REASON_COUNT
};

enum prl_wire_flag {
#define PRL_FLAG(group, name, bit, what) PRL_##group##_##name = 1 << (bit),
#include "wire/wire.def"
};

enum prl_phase {
#define PRL_PHASE(name, number, what) PRL_PHASE_##name = (number),
#include "wire/wire.def"
};

enum prl_capability {
#define PRL_CAP(name, bit, without) PRL_CAP_##name = 1ull << (bit),
#include "wire/wire.def"
};

#ifndef PRL_CFFI
/* The fixed part of each message as it is on the wire, behind the header. */
struct prl_fixed {
#define PRL_MSG(name, ...) }; struct prl_fixed_##name {
#define PRL_FIELD(message, field, member, width, unit) uint8_t field[width];
#define PRL_UNUSED(message, width) uint8_t unused[width];
#include "wire/wire.def"
};
#endif
/* clang-format on */

/* One decoded message. Pointers lead into the caller's buffer. */
struct prl_msg {
    uint8_t type;
    uint8_t version;
    uint16_t flags;
    uint32_t length; /* bytes, whole message */
    uint32_t handle;
    uint32_t seq;
    uint32_t space;       /* REPLICATE, MIRRORED, ACK, FLOWCTL, SETUP_DONE, RESYNC */
    uint32_t tcp_seq;     /* OUTPUT, OUTPUT_ACK */
    uint32_t generation;  /* SETUP, SETUP_DONE, VOID, VOID_ACK, CLOSE, RESYNC */
    uint32_t service;     /* RENOUNCE, SWITCHOVER */
    uint32_t move, flows; /* SWITCHOVER */
    uint64_t sent_ns;     /* LEASE */
    uint64_t echo_ns;     /* LEASE */
    uint64_t hash;        /* COMPARE, RESYNC */
    uint32_t out_seq, rcv_nxt, snd_una, compare_flags; /* COMPARE; RESYNC: out_seq */
    uint32_t refused;     /* RESYNC */
    uint32_t lease_flags; /* LEASE */
    uint32_t number, whole_bytes; /* MIRRORED */
    uint16_t lif;         /* REPLICATE, MIRRORED, RELAY */
    uint16_t packet_flags;/* likewise */
    uint8_t reason;       /* ACK, OUTPUT_ACK, SETUP_DONE, VOID, ERROR, SWITCHOVER */
    uint8_t bits;         /* PRL_OUTPUT_*, PRL_SETUP_*, PRL_MOVE_*, PRL_RESYNC_*: of the message's */
    uint8_t version_min, version_max, node_index; /* HELLO */
    uint8_t phase;        /* SWITCHOVER: PRL_PHASE_* */
    uint16_t urgent;     /* OUTPUT */
    uint16_t data_type;  /* enum prl_tlv_type of data; to encode, 0 = PACKET, PAYLOAD or SNAPSHOT as is usual */
    const uint8_t *data; /* value of PACKET, ELIDED, PAYLOAD, SNAPSHOT or MOMENT; decoded, never NULL */
    uint32_t data_bytes;
    const uint8_t *tlvs; /* all TLVs, for prl_tlv_next() */
    uint32_t tlvs_bytes;
};

struct prl_tlv {
    uint16_t type; /* without the mandatory bit */
    uint8_t mandatory;
    uint8_t pad;
    uint32_t bytes;
    const uint8_t *value;
};

/* Length of the message whose first `have` bytes are at `buf`: > 0 when known, 0 when more bytes are needed,
 * -EPROTO when no such message can exist (length or version out of range). */
int64_t prl_wire_length(const uint8_t *buf, size_t have);

/* Decodes one whole message. 0, or -EPROTO (malformed), -ENOTSUP (unknown type or mandatory TLV). */
int prl_wire_decode(const uint8_t *buf, size_t bytes, struct prl_msg *msg);

/* Encodes header, fixed part and, when data is wanted, the TLV header for msg->data_bytes bytes that the caller
 * sends right behind. msg->length is set, and msg->version when it is 0: HELLO has the lowest, others the highest.
 * Returns the bytes written to out, or -EMSGSIZE, -ENOTSUP (no message of that version). The caller must add
 * prl_wire_padding(msg->data_bytes) zero bytes behind the data. */
int prl_wire_encode_prefix(struct prl_msg *msg, uint8_t *out, size_t capacity);

/* Encodes a whole message: fixed part, then `tlvs` (already encoded, may be NULL). Returns its bytes. */
int prl_wire_encode(struct prl_msg *msg, const uint8_t *tlvs, size_t tlvs_bytes, uint8_t *out, size_t capacity);

/* Appends one TLV at *at (advanced). 0 or -EMSGSIZE. */
int prl_tlv_put(uint8_t *buf, size_t capacity, size_t *at, uint16_t type, int mandatory, const void *value,
                uint32_t bytes);

/* The header of an element whose value, of so many bytes, the caller puts behind it. */
void prl_tlv_begin(uint8_t *at, uint16_t type, int mandatory, uint32_t bytes);

/* Steps through TLVs: 1 and *tlv filled, 0 at the end, -EPROTO when malformed. *at starts at 0. */
int prl_tlv_next(const uint8_t *tlvs, size_t bytes, size_t *at, struct prl_tlv *tlv);

/* Version of what is sent to a node that knows these versions, HELLO aside (R14); 0 = none is known to both. */
uint8_t prl_wire_common_version(uint8_t other_min, uint8_t other_max);
/* Of a LEASE: how long the sent_ns that it echoes had waited for it; 0 = it does not say. */
uint64_t prl_wire_echo_wait_ns(const struct prl_msg *msg);
/* R13: whether an element may be skipped is the sender's word; these tell what the table says. */
int prl_tlv_is_known(uint16_t type, uint8_t version);
int prl_tlv_is_mandatory(uint16_t type); /* unknown ones are not */

uint32_t prl_wire_padding(uint32_t bytes);
const char *prl_msg_name(uint8_t type);
const char *prl_reason_text(uint8_t reason);

#endif /* PRL_WIRE_WIRE_H */
