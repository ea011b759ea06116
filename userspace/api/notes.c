/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>

#include "api/datapath.h"
#include "flow/dp.h"
#include "loop/lock.h"

int prl_dp_note(struct prl_dp *dp, uint32_t handle, const struct prl_note *note)
{
    const struct dp_flow *flow;

    dp_lock(dp);
    flow = dp_flow_by_handle(dp, handle);
    if (flow)
        dp->table.notes[flow->slot] = *note;
    dp_unlock(dp);
    return flow ? 0 : -ENOENT;
}

int prl_dp_recall(struct prl_dp *dp, uint32_t handle, int is_secondary, struct prl_noted *noted)
{
    const struct dp_flow *flow;
    int err = -ENOENT;

    dp_lock(dp);
    flow = dp_flow_by_handle(dp, handle);
    if (flow && flow->secondary == (is_secondary != 0) && dp_flow_is_noted(dp, flow)) {
        *noted = (struct prl_noted){
            .key = flow->kernel->key,
            .handle = handle,
            .generation = flow->spec.generation,
            .service = flow->service,
            .is_secondary = flow->secondary,
            .note = dp->table.notes[flow->slot],
        };
        dp->table.notes[flow->slot] = (struct prl_note){0};
        err = 0;
    }
    dp_unlock(dp);
    return err;
}

static bool is_wanted(const struct prl_notes *notes, const struct prl_note *note, const struct dp_flow *flow)
{
    return flow->secondary == (notes->is_secondary != 0) && (!notes->kind || note->kind == notes->kind) &&
           (!notes->former || note->extra == notes->former);
}

void prl_dp_notes(struct prl_dp *dp, struct prl_notes *notes)
{
    uint32_t looked = 0;

    notes->count = 0;
    dp_lock(dp);
    while (notes->slot < dp->flows_top && looked++ < PRL_NOTES_LOOK && notes->count < PRL_NOTES_FOUND) {
        const struct prl_note *note = &dp->table.notes[notes->slot];
        const struct dp_flow *flow = &dp->flows[notes->slot];

        if (note->kind && is_wanted(notes, note, flow)) {
            notes->handle[notes->count] = flow->spec.handle;
            notes->of_kind[notes->count] = note->kind;
            notes->service[notes->count++] = flow->service;
        }
        notes->slot++;
    }
    if (notes->slot >= dp->flows_top)
        notes->slot = PRL_SLOT_NONE;
    dp_unlock(dp);
}
