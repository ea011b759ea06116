/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The programs on the network devices. All are attached through netlink, not through bpf_link: they must outlive
 * prld, however it dies (L9).
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>
#include "kernel_private.h"

/* prl's place among the tc filters of a device. */
#define TC_PRIORITY 0x7072
#define TC_HANDLE 1
#define PROGRAM_PREFIX "prl_"

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

static struct prl_hook *hook_of(struct prl_kernel *kernel, uint32_t ifindex)
{
    for (uint32_t i = 0; i < kernel->hooks; i++) {
        if (kernel->hook[i].ifindex == ifindex)
            return &kernel->hook[i];
    }
    struct prl_hook *hook = &kernel->hook[kernel->hooks++]; /* one per interface and TAP: it has room */
    hook->ifindex = ifindex;
    return hook;
}

static int attach_tc(struct prl_kernel *kernel, uint32_t ifindex, enum bpf_tc_attach_point point,
                     enum prl_program program, char *error)
{
    const char *side = point == BPF_TC_EGRESS ? "egress" : "ingress";
    LIBBPF_OPTS(bpf_tc_hook, where, .ifindex = (int)ifindex, .attach_point = point);
    LIBBPF_OPTS(bpf_tc_opts, options, .handle = TC_HANDLE, .priority = TC_PRIORITY,
                .prog_fd = kernel->program[program], .flags = BPF_TC_F_REPLACE);

    struct prl_hook *hook = hook_of(kernel, ifindex);
    int code = bpf_tc_hook_create(&where);
    if (code < 0 && code != -EEXIST)
        return prl_kernel_fail(error, code, "cannot add a clsact qdisc to interface %u", ifindex);
    hook->made_clsact |= code == 0;
    code = bpf_tc_attach(&where, &options);
    if (code < 0)
        return prl_kernel_fail(error, code, "cannot attach tc %s to interface %u", side, ifindex);
    if (point == BPF_TC_EGRESS)
        hook->egress = true;
    else
        hook->ingress = true;
    return 0;
}

static void detach_tc(uint32_t ifindex, enum bpf_tc_attach_point point)
{
    LIBBPF_OPTS(bpf_tc_hook, where, .ifindex = (int)ifindex, .attach_point = point);
    LIBBPF_OPTS(bpf_tc_opts, options, .handle = TC_HANDLE, .priority = TC_PRIORITY);
    bpf_tc_detach(&where, &options);
}

/* Lets reinjected frames take the short way (prl_pick) to the interfaces that a filter can be had for: a kernel without
 * act_mirred has none, and they go by bpf_redirect(). */
static int attach_mirrors(struct prl_kernel *kernel, char *error)
{
    for (uint32_t i = 0; i < kernel->lifs; i++) {
        struct prl_lif lif;
        uint16_t priority = (uint16_t)(TC_PRIORITY + 1 + i);
        int code = bpf_map_lookup_elem(kernel->map[PRL_MAP_LIFS], &i, &lif);

        if (!code && prl_netlink_add_mirror(kernel->inject_ifindex, priority, kernel->program[PRL_PROG_PICK],
                                            lif.ifindex) < 0)
            return 0;
        lif.mirrored = 1;
        if (!code)
            code = bpf_map_update_elem(kernel->map[PRL_MAP_LIFS], &i, &lif, BPF_ANY);
        if (code)
            return prl_kernel_fail(error, code, "cannot enter interface %u", kernel->ifindex[i]);
    }
    return 0;
}

int prl_kernel_attach(struct prl_kernel *kernel, char *error)
{
    int code = record_lifs(kernel, error);

    for (uint32_t i = 0; !code && i < kernel->lifs; i++)
        code = attach_tc(kernel, kernel->ifindex[i], BPF_TC_EGRESS, PRL_PROG_EGRESS, error);
    if (!code && kernel->inject_ifindex) {
        code = attach_tc(kernel, kernel->inject_ifindex, BPF_TC_EGRESS, PRL_PROG_MUTE, error);
        if (!code)
            code = attach_tc(kernel, kernel->inject_ifindex, BPF_TC_INGRESS, PRL_PROG_INJECT, error);
        if (!code)
            code = attach_mirrors(kernel, error);
    }
    if (!code && kernel->hold_ifindex) {
        code = prl_netlink_remove_queue(kernel->hold_ifindex);
        if (code)
            prl_kernel_fail(error, code, "cannot take the queue off the hold device %u", kernel->hold_ifindex);
        if (!code)
            code = attach_tc(kernel, kernel->hold_ifindex, BPF_TC_EGRESS, PRL_PROG_HOLD_GUARD, error);
        if (!code)
            code = attach_tc(kernel, kernel->hold_ifindex, BPF_TC_INGRESS, PRL_PROG_RELEASE, error);
    }
    if (!code)
        code = prl_kernel_attach_xdp(kernel, error);
    if (code)
        prl_kernel_detach(kernel);
    return code;
}

void prl_kernel_detach(struct prl_kernel *kernel)
{
    prl_kernel_detach_xdp(kernel);
    while (kernel->hooks) {
        struct prl_hook *hook = &kernel->hook[--kernel->hooks];
        /* Both points together mean the qdisc (libbpf.h): the enum's values are flags.
         * NOLINTNEXTLINE(clang-analyzer-optin.core.EnumCastOutOfRange) */
        LIBBPF_OPTS(bpf_tc_hook, clsact, .ifindex = (int)hook->ifindex,
                    .attach_point = BPF_TC_INGRESS | BPF_TC_EGRESS);
        if (hook->ingress)
            detach_tc(hook->ifindex, BPF_TC_INGRESS);
        if (hook->egress)
            detach_tc(hook->ifindex, BPF_TC_EGRESS);
        if (hook->made_clsact)
            bpf_tc_hook_destroy(&clsact);
        memset(hook, 0, sizeof(*hook));
    }
}

bool prl_kernel_is_ours(uint32_t id)
{
    struct bpf_prog_info info = {0};
    uint32_t bytes = sizeof(info);

    int fd = id ? bpf_prog_get_fd_by_id(id) : -1;
    if (fd < 0)
        return false;
    int code = bpf_obj_get_info_by_fd(fd, &info, &bytes);
    close(fd);
    return code == 0 && strncmp(info.name, PROGRAM_PREFIX, strlen(PROGRAM_PREFIX)) == 0;
}

bool prl_kernel_is_guarded(const struct prl_lif *lif)
{
    LIBBPF_OPTS(bpf_tc_hook, egress, .ifindex = (int)lif->ifindex, .attach_point = BPF_TC_EGRESS);
    LIBBPF_OPTS(bpf_tc_opts, options, .handle = TC_HANDLE, .priority = TC_PRIORITY);
    uint8_t mac[6] = {0};

    if (mac_of(lif->ifindex, mac) < 0 || memcmp(mac, lif->mac, sizeof(mac)) != 0)
        return false;
    return bpf_tc_query(&egress, &options) == 0 && prl_kernel_is_ours(options.prog_id);
}

void prl_kernel_scrub_lif(const struct prl_lif *lif)
{
    int ifindex = (int)lif->ifindex;
    uint8_t mac[6] = {0};

    if (mac_of(lif->ifindex, mac) < 0 || memcmp(mac, lif->mac, sizeof(mac)) != 0)
        return; /* gone, or the index belongs to another device now */
    prl_kernel_scrub_xdp(ifindex);
    LIBBPF_OPTS(bpf_tc_hook, egress, .ifindex = ifindex, .attach_point = BPF_TC_EGRESS);
    LIBBPF_OPTS(bpf_tc_opts, options, .handle = TC_HANDLE, .priority = TC_PRIORITY);
    if (bpf_tc_query(&egress, &options) == 0 && prl_kernel_is_ours(options.prog_id))
        detach_tc(lif->ifindex, BPF_TC_EGRESS);
}
