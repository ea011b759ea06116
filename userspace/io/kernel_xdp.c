/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What captures, on the interfaces: prl_classify in their drivers (native XDP) or in the stack (generic XDP), where every
 * driver's packets come by; or prl_ingress at tc ingress, where packets wait in the kernel (docs/carriers.md).
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/if_link.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include "io/kernel_hook.h"
#include "io/kernel_private.h"
#include "io/kernel_words.h"
#include "io/kernel_xdp.h"

static uint32_t flags_of(uint32_t mode)
{
    return mode == PRL_XDP_NATIVE ? XDP_FLAGS_DRV_MODE : XDP_FLAGS_SKB_MODE;
}

/* Whoever put a program there wants it there. 0, -EBUSY, or why it cannot be known. */
static int refuse_foreign(uint32_t ifindex)
{
    LIBBPF_OPTS(bpf_xdp_query_opts, found);
    int code = bpf_xdp_query((int)ifindex, 0, &found);

    if (!code && ((found.drv_prog_id && !prl_kernel_is_ours(found.drv_prog_id)) ||
                  (found.skb_prog_id && !prl_kernel_is_ours(found.skb_prog_id)))) {
        snprintf(prl_kernel_words(), PRL_ERROR_BYTES / 2, "somebody else's XDP program is there");
        code = -EBUSY;
    }
    return code;
}

/* prl_ingress first in line; of an earlier life that ran XDP, that goes. enum prl_guard, or -errno. */
static int attach_ingress(const struct prl_kernel *kernel, uint32_t ifindex, char *error)
{
    char name[IF_NAMESIZE] = "?", in_front[PRL_ERROR_BYTES] = "";
    int code = prl_hook_put(ifindex, BPF_TC_INGRESS, kernel->program[PRL_PROG_INGRESS],
                            kernel->program[PRL_PROG_MUTE], kernel->map[PRL_MAP_CLSACTS], in_front);

    error[0] = 0;
    if (code >= 0) {
        prl_kernel_scrub_xdp((int)ifindex);
        if (code != PRL_GUARD_KEPT)
            memcpy(error, in_front, sizeof(in_front));
        return code;
    }
    if_indextoname(ifindex, name);
    return prl_kernel_fail(error, code, "prl cannot be first in line on what comes in by %s%s%.120s", name,
                           in_front[0] ? ", because of a " : "", in_front);
}

static int attach(const struct prl_kernel *kernel, uint32_t ifindex, char *error)
{
    bool native = kernel->mode == PRL_XDP_NATIVE;
    char name[IF_NAMESIZE] = "?", *words = prl_kernel_words();

    if (prl_mode_is_queued(kernel->mode)) {
        int guard = attach_ingress(kernel, ifindex, error);

        error[0] = guard < 0 ? error[0] : 0;
        return guard < 0 ? guard : 0;
    }
    words[0] = 0;
    int code = refuse_foreign(ifindex);
    if (!code) {
        /* A device runs one mode; a program of an earlier life in the same mode is replaced without a gap. */
        bpf_xdp_detach((int)ifindex, flags_of(native ? PRL_XDP_GENERIC : PRL_XDP_NATIVE), NULL);
        words[0] = 0;
        code = bpf_xdp_attach((int)ifindex, kernel->program[PRL_PROG_CLASSIFY], flags_of(kernel->mode), NULL);
    }
    if (!code) {
        prl_hook_take_off_input(ifindex);
        return 0;
    }
    if_indextoname(ifindex, name);
    return prl_kernel_fail(error, code, "cannot attach %s XDP to %s%s%s", native ? "native" : "generic", name,
                           words[0] ? ": " : "", words);
}

static int attach_all(struct prl_kernel *kernel, char *error)
{
    for (uint32_t i = 0; i < kernel->lifs; i++) {
        int code = attach(kernel, kernel->ifindex[i], error);
        if (code)
            return code;
        kernel->xdp[i] = true;
    }
    return 0;
}

int prl_kernel_attach_xdp(struct prl_kernel *kernel, char *error)
{
    error[0] = 0;
    int code = attach_all(kernel, error);
    if (code && kernel->fallback_mode) {
        char second[PRL_ERROR_BYTES] = "";

        prl_kernel_detach_xdp(kernel);
        kernel->mode = kernel->fallback_mode;
        code = attach_all(kernel, second);
        if (code)
            memcpy(error, second, sizeof(second));
    }
    if (code) {
        prl_kernel_detach_xdp(kernel);
        kernel->mode = 0;
    }
    return code;
}

int prl_kernel_guard_xdp(struct prl_kernel *kernel, uint32_t ifindex, char *words)
{
    LIBBPF_OPTS(bpf_xdp_query_opts, found);

    if (prl_mode_is_queued(kernel->mode))
        return attach_ingress(kernel, ifindex, words);
    if (bpf_xdp_query((int)ifindex, 0, &found) == 0 &&
        (kernel->mode == PRL_XDP_NATIVE ? found.drv_prog_id : found.skb_prog_id) ==
            kernel->program_id[PRL_PROG_CLASSIFY])
        return PRL_GUARD_KEPT;
    int code = attach(kernel, ifindex, words);
    return code ? code : PRL_GUARD_MISSING;
}

void prl_kernel_detach_xdp(struct prl_kernel *kernel)
{
    for (uint32_t i = 0; i < kernel->lifs; i++) {
        if (kernel->xdp[i] && prl_mode_is_queued(kernel->mode))
            prl_hook_take_off_input(kernel->ifindex[i]);
        else if (kernel->xdp[i])
            bpf_xdp_detach((int)kernel->ifindex[i], flags_of(kernel->mode), NULL);
        kernel->xdp[i] = false;
    }
}

void prl_kernel_scrub_xdp(int ifindex)
{
    LIBBPF_OPTS(bpf_xdp_query_opts, xdp);

    if (bpf_xdp_query(ifindex, 0, &xdp))
        return;
    if (prl_kernel_is_ours(xdp.drv_prog_id))
        bpf_xdp_detach(ifindex, XDP_FLAGS_DRV_MODE, NULL);
    if (prl_kernel_is_ours(xdp.skb_prog_id))
        bpf_xdp_detach(ifindex, XDP_FLAGS_SKB_MODE, NULL);
}

uint32_t prl_kernel_mode(const struct prl_kernel *kernel)
{
    return kernel->mode;
}
