/* SPDX-License-Identifier: BSD-2-Clause */
/* What the kernel*.c files share: objects, pins and shared memory; hooks of the network devices; netlink; tables. */
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
    PRL_PROG_EGRESS,
    PRL_PROG_SILENCE,
    PRL_PROG_INJECT,
    PRL_PROG_PICK,
    PRL_PROG_MUTE,
    PRL_PROG_RELEASE,
    PRL_PROG_HOLD_GUARD,
    PRL_PROG_GATE,
    PRL_PROG_SAMPLE,
    PRL_PROG_LOCAL,
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
    PRL_MAP_COUNT,
};

enum prl_object {
    PRL_OBJECT_EGRESS,
    PRL_OBJECT_SOCKET,
    PRL_OBJECT_CLASSIFY,
    PRL_OBJECT_COUNT,
};

/* The filter that clsact runs first on one side of a device. */
struct prl_filter {
    uint32_t handle; /* 0: there is none */
    uint32_t priority;
    uint32_t program; /* id of its BPF program, or 0 */
    char kind[16];
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
    struct bpf_object *shadow;
    int shadow_map; /* -1: no struct_ops */
    char shadow_name[PRL_CC_NAME_BYTES];
    struct prl_addr_bit bit[PRL_ADDR_BITS];
    bool xdp[PRL_LIFS_MAX];
};

/* Writes "<what>: <text of code>" and returns code (negative errno). */
__attribute__((format(printf, 3, 4))) int prl_kernel_fail(char *error, int code, const char *format, ...);

/* What the kernel said last of a request that it refused (its extended acknowledgement), or "". The caller clears it. */
char *prl_kernel_words(void);

/* kernel_xdp.c: prl_classify on all interfaces, in one mode; error as prl_kernel_attach() has it. */
int prl_kernel_attach_xdp(struct prl_kernel *kernel, char *error);
void prl_kernel_detach_xdp(struct prl_kernel *kernel);
/* Puts it on one interface again, if nothing is there. enum prl_guard, or -errno with words. */
int prl_kernel_guard_xdp(struct prl_kernel *kernel, uint32_t ifindex, char *words);
/* Takes a dead prld's off an interface. */
void prl_kernel_scrub_xdp(int ifindex);
/* Whether the program with this id is one of prl's: a device may have got another owner since. */
bool prl_kernel_is_ours(uint32_t id);

void prl_kernel_detach(struct prl_kernel *kernel);
/* kernel_tables.c: learns the bits of what an earlier life entered; they open when its entries are set anew. */
void prl_kernel_inherit_bits(struct prl_kernel *kernel);
/* kernel_netlink.c, 0 or -errno. */
int prl_netlink_remove_queue(uint32_t ifindex);
/* Another classifier on `ifindex`'s ingress: what `program` says yes to goes to the ingress of `target`, by act_mirred. */
int prl_netlink_add_mirror(uint32_t ifindex, uint16_t priority, int program, uint32_t target);
/* The first filter of chain 0 of a device's TC_H_MIN_EGRESS or TC_H_MIN_INGRESS; all zero when there is none. */
int prl_netlink_first_filter(uint32_t ifindex, uint16_t side, struct prl_filter *first);
/*
 * kernel_clsact.c: the qdisc that tc programs hang on. `made` is a descriptor of prl_clsacts. prl_clsact_make() returns 0,
 * also where there is one, or -errno; -ENOSPC: as many as can be remembered have been made.
 */
int prl_clsact_make(int made, uint32_t ifindex);
/* Removes it if it was made for prl and nobody has a filter there; a device that has gone is forgotten. */
void prl_clsact_remove(int made, uint32_t ifindex);
/* The same of all devices. */
void prl_clsact_remove_all(int made);
/* Makes room: the TAPs of a prld that was killed have gone with it. */
void prl_clsact_forget_gone(int made);
/*
 * kernel_hook.c: puts `program` first in line on a device's egress, in the place of one of a former life. Returns enum
 * prl_guard, with words[PRL_ERROR_BYTES] about what was in front, or -errno. `mute` (prl_mute) helps while it moves;
 * `made` is prl_clsact_make()'s.
 */
int prl_hook_put(uint32_t ifindex, int program, int mute, int made, char *words);
/* Whether a program of prl's is on a device's egress. */
bool prl_hook_is_guarded(uint32_t ifindex);
/* Takes all programs of prl's off a device's egress. */
void prl_hook_take_off(uint32_t ifindex);
/* The kernel's number of a program, or 0; with its name[BPF_OBJ_NAME_LEN] unless that is NULL. */
uint32_t prl_program_id(int program, char *name);
/* Whether a logical interface is the one recorded, and this project's silence is on it. */
bool prl_kernel_is_guarded(const struct prl_lif *lif);
/* Takes prl_classify off one logical interface of a dead instance, if it still is the one recorded. */
void prl_kernel_scrub_lif(const struct prl_lif *lif);
/* Takes silence off every interface of this network namespace. */
void prl_kernel_scrub_silence(void);

#endif /* PRL_IO_KERNEL_PRIVATE_H */
