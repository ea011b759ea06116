/* SPDX-License-Identifier: BSD-2-Clause */
/* When a thread comes before all others, and how much it may take then: a named share of each window of time. And when it does not
 * even preempt those that it works for. */
#ifndef PRL_CORE_SHARE_H
#define PRL_CORE_SHARE_H

#ifndef PRL_CFFI
#include <stdbool.h>
#include <stdint.h>
#endif

enum {
    PRL_LATE_MS = 8, /* behind what was due: then it comes before all others */
    PRL_RAISED_MS = 500, /* for so long; if it is late again after that, it does so again */
    PRL_SHARE_WINDOW_MS = 100,
    PRL_SHARE_MS = 75, /* of each window */
    PRL_BULK_WINDOW_MS = 10,
    PRL_BULK_BYTES = 1 << 19, /* by the link in a window, both ways: a bulk */
};

struct prl_share {
    bool spent; /* what is left of this window is others' */
    uint64_t window_ns; /* when the window began */
    uint64_t busy_ns; /* what was taken of it */
};

/* It was busy from `began_ns` until now. Returns whether that has spent the share. */
bool prl_share_take(struct prl_share *share, uint64_t began_ns, uint64_t now_ns);

/* Whether there is a bulk: found at the end of each window, by what the link carried from its beginning on. */
struct prl_bulk {
    bool on;
    uint64_t window_ns; /* when the window began */
    uint64_t bytes; /* what the link had carried by then */
};

/* The link has carried so many bytes by now. Returns whether that has changed `on`. */
bool prl_bulk_take(struct prl_bulk *bulk, uint64_t now_ns, uint64_t bytes);

#endif /* PRL_CORE_SHARE_H */
