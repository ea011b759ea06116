/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Flows whose packets go another way than prl's programs (enum prl_stray): input that nobody captures, which the socket's
 * gate refuses for ever, output that would have left unheld and was stolen. They are given up, so that the session goes on,
 * and says that it is not protected (I5). The programs count them; all flows are looked at only when that has risen.
 */
#ifndef PRL_PATH_STRAY_H
#define PRL_PATH_STRAY_H

#include <stdbool.h>
#include <stdint.h>

struct prl_dp;

struct dp_strays {
    uint64_t seen; /* of prl_node.strays, when the look for them began */
    uint32_t next; /* slot at which it goes on */
};

/* One step of the look. Whether there is more to look at. */
bool dp_stray_look(struct prl_dp *dp, struct dp_strays *strays);

#endif /* PRL_PATH_STRAY_H */
