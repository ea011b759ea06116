/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A tc program that is first in line on an interface, without a bpf_link: it must outlive prld, however it dies (L9).
 *
 * First in line, because a program in front that says TC_ACT_OK ends it: nothing behind is run. Linux 6.6 and later have
 * tcx, a list in which a place can be asked for and which runs before all of clsact (net/core/dev.c, sch_handle_egress).
 * Before that there is clsact alone: the lowest priority, and the newest of several bpf filters of that priority
 * (net/sched/cls_bpf.c adds in front).
 *
 * Where the program has to move, prl_mute takes the first place meanwhile: nothing at all leaves for some microseconds.
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/pkt_sched.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "io/kernel_clsact.h"
#include "io/kernel_hook.h"
#include "io/kernel_netlink.h"
#include "io/kernel_private.h"

#define TC_PRIORITY_FIRST 1
/* Ours among the filters of that priority. */
#define TC_HANDLE 0x7072
#define TC_HANDLE_MUTE 0x7073
/* Of prl's programs, those that may be on an interface. */
static const char *const own_names[] = {"prl_egress",  "prl_silence", "prl_mute",    "prl_classify",
                                        "prl_ingress", "prl_answer",  "prl_mirrored"};

/* union bpf_attr of Linux 6.6 and later, as far as tcx wants it (include/uapi/linux/bpf.h); Debian 12's headers are older. */
#define TCX_INGRESS 46
#define TCX_EGRESS 47
#define TCX_REPLACE (1u << 2) /* BPF_F_REPLACE */
#define TCX_BEFORE (1u << 3)  /* BPF_F_BEFORE: with no other program named, all of them */
#define TCX_PROGRAMS_MAX 64   /* BPF_MPROG_MAX */

struct tcx_attach {
    uint32_t target_ifindex;
    uint32_t attach_bpf_fd;
    uint32_t attach_type;
    uint32_t attach_flags;
    uint32_t replace_bpf_fd;
    uint32_t relative_fd;
    uint64_t expected_revision;
};

struct tcx_query {
    uint32_t target_ifindex;
    uint32_t attach_type;
    uint32_t query_flags;
    uint32_t attach_flags;
    uint64_t prog_ids;
    uint32_t count;
    uint32_t pad;
    uint64_t prog_attach_flags;
    uint64_t link_ids;
    uint64_t link_attach_flags;
    uint64_t revision;
};

_Static_assert(sizeof(struct tcx_attach) == 32 && offsetof(struct tcx_attach, relative_fd) == 20,
               "as the kernel's");
_Static_assert(sizeof(struct tcx_query) == 64 && offsetof(struct tcx_query, count) == 24, "as the kernel's");

/* The programs of a tcx list, first to last. */
struct tcx_list {
    uint32_t id[TCX_PROGRAMS_MAX];
    uint32_t count;
};

static int bpf_call(int command, void *attributes, unsigned int bytes)
{
    return syscall(__NR_bpf, command, attributes, bytes) < 0 ? -errno : 0;
}

static uint32_t tcx_type(enum bpf_tc_attach_point side)
{
    return side == BPF_TC_INGRESS ? TCX_INGRESS : TCX_EGRESS;
}

static uint16_t clsact_side(enum bpf_tc_attach_point side)
{
    return side == BPF_TC_INGRESS ? TC_H_MIN_INGRESS : TC_H_MIN_EGRESS;
}

/* -EINVAL: a kernel without tcx. */
static int tcx_read(uint32_t ifindex, enum bpf_tc_attach_point side, struct tcx_list *list)
{
    struct tcx_query query = {
        .target_ifindex = ifindex,
        .attach_type = tcx_type(side),
        .prog_ids = (uint64_t)(uintptr_t)list->id,
        .count = TCX_PROGRAMS_MAX,
    };
    int code = bpf_call(BPF_PROG_QUERY, &query, sizeof(query));

    list->count = code ? 0 : query.count;
    return code;
}

static int tcx_put_first(uint32_t ifindex, enum bpf_tc_attach_point side, int program)
{
    struct tcx_attach attach = {
        .target_ifindex = ifindex,
        .attach_bpf_fd = (uint32_t)program,
        .attach_type = tcx_type(side),
        .attach_flags = TCX_BEFORE,
    };

    return bpf_call(BPF_PROG_ATTACH, &attach, sizeof(attach));
}

static int tcx_replace(uint32_t ifindex, enum bpf_tc_attach_point side, int program, int replaced)
{
    struct tcx_attach attach = {
        .target_ifindex = ifindex,
        .attach_bpf_fd = (uint32_t)program,
        .attach_type = tcx_type(side),
        .attach_flags = TCX_REPLACE,
        .replace_bpf_fd = (uint32_t)replaced,
    };

    return bpf_call(BPF_PROG_ATTACH, &attach, sizeof(attach));
}

static int tcx_take_off(uint32_t ifindex, enum bpf_tc_attach_point side, int program)
{
    struct tcx_attach detach = {
        .target_ifindex = ifindex,
        .attach_bpf_fd = (uint32_t)program,
        .attach_type = tcx_type(side),
    };

    return bpf_call(BPF_PROG_DETACH, &detach, sizeof(detach));
}

uint32_t prl_program_id(int program, char *name)
{
    struct bpf_prog_info info = {0};
    uint32_t bytes = sizeof(info);

    if (program < 0 || bpf_obj_get_info_by_fd(program, &info, &bytes) < 0)
        return 0;
    if (name)
        memcpy(name, info.name, BPF_OBJ_NAME_LEN);
    return info.id;
}

bool prl_kernel_is_ours(uint32_t id)
{
    char name[BPF_OBJ_NAME_LEN] = "";
    int program = id ? bpf_prog_get_fd_by_id(id) : -1;
    bool found = false;

    if (prl_program_id(program, name))
        for (size_t i = 0; i < sizeof(own_names) / sizeof(own_names[0]); i++)
            found |= strncmp(name, own_names[i], BPF_OBJ_NAME_LEN) == 0;
    if (program >= 0)
        close(program);
    return found;
}

/* Where in the list a program is; as much as list->count: nowhere. */
static uint32_t place_of(const struct tcx_list *list, uint32_t id)
{
    uint32_t place = 0;

    while (place < list->count && list->id[place] != id)
        place++;
    return place;
}

/* The place of a program of prl's, be it one of a former life. */
static uint32_t place_of_ours(const struct tcx_list *list)
{
    uint32_t place = 0;

    while (place < list->count && !prl_kernel_is_ours(list->id[place]))
        place++;
    return place;
}

static void tell_of_program(uint32_t id, char *words)
{
    char name[BPF_OBJ_NAME_LEN] = "";
    int program = bpf_prog_get_fd_by_id(id);

    prl_program_id(program, name);
    snprintf(words, PRL_ERROR_BYTES, "tcx program %s (id %u)", name[0] ? name : "?", id);
    if (program >= 0)
        close(program);
}

/* ---- tcx ---- */

/* Takes prl's programs off, but for the one whose id is `kept`: also a prl_mute that a move or a dead prld left. */
static void tcx_take_off_ours(uint32_t ifindex, enum bpf_tc_attach_point side, uint32_t kept)
{
    struct tcx_list list;

    if (tcx_read(ifindex, side, &list))
        return;
    for (uint32_t i = 0; i < list.count; i++) {
        bool goes = list.id[i] != kept && prl_kernel_is_ours(list.id[i]);
        int program = goes ? bpf_prog_get_fd_by_id(list.id[i]) : -1;

        if (program < 0)
            continue;
        tcx_take_off(ifindex, side, program);
        close(program);
    }
}

/* Leaves prl_mute behind the program; alone where the program could not be put back: silence, until the next look. */
static int tcx_move(uint32_t ifindex, enum bpf_tc_attach_point side, int program, int mute)
{
    int code = tcx_put_first(ifindex, side, mute);

    if (code && code != -EEXIST) /* of a move that failed */
        return code;
    tcx_take_off(ifindex, side, program);
    return tcx_put_first(ifindex, side, program);
}

static int tcx_put(uint32_t ifindex, enum bpf_tc_attach_point side, int program, int mute,
                   const struct tcx_list *list, char *words)
{
    uint32_t own = place_of(list, prl_program_id(program, NULL)), ours = place_of_ours(list);
    int code;

    if (own == 0 && list->count)
        return PRL_GUARD_KEPT;
    if (own < list->count) {
        tell_of_program(list->id[0], words);
        code = tcx_move(ifindex, side, program, mute);
        return code ? code : PRL_GUARD_PASSED_BY;
    }
    if (ours == list->count) {
        code = tcx_put_first(ifindex, side, program);
        return code ? code : PRL_GUARD_MISSING;
    }
    int former = bpf_prog_get_fd_by_id(list->id[ours]);
    if (former < 0)
        return -errno;
    code = tcx_replace(ifindex, side, program, former);
    close(former);
    if (!code && ours)
        code = tcx_move(ifindex, side, program, mute);
    return code ? code : PRL_GUARD_MISSING;
}

static int tcx_hook(uint32_t ifindex, enum bpf_tc_attach_point side, int program, int mute,
                    const struct tcx_list *list, char *words)
{
    int code = tcx_put(ifindex, side, program, mute, list, words);

    if (code > 0 || (!code && list->count > 1))
        tcx_take_off_ours(ifindex, side, prl_program_id(program, NULL));
    return code;
}

/* ---- clsact ---- */

static int clsact_put(uint32_t ifindex, enum bpf_tc_attach_point side, int program, uint32_t handle)
{
    LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)ifindex, .attach_point = side);
    LIBBPF_OPTS(bpf_tc_opts, options, .handle = handle, .priority = TC_PRIORITY_FIRST, .prog_fd = program,
                .flags = BPF_TC_F_REPLACE);

    return bpf_tc_attach(&hook, &options);
}

static void clsact_take_off(uint32_t ifindex, enum bpf_tc_attach_point side, uint32_t priority, uint32_t handle)
{
    LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)ifindex, .attach_point = side);
    LIBBPF_OPTS(bpf_tc_opts, options, .handle = handle, .priority = priority);

    bpf_tc_detach(&hook, &options);
}

static void clsact_take_off_ours(uint32_t ifindex, enum bpf_tc_attach_point side, uint32_t priority,
                                 uint32_t handle)
{
    LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)ifindex, .attach_point = side);
    LIBBPF_OPTS(bpf_tc_opts, found, .handle = handle, .priority = priority);

    if (bpf_tc_query(&hook, &found) == 0 && prl_kernel_is_ours(found.prog_id))
        clsact_take_off(ifindex, side, priority, handle);
}

/* As tcx_move(). */
static int clsact_move(uint32_t ifindex, enum bpf_tc_attach_point side, int program, int mute)
{
    int code = clsact_put(ifindex, side, mute, TC_HANDLE_MUTE);

    if (code)
        return code;
    clsact_take_off(ifindex, side, TC_PRIORITY_FIRST, TC_HANDLE);
    return clsact_put(ifindex, side, program, TC_HANDLE);
}

static bool is_first(const struct prl_filter *first, uint32_t id)
{
    return first->handle == TC_HANDLE && first->priority == TC_PRIORITY_FIRST && first->program == id;
}

static int clsact_hook(uint32_t ifindex, enum bpf_tc_attach_point side, int program, int mute, int made,
                       char *words)
{
    LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)ifindex, .attach_point = side);
    LIBBPF_OPTS(bpf_tc_opts, options, .handle = TC_HANDLE, .priority = TC_PRIORITY_FIRST);
    uint32_t id = prl_program_id(program, NULL);
    struct prl_filter first;
    int code = prl_netlink_first_filter(ifindex, clsact_side(side), &first);

    if (!code && is_first(&first, id))
        return PRL_GUARD_KEPT;
    bool was_there = bpf_tc_query(&hook, &options) == 0 && options.prog_id == id;
    if (!code && first.handle)
        snprintf(words, PRL_ERROR_BYTES, "tc filter of kind %s, priority %u", first.kind, first.priority);
    code = prl_clsact_make(made, ifindex);
    if (code)
        return code;
    code = was_there ? clsact_move(ifindex, side, program, mute) : clsact_put(ifindex, side, program, TC_HANDLE);
    if (!code && (code = prl_netlink_first_filter(ifindex, clsact_side(side), &first)) == 0 &&
        !is_first(&first, id))
        code = clsact_move(ifindex, side, program, mute);
    if (code)
        return code;
    clsact_take_off_ours(ifindex, side, TC_PRIORITY_FIRST, TC_HANDLE_MUTE); /* of this move, or of a dead prld */
    return was_there ? PRL_GUARD_PASSED_BY : PRL_GUARD_MISSING;
}

/* ---- either ---- */

int prl_hook_put(uint32_t ifindex, enum bpf_tc_attach_point side, int program, int mute, int made, char *words)
{
    struct tcx_list list;
    int code = tcx_read(ifindex, side, &list);

    if (!code)
        return tcx_hook(ifindex, side, program, mute, &list, words);
    if (code != -EINVAL)
        return code;
    return clsact_hook(ifindex, side, program, mute, made, words);
}

bool prl_hook_is_guarded(uint32_t ifindex, enum bpf_tc_attach_point side)
{
    LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)ifindex, .attach_point = side);
    LIBBPF_OPTS(bpf_tc_opts, options, .handle = TC_HANDLE, .priority = TC_PRIORITY_FIRST);
    struct tcx_list list;

    if (tcx_read(ifindex, side, &list) == 0)
        return place_of_ours(&list) < list.count;
    return bpf_tc_query(&hook, &options) == 0 && prl_kernel_is_ours(options.prog_id);
}

static void take_off_side(uint32_t ifindex, enum bpf_tc_attach_point side)
{
    tcx_take_off_ours(ifindex, side, 0);
    clsact_take_off_ours(ifindex, side, TC_PRIORITY_FIRST, TC_HANDLE);
    clsact_take_off_ours(ifindex, side, TC_PRIORITY_FIRST, TC_HANDLE_MUTE);
}

void prl_hook_take_off(uint32_t ifindex)
{
    take_off_side(ifindex, BPF_TC_EGRESS);
    clsact_take_off_ours(ifindex, BPF_TC_EGRESS, 0x7072, 1); /* where earlier versions had it */
}

void prl_hook_take_off_input(uint32_t ifindex)
{
    take_off_side(ifindex, BPF_TC_INGRESS);
}
