/* SPDX-License-Identifier: BSD-2-Clause */
#include "core/share.h"

#define NS_PER_MS 1000000ull

bool prl_share_take(struct prl_share *share, uint64_t began_ns, uint64_t now_ns)
{
    if (began_ns - share->window_ns >= PRL_SHARE_WINDOW_MS * NS_PER_MS)
        *share = (struct prl_share){.window_ns = began_ns};
    share->busy_ns += now_ns - began_ns;
    if (share->spent || share->busy_ns < PRL_SHARE_MS * NS_PER_MS)
        return false;
    share->spent = true;
    return true;
}

bool prl_bulk_take(struct prl_bulk *bulk, uint64_t now_ns, uint64_t bytes)
{
    uint64_t windows = (now_ns - bulk->window_ns) / (PRL_BULK_WINDOW_MS * NS_PER_MS);
    bool was_on = bulk->on;

    if (!windows)
        return false;
    bulk->on = bulk->window_ns && (bytes - bulk->bytes) / windows >= PRL_BULK_BYTES;
    bulk->window_ns = now_ns;
    bulk->bytes = bytes;
    return bulk->on != was_on;
}
