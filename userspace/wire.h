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
#ifndef PRL_WIRE_H
#define PRL_WIRE_H

#ifndef PRL_CFFI
#include <stddef.h>
#include <stdint.h>
#endif

#define PRL_WIRE_VERSION 1
#define PRL_WIRE_VERSION_MIN 1
#define PRL_WIRE_HEADER 16
#define PRL_TLV_HEADER 8
#define PRL_TLV_MANDATORY 0x8000
/* The largest message: a 64 KiB packet or snapshot piece with everything around it. */
#define PRL_WIRE_MAX 66560
#define PRL_SETUP_CHUNK 60000
#define PRL_PACKET_MAX 65575
/* The largest prefix that a data message has in front of its packet or payload bytes. */
#define PRL_WIRE_PREFIX_MAX 64

enum prl_msg_type {
    PRL_MSG_HELLO = 1,
    PRL_MSG_LEASE = 2,
    PRL_MSG_REPLICATE = 3,
    PRL_MSG_ACK = 4,
    PRL_MSG_FLOWCTL = 5,
    PRL_MSG_OUTPUT = 6,
    PRL_MSG_OUTPUT_ACK = 7,
    PRL_MSG_SETUP = 8,
    PRL_MSG_SETUP_DONE = 9,
    PRL_MSG_VOID = 10,
    PRL_MSG_VOID_ACK = 11,
    PRL_MSG_CLOSE = 12,
    PRL_MSG_ERROR = 13,
    PRL_MSG_RENOUNCE = 14,
    PRL_MSG_OFFER = 15,
    PRL_MSG_COMPARE = 16,
    PRL_MSG_SWITCHOVER = 17,
    PRL_MSG_RELAY = 18,
    PRL_MSG_COUNT = 19,
};

enum prl_tlv_type {
    PRL_TLV_PACKET = 1,
    PRL_TLV_PAYLOAD = 2,
    PRL_TLV_SNAPSHOT = 3,
    PRL_TLV_NODE_NAME = 4,
    PRL_TLV_EPOCH = 5,
    PRL_TLV_CAPABILITIES = 6,
    PRL_TLV_CLAIM_TOKEN = 7,
    PRL_TLV_LAN_KEY = 8,
    PRL_TLV_SERVICE = 9,
    PRL_TLV_APPLICATION = 10,
    PRL_TLV_ENDPOINT = 11,
    PRL_TLV_TEXT = 12,
    PRL_TLV_ELIDED = 13, /* elide.h; only to who has PRL_CAP_L3_ELISION */
    PRL_TLV_MOMENT = 14, /* moment.h; only to who has PRL_CAP_PREPARE */
};

enum prl_reason {
    PRL_REASON_OK = 0,
    PRL_REASON_NO_SPACE = 1,
    PRL_REASON_INVALID_HANDLE = 2,
    PRL_REASON_NOT_ACTIVE = 3,
    PRL_REASON_TIMEOUT = 4,        /* the other side did not answer in time (R6) */
    PRL_REASON_LINK_LOST = 5,
    PRL_REASON_NO_APPLICATION = 6, /* no application waits for the shadow */
    PRL_REASON_APPLICATION_GONE = 7,
    PRL_REASON_RESTORE_FAILED = 8,
    PRL_REASON_DIVERGED = 9,       /* primary and shadow differ (R12a) */
    PRL_REASON_REQUESTED = 10,
    PRL_REASON_ENDED = 11,         /* the session ended in the regular way */
    PRL_REASON_NO_MEMORY = 12,
    PRL_REASON_MALFORMED = 13,
    PRL_REASON_OUTPUT_DIFFERS = 14, /* the standby's program gave other output than the primary's (R20) */
    PRL_REASON_MID_STREAM = 15,     /* the standby's program cannot begin in the middle of this session (R23) */
    PRL_REASON_NOT_OWNER = 16,     /* the owner of the service alone can move it */
    PRL_REASON_UNPROTECTED = 17,   /* a session of the service would not be moved */
    PRL_REASON_BUSY = 18,          /* a move is under way already */
    PRL_REASON_LEASE_OVER = 19,    /* whoever was asked to take over must not any more */
    PRL_REASON_NO_LAN = 20,        /* whoever was asked to take over does not hear the LAN either (L11) */
    PRL_REASON_NOT_HELD = 21,      /* output could have left without being held */
    PRL_REASON_STRAY_IN = 22,      /* input comes in where nobody captures it */
    PRL_REASON_STRAY_OUT = 23,     /* output leaves where nobody holds it */
    PRL_REASON_COUNT = 24,
};

enum prl_packet_flag {
    PRL_PACKET_CSUM_PARTIAL = 1 << 0, /* L4 checksum field holds the pseudo-header sum alone */
    PRL_PACKET_ICMP = 1 << 1,         /* an ICMP error that quotes the flow */
};

enum prl_output_flag {
    PRL_OUTPUT_FIN = 1 << 0, /* the payload is followed by a FIN */
    PRL_OUTPUT_RST = 1 << 1, /* the primary resets the session */
};

enum prl_setup_flag {
    PRL_SETUP_LAST = 1 << 0, /* this piece completes the snapshot */
    PRL_SETUP_PREPARE = 1 << 1, /* the snapshot says what does not move; MOMENT says the rest */
};

enum prl_lease_flag {
    PRL_LEASE_BUSY = 1 << 0, /* sender's detector had not been running: its silence proves nothing */
};

enum prl_compare_flag {
    PRL_COMPARE_SOCKET = 1 << 0, /* rcv_nxt and snd_una are valid: nothing was on its way */
};

enum prl_phase {
    PRL_PHASE_REQUEST = 1,  /* standby: move the service to me */
    PRL_PHASE_PREPARE = 2,  /* owner: how many shadows could go on? */
    PRL_PHASE_PREPARED = 3, /* standby: so many */
    PRL_PHASE_COMMIT = 4,   /* owner, silent from now on: take it */
    PRL_PHASE_TAKEN = 5,    /* the new owner speaks */
    PRL_PHASE_REFUSED = 6,  /* not done, and nothing was emitted here */
    PRL_PHASE_RELAY_END = 7 /* no input comes to the old owner any more */
};

enum prl_move_flag {
    PRL_MOVE_FORCED = 1 << 0, /* sessions that are not protected may be lost */
};

enum prl_capability {
    PRL_CAP_OUTPUT = 1 << 0, /* output replication (SDRL) */
    PRL_CAP_UDP = 1 << 1,
    PRL_CAP_NACK_RETRY = 1 << 2, /* what was refused for want of space is sent again (R5) */
    PRL_CAP_COMPARE = 1 << 3,    /* COMPARE is understood (R12a) */
    PRL_CAP_L3_ELISION = 1 << 4, /* ELIDED is understood (R15) */
    PRL_CAP_SWITCHOVER = 1 << 5, /* SWITCHOVER and RELAY are understood (R21) */
    PRL_CAP_PREPARE = 1 << 6,    /* a set-up in two steps is understood (R17) */
};

/* One decoded message. Pointers lead into the caller's buffer. */
struct prl_msg {
    uint8_t type;
    uint8_t version;
    uint16_t flags;
    uint32_t length; /* bytes, whole message */
    uint32_t handle;
    uint32_t seq;
    uint32_t space;       /* REPLICATE, ACK, FLOWCTL, SETUP_DONE */
    uint32_t tcp_seq;     /* OUTPUT, OUTPUT_ACK */
    uint32_t generation;  /* SETUP, SETUP_DONE, VOID, VOID_ACK, CLOSE */
    uint32_t service;     /* RENOUNCE, SWITCHOVER */
    uint32_t move, flows; /* SWITCHOVER */
    uint64_t sent_ns;     /* LEASE */
    uint64_t echo_ns;     /* LEASE */
    uint64_t hash;        /* COMPARE */
    uint32_t out_seq, rcv_nxt, snd_una, compare_flags; /* COMPARE */
    uint32_t lease_flags; /* LEASE */
    uint16_t lif;         /* REPLICATE, RELAY */
    uint16_t packet_flags;/* REPLICATE, RELAY */
    uint8_t reason;       /* ACK, OUTPUT_ACK, SETUP_DONE, VOID, ERROR, SWITCHOVER */
    uint8_t bits;         /* OUTPUT: PRL_OUTPUT_*; SETUP: PRL_SETUP_*; SWITCHOVER: PRL_MOVE_* */
    uint8_t version_min, version_max, node_index; /* HELLO */
    uint8_t phase;        /* SWITCHOVER: PRL_PHASE_* */
    uint16_t urgent;     /* OUTPUT */
    uint16_t data_type;  /* enum prl_tlv_type of data; to encode, 0 = PACKET, PAYLOAD or SNAPSHOT as is usual */
    const uint8_t *data; /* value of PACKET, ELIDED, PAYLOAD, SNAPSHOT or MOMENT, else NULL */
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
/* R13: whether an element may be skipped is the sender's word; these tell what the table says. */
int prl_tlv_is_known(uint16_t type, uint8_t version);
int prl_tlv_is_mandatory(uint16_t type); /* unknown ones are not */

uint32_t prl_wire_padding(uint32_t bytes);
const char *prl_msg_name(uint8_t type);
const char *prl_reason_text(uint8_t reason);

#endif /* PRL_WIRE_H */
