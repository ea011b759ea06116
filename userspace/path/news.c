/* SPDX-License-Identifier: BSD-2-Clause */
#include "path/news.h"

#include "flow/dp.h"
#include "flow/wake.h"

/* dp_flows_tick() tells it: what of the flow is in our hands, or still in the hold TAP, comes first. */
static void note_end(struct prl_dp *dp, const struct prl_news *news)
{
    const struct prl_meta where = {.handle = news->handle, .slot = news->slot};
    struct dp_flow *flow = dp_flow_of_frame(dp, &where);

    if (!flow)
        return; /* forgotten since */
    flow->ended = DP_ENDED_NOTED;
    dp_flow_wake(dp, flow);
}

bool dp_news_take(struct prl_dp *dp)
{
    struct prl_news news;
    uint32_t taken = 0;
    bool born = false;

    while (taken < DP_BATCH && dp->io->news(dp->host, &news)) {
        taken++;
        born |= news.kind == PRL_NEWS_BORN;
        if (news.kind == PRL_NEWS_ENDED)
            note_end(dp, &news);
    }
    if (born)
        dp_event_born(dp);
    return taken;
}
