/* SPDX-License-Identifier: BSD-2-Clause */
/* What TCP tells of the flows' sockets (docs/sessions.md). */
#ifndef PRL_PATH_NEWS_H
#define PRL_PATH_NEWS_H

#include <stdbool.h>

struct prl_dp;

/* Takes what there is, DP_BATCH at a time; true: there was something. */
bool dp_news_take(struct prl_dp *dp);

#endif /* PRL_PATH_NEWS_H */
