/* SPDX-License-Identifier: BSD-2-Clause */
/* What the kernel*.c files share: objects, pins and shared memory. */
#ifndef PRL_IO_KERNEL_PRIVATE_H
#define PRL_IO_KERNEL_PRIVATE_H

#include <net/if.h>
#include <stdbool.h>
#include "io/kernel.h"

#define PRL_INSTANCE_MAX 63
#define PRL_PATH_BYTES 128
#define PRL_CC_NAME_BYTES 16 /* TCP_CA_NAME_MAX */

enum prl_program {
    PRL_PROG_CLASSIFY,
    PRL_PROG_INGRESS,
    PRL_PROG_EGRESS,
    PRL_PROG_SILENCE,
    PRL_PROG_INJECT,
    PRL_PROG_PICK,
    PRL_PROG_MUTE,
    PRL_PROG_RELEASE,
    PRL_PROG_HOLD_GUARD,
    PRL_PROG_GATE,
    PRL_PROG_SAMPLE,
    PRL_PROG_REFERENCES,
    PRL_PROG_REST,
    PRL_PROG_LOCAL,
    PRL_PROG_ANSWER,
    PRL_PROG_MIRRORED,
    PRL_PROG_COUNT,
};

enum prl_map {
    PRL_MAP_FLOWS,
    PRL_MAP_FLOW_STATE,
    PRL_MAP_NODE,
    PRL_MAP_ADDRS,
    PRL_MAP_LIFS,
    PRL_MAP_LIF_OF,
    PRL_MAP_CLSACTS,
    PRL_MAP_XSKS,
    PRL_MAP_GATES,
    PRL_MAP_SAMPLE,
    PRL_MAP_SIEVE,
    PRL_MAP_AWAITED,
    PRL_MAP_NEWBORNS,
    PRL_MAP_MIRROR, /* -1: another carrier */
    PRL_MAP_COUNT,
};

enum prl_object {
    PRL_OBJECT_EGRESS,
    PRL_OBJECT_SOCKET,
    PRL_OBJECT_CLASSIFY,
    PRL_OBJECT_INGRESS,
    PRL_OBJECT_SESSIONS,
    PRL_OBJECT_ANSWER,
    PRL_OBJECT_MIRROR, /* in place of INGRESS */
    PRL_OBJECT_COUNT,
};

/* Which entry of prl_addrs has a bit in prl_node. */
struct prl_addr_bit {
    bool used;
    bool shared; /* by several: their bit is never among the open ones */
    struct prl_addr_key key;
};

struct prl_kernel {
    uint32_t flows_max;
    uint32_t mode, fallback_mode;
    uint32_t lifs;
    uint32_t ifindex[PRL_LIFS_MAX];
    uint32_t vrf_ifindex[PRL_LIFS_MAX];
    uint32_t inject_ifindex;
    uint32_t hold_ifindex;
    uint32_t link_ifindex;
    bool is_probed; /* prl_answer is wanted */
    char pin_dir[PRL_PATH_BYTES];
    bool made_pin_dir; /* nothing is inherited */
    struct bpf_object *object[PRL_OBJECT_COUNT];
    int program[PRL_PROG_COUNT]; /* descriptors, owned by the objects */
    uint32_t program_id[PRL_PROG_COUNT];
    int map[PRL_MAP_COUNT];
    struct prl_node *node;
    uint8_t *flow_state;
    struct prl_sample *sample;
    struct prl_sieve *sieve;
    struct prl_mirror *mirror; /* NULL: another carrier */
    struct bpf_link *sessions; /* NULL: TCP does not tell of sessions */
    struct bpf_link *strangers; /* NULL: nobody has asked for them yet */
    struct ring_buffer *ring;
    struct prl_news news; /* the newest that was taken from the ring */
    bool has_news;
    bool has_awaited; /* endpoints have had an entry in prl_awaited: sessions may have one in prl_newborns */
    struct bpf_object *shadow;
    int shadow_map; /* -1: no struct_ops */
    char shadow_name[PRL_CC_NAME_BYTES];
    struct prl_addr_bit bit[PRL_ADDR_BITS];
    bool xdp[PRL_LIFS_MAX]; /* the program that captures is on the interface: of XDP, or of tc ingress */
};

#endif /* PRL_IO_KERNEL_PRIVATE_H */
