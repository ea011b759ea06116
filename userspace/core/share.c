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
