/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The programs on the network devices. All are attached without a bpf_link: they must outlive prld, however it dies (L9).
 * What leaves is judged first in line (kernel_hook.c); on prl's own TAPs nobody else has a program.
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>
#include "io/kernel_attach.h"
#include "io/kernel_clsact.h"
#include "io/kernel_hook.h"
#include "io/kernel_netlink.h"
#include "io/kernel_private.h"
#include "io/kernel_words.h"
#include "io/kernel_xdp.h"

/* prl's place among the tc filters of its TAPs. */
#define TC_PRIORITY 0x7072
#define TC_HANDLE 1
/* Of the filters that attach_mirrors() makes, by number. */
#define MIRROR_PRIORITY(lif) (TC_PRIORITY + 1 + (lif))
/* Of prl_mirrored, on the link's interface beside prl_answer: no frame is both's. */
#define MIRRORED_PRIORITY (TC_PRIORITY - 1)
#define LOCAL_PIN "local"

static int mac_of(uint32_t ifindex, uint8_t mac[6])
{
    struct ifreq request = {0};

    if (!if_indextoname(ifindex, request.ifr_name))
        return -errno;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    int code = ioctl(fd, SIOCGIFHWADDR, &request) < 0 ? -errno : 0;
    close(fd);
    if (!code)
        memcpy(mac, request.ifr_hwaddr.sa_data, 6);
    return code;
}

/* Tells the programs which interfaces there are; nothing is missing from the tables at any moment. */
static int record_lifs(struct prl_kernel *kernel, char *error)
{
    for (uint32_t i = 0; i < PRL_LIFS_MAX; i++) {
        struct prl_lif lif = {0};
        int code = 0;
        if (i < kernel->lifs) {
            lif.ifindex = kernel->ifindex[i];
            code = mac_of(lif.ifindex, lif.mac);
            __atomic_fetch_or(&kernel->node->mac_bits, 1ull << prl_mac_bit(lif.mac), __ATOMIC_SEQ_CST);
            if (!code)
                code = bpf_map_update_elem(kernel->map[PRL_MAP_LIF_OF], &lif.ifindex, &i, BPF_ANY);
        }
        if (!code)
            code = bpf_map_update_elem(kernel->map[PRL_MAP_LIFS], &i, &lif, BPF_ANY);
        if (code < 0)
            return prl_kernel_fail(error, code, "cannot use interface %u", lif.ifindex);
    }
    uint32_t stale[PRL_LIFS_MAX], known = 0, key;
    const uint32_t *last = NULL;
    while (known < PRL_LIFS_MAX && bpf_map_get_next_key(kernel->map[PRL_MAP_LIF_OF], last, &key) == 0) {
        stale[known] = key;
        last = &stale[known++];
    }
    for (uint32_t i = 0; i < known; i++) {
        bool used = false;
        for (uint32_t j = 0; j < kernel->lifs; j++)
            used |= kernel->ifindex[j] == stale[i];
        if (!used)
            bpf_map_delete_elem(kernel->map[PRL_MAP_LIF_OF], &stale[i]);
    }
    return 0;
}

static int attach_at(struct prl_kernel *kernel, uint32_t ifindex, enum bpf_tc_attach_point point,
                     uint32_t priority, enum prl_program program, char *error)
{
    const char *side = point == BPF_TC_EGRESS ? "egress" : "ingress";
    LIBBPF_OPTS(bpf_tc_hook, where, .ifindex = (int)ifindex, .attach_point = point);
    LIBBPF_OPTS(bpf_tc_opts, options, .handle = TC_HANDLE, .priority = priority,
                .prog_fd = kernel->program[program], .flags = BPF_TC_F_REPLACE);

    int code = prl_clsact_make(kernel->map[PRL_MAP_CLSACTS], ifindex);
    if (code)
        return prl_kernel_fail(error, code, "cannot add a clsact qdisc to interface %u", ifindex);
    code = bpf_tc_attach(&where, &options);
    return code < 0 ? prl_kernel_fail(error, code, "cannot attach tc %s to interface %u", side, ifindex) : 0;
}

static int attach_tap(struct prl_kernel *kernel, uint32_t ifindex, enum bpf_tc_attach_point point,
                      enum prl_program program, char *error)
{
    return attach_at(kernel, ifindex, point, TC_PRIORITY, program, error);
}

static void detach_one(uint32_t ifindex, enum bpf_tc_attach_point point, uint32_t priority)
{
    LIBBPF_OPTS(bpf_tc_hook, where, .ifindex = (int)ifindex, .attach_point = point);
    LIBBPF_OPTS(bpf_tc_opts, options, .handle = TC_HANDLE, .priority = priority);
    bpf_tc_detach(&where, &options);
}

static void detach_tap(uint32_t ifindex)
{
    if (!ifindex)
        return;
    for (uint32_t i = 0; i < PRL_LIFS_MAX; i++)
        detach_one(ifindex, BPF_TC_INGRESS, MIRROR_PRIORITY(i));
    detach_one(ifindex, BPF_TC_INGRESS, TC_PRIORITY);
    detach_one(ifindex, BPF_TC_EGRESS, TC_PRIORITY);
}

static bool has_program(const struct prl_kernel *kernel, uint32_t ifindex, enum bpf_tc_attach_point point,
                        uint32_t priority, enum prl_program program)
{
    LIBBPF_OPTS(bpf_tc_hook, where, .ifindex = (int)ifindex, .attach_point = point);
    LIBBPF_OPTS(bpf_tc_opts, options, .handle = TC_HANDLE, .priority = priority);

    return bpf_tc_query(&where, &options) == 0 && options.prog_id == kernel->program_id[program];
}

static bool has_tap_program(const struct prl_kernel *kernel, uint32_t ifindex, enum bpf_tc_attach_point point,
                            enum prl_program program)
{
    return has_program(kernel, ifindex, point, TC_PRIORITY, program);
}

/* Puts a program first in line on what leaves by an interface. */
static int guard_egress(struct prl_kernel *kernel, uint32_t ifindex, enum prl_program program, char *words)
{
    char name[IF_NAMESIZE] = "?", in_front[PRL_ERROR_BYTES] = "";
    int code = prl_hook_put(ifindex, BPF_TC_EGRESS, kernel->program[program], kernel->program[PRL_PROG_MUTE],
                            kernel->map[PRL_MAP_CLSACTS], in_front);

    words[0] = 0;
    if (code >= 0) {
        memcpy(words, in_front, sizeof(in_front));
        return code;
    }
    if_indextoname(ifindex, name);
    return prl_kernel_fail(words, code, "prl cannot be first in line on what leaves by %s%s%.120s", name,
                           in_front[0] ? ", because of a " : "", in_front);
}

/* Lets reinjected frames take the short way (prl_pick) to the interfaces that a filter can be had for: a kernel without
 * act_mirred has none, and they go by bpf_redirect(). */
static int attach_mirrors(struct prl_kernel *kernel, char *error)
{
    for (uint32_t i = 0; i < kernel->lifs; i++) {
        struct prl_lif lif;
        uint16_t priority = (uint16_t)MIRROR_PRIORITY(i);
        int code = bpf_map_lookup_elem(kernel->map[PRL_MAP_LIFS], &i, &lif);

        if (!code && prl_netlink_add_mirror(kernel->inject_ifindex, priority, kernel->program[PRL_PROG_PICK],
                                            lif.ifindex) < 0)
            return 0;
        if (lif.way == PRL_WAY_REDIRECT) /* else it stands there already, and the carrier decides */
            lif.way = PRL_WAY_MIRRED;
        if (!code)
            code = bpf_map_update_elem(kernel->map[PRL_MAP_LIFS], &i, &lif, BPF_ANY);
        if (code)
            return prl_kernel_fail(error, code, "cannot enter interface %u", kernel->ifindex[i]);
    }
    return 0;
}

int prl_kernel_carrier(struct prl_kernel *kernel, uint32_t ifindex, int has_carrier)
{
    int code = 0;

    for (uint32_t i = 0; i < kernel->lifs && !code; i++) {
        struct prl_lif lif;

        if (kernel->ifindex[i] != ifindex)
            continue;
        code = bpf_map_lookup_elem(kernel->map[PRL_MAP_LIFS], &i, &lif);
        if (code || lif.way == PRL_WAY_REDIRECT)
            continue;
        lif.way = has_carrier ? PRL_WAY_MIRRED : PRL_WAY_NO_CARRIER;
        code = bpf_map_update_elem(kernel->map[PRL_MAP_LIFS], &i, &lif, BPF_ANY);
    }
    return code;
}

static int attach_inject(struct prl_kernel *kernel, char *error)
{
    int code = attach_tap(kernel, kernel->inject_ifindex, BPF_TC_EGRESS, PRL_PROG_MUTE, error);

    if (!code)
        code = attach_tap(kernel, kernel->inject_ifindex, BPF_TC_INGRESS, PRL_PROG_INJECT, error);
    return code ? code : attach_mirrors(kernel, error);
}

static int attach_hold(struct prl_kernel *kernel, char *error)
{
    int code = prl_netlink_remove_queue(kernel->hold_ifindex);

    if (code)
        return prl_kernel_fail(error, code, "cannot take the queue off the hold device %u", kernel->hold_ifindex);
    code = attach_tap(kernel, kernel->hold_ifindex, BPF_TC_EGRESS, PRL_PROG_HOLD_GUARD, error);
    return code ? code : attach_tap(kernel, kernel->hold_ifindex, BPF_TC_INGRESS, PRL_PROG_RELEASE, error);
}

/* The one program that the kernel attaches by a bpf_link alone: pinned, so that it outlives prld like the others. */
static int attach_local(struct prl_kernel *kernel, char *error)
{
    char path[PRL_PATH_BYTES + 32];
    int program = kernel->program[PRL_PROG_LOCAL];

    snprintf(path, sizeof(path), "%s/%s", kernel->pin_dir, LOCAL_PIN);
    int link = bpf_obj_get(path), code = -ENOENT;
    if (link >= 0) { /* of a former life */
        code = bpf_link_update(link, program, NULL);
        close(link);
    }
    if (code) {
        int place = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);

        unlink(path);
        link = place < 0 ? -errno : bpf_link_create(program, place, BPF_SK_LOOKUP, NULL);
        code = link < 0 ? link : bpf_obj_pin(link, path);
        if (link >= 0)
            close(link);
        if (place >= 0)
            close(place);
    }
    return code ? prl_kernel_fail(error, code, "cannot judge this host's own calls (sk_lookup)") : 0;
}

/* The interfaces that the other node's probes come by (L3a). */
static bool is_probed(const struct prl_kernel *kernel, uint32_t ifindex)
{
    return kernel->is_probed && ifindex &&
           ((kernel->lifs && ifindex == kernel->ifindex[0]) || ifindex == kernel->link_ifindex);
}

/* Where it cannot be, the other node gets no answers, shows so in its status, and goes by heartbeats alone. */
static void attach_answer(struct prl_kernel *kernel, uint32_t ifindex)
{
    char words[PRL_ERROR_BYTES];

    if (is_probed(kernel, ifindex) && !has_tap_program(kernel, ifindex, BPF_TC_INGRESS, PRL_PROG_ANSWER))
        attach_tap(kernel, ifindex, BPF_TC_INGRESS, PRL_PROG_ANSWER, words);
}

/* prl_kernel_is_ours() may say no: the place is free, or somebody else's. */
static void take_off(uint32_t ifindex, uint32_t priority)
{
    LIBBPF_OPTS(bpf_tc_hook, where, .ifindex = (int)ifindex, .attach_point = BPF_TC_INGRESS);
    LIBBPF_OPTS(bpf_tc_opts, options, .handle = TC_HANDLE, .priority = priority);

    if (bpf_tc_query(&where, &options) == 0 && prl_kernel_is_ours(options.prog_id))
        detach_one(ifindex, BPF_TC_INGRESS, priority);
}

/* On the cable, or, with another carrier than a former life's, not there any more. */
static int attach_mirrored(struct prl_kernel *kernel, char *error)
{
    if (kernel->mode == PRL_XDP_MIRROR)
        return attach_at(kernel, kernel->link_ifindex, BPF_TC_INGRESS, MIRRORED_PRIORITY, PRL_PROG_MIRRORED,
                         error);
    if (kernel->link_ifindex)
        take_off(kernel->link_ifindex, MIRRORED_PRIORITY);
    return 0;
}

/* PRL_GUARD_…, or -errno. */
static int guard_mirrored(struct prl_kernel *kernel, char *words)
{
    if (kernel->mode != PRL_XDP_MIRROR ||
        has_program(kernel, kernel->link_ifindex, BPF_TC_INGRESS, MIRRORED_PRIORITY, PRL_PROG_MIRRORED))
        return PRL_GUARD_KEPT;
    int code = attach_mirrored(kernel, words);
    return code ? code : PRL_GUARD_MISSING;
}

int prl_kernel_attach(struct prl_kernel *kernel, char *error)
{
    int code = record_lifs(kernel, error);

    prl_clsact_forget_gone(kernel->map[PRL_MAP_CLSACTS]);
    for (uint32_t i = 0; !code && i < kernel->lifs; i++) {
        code = guard_egress(kernel, kernel->ifindex[i], PRL_PROG_EGRESS, error);
        code = code < 0 ? code : 0;
    }
    if (!code)
        code = attach_local(kernel, error);
    if (!code && kernel->inject_ifindex)
        code = attach_inject(kernel, error);
    if (!code && kernel->hold_ifindex)
        code = attach_hold(kernel, error);
    if (!code) {
        attach_answer(kernel, kernel->ifindex[0]);
        attach_answer(kernel, kernel->link_ifindex);
    }
    if (!code)
        code = attach_mirrored(kernel, error);
    if (!code)
        code = prl_kernel_attach_xdp(kernel, error);
    /* What a former life left stays until prl_kernel_close(), which is told whether to. */
    if (code && kernel->made_pin_dir)
        prl_kernel_detach(kernel);
    return code;
}

/* ---- looking again ---- */

static int guard_tap(struct prl_kernel *kernel, uint32_t ifindex, char *words)
{
    bool is_hold = ifindex == kernel->hold_ifindex;

    words[0] = 0;
    if (has_tap_program(kernel, ifindex, BPF_TC_EGRESS, is_hold ? PRL_PROG_HOLD_GUARD : PRL_PROG_MUTE) &&
        has_tap_program(kernel, ifindex, BPF_TC_INGRESS, is_hold ? PRL_PROG_RELEASE : PRL_PROG_INJECT))
        return PRL_GUARD_KEPT;
    int code = is_hold ? attach_hold(kernel, words) : attach_inject(kernel, words);
    return code ? code : PRL_GUARD_MISSING;
}

static int guard_lif(struct prl_kernel *kernel, uint32_t ifindex, int whole, char *words)
{
    int code = guard_egress(kernel, ifindex, PRL_PROG_EGRESS, words);
    int xdp = code < 0 || !whole ? PRL_GUARD_KEPT : prl_kernel_guard_xdp(kernel, ifindex, words);

    return xdp == PRL_GUARD_KEPT || (xdp > 0 && code > 0) ? code : xdp;
}

int prl_kernel_guard(struct prl_kernel *kernel, uint32_t ifindex, int whole, char *words)
{
    if (ifindex == kernel->inject_ifindex || ifindex == kernel->hold_ifindex)
        return whole ? guard_tap(kernel, ifindex, words) : PRL_GUARD_KEPT;
    if (whole)
        attach_answer(kernel, ifindex);
    for (uint32_t i = 0; i < kernel->lifs; i++) {
        if (kernel->ifindex[i] == ifindex)
            return guard_lif(kernel, ifindex, whole, words);
    }
    int mirrored = PRL_GUARD_KEPT, code = guard_egress(kernel, ifindex, PRL_PROG_SILENCE, words);
    if (code >= 0 && whole && ifindex == kernel->link_ifindex)
        mirrored = guard_mirrored(kernel, words);
    return mirrored < 0 || code == PRL_GUARD_KEPT ? mirrored : code;
}

void prl_kernel_unguard(struct prl_kernel *kernel, uint32_t ifindex)
{
    prl_hook_take_off(ifindex);
    prl_clsact_remove(kernel->map[PRL_MAP_CLSACTS], ifindex);
}

/* ---- the end ---- */

void prl_kernel_scrub_silence(void)
{
    struct if_nameindex *interfaces = if_nameindex();

    for (const struct if_nameindex *one = interfaces; one && one->if_index; one++) {
        prl_hook_take_off(one->if_index);
        take_off(one->if_index, TC_PRIORITY);
        take_off(one->if_index, MIRRORED_PRIORITY);
    }
    if (interfaces)
        if_freenameindex(interfaces);
}

void prl_kernel_detach(struct prl_kernel *kernel)
{
    prl_kernel_detach_xdp(kernel);
    prl_kernel_scrub_silence();
    detach_tap(kernel->inject_ifindex);
    detach_tap(kernel->hold_ifindex);
    prl_clsact_remove_all(kernel->map[PRL_MAP_CLSACTS]);
}

bool prl_kernel_is_guarded(const struct prl_lif *lif)
{
    uint8_t mac[6] = {0};

    if (mac_of(lif->ifindex, mac) < 0 || memcmp(mac, lif->mac, sizeof(mac)) != 0)
        return false;
    return prl_hook_is_guarded(lif->ifindex, BPF_TC_EGRESS);
}

void prl_kernel_scrub_lif(const struct prl_lif *lif)
{
    uint8_t mac[6] = {0};

    if (mac_of(lif->ifindex, mac) < 0 || memcmp(mac, lif->mac, sizeof(mac)) != 0)
        return; /* gone, or the index belongs to another device now */
    prl_kernel_scrub_xdp((int)lif->ifindex);
    prl_hook_take_off_input(lif->ifindex);
}
