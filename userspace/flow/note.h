/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the control plane has noted of a flow, in place of an object of its own: of a session to which nothing happens
 * (docs/architecture.md). The datapath keeps it beside the flow, reads nothing of it, and forgets no flow that has one
 * unless the control plane says so.
 */
#ifndef PRL_FLOW_NOTE_H
#define PRL_FLOW_NOTE_H

#ifndef PRL_CFFI
#include <stdbool.h>
#include <stdint.h>
#endif

#include "prl_abi.h"

/* Notes that one look goes by, with the lock held. */
#define PRL_NOTES_LOOK 4096u
/* Notes that one look gives. */
#define PRL_NOTES_FOUND 256u

struct prl_note {
    int64_t in_offset, out_offset; /* from the socket's counters to positions in the session's streams */
    uint64_t
        extra; /* a shadow's: output before its snapshot's end; a session's: the handle that it had as a shadow */
    uint32_t kind; /* number of what many sessions have alike; 0: nothing is noted */
    uint32_t since_s; /* since when it has been protected, CLOCK_MONOTONIC */
};

/* A note, with what the datapath knows by itself. */
struct prl_noted {
    struct prl_flow_key key;
    uint32_t handle, generation;
    uint8_t service, is_secondary, pad[6];
    struct prl_note note;
};

struct prl_notes {
    uint32_t slot; /* where the next look begins: 0 at first; PRL_SLOT_NONE: there are no more */
    uint32_t kind; /* wanted; 0: any */
    uint32_t former; /* wanted: what it was as a shadow; 0: any */
    uint8_t is_secondary, pad[3];
    uint32_t count;
    uint32_t handle[PRL_NOTES_FOUND], of_kind[PRL_NOTES_FOUND];
    uint8_t service[PRL_NOTES_FOUND];
};

#endif /* PRL_FLOW_NOTE_H */
