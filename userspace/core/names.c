/* SPDX-License-Identifier: BSD-2-Clause */
#include "core/names.h"

#include <stddef.h>

#include "core/primary.h"
#include "core/secondary.h"
#include "wire/wire.h"

#define NAME_OF(names, number) \
    ((number) < sizeof(names) / sizeof((names)[0]) && (names)[number] ? (names)[number] : "unknown")

static const char *const reasons[PRL_REASON_COUNT] = {
#define PRL_REASON(name, number, trace_name, words) [number] = (trace_name),
#include "wire/wire.def"
};

static const char *const primary_states[] = {
    [PRL_PRIMARY_GONE] = "gone",       [PRL_PRIMARY_SETUP] = "setup", [PRL_PRIMARY_ACTIVE] = "active",
    [PRL_PRIMARY_VOIDING] = "voiding", [PRL_PRIMARY_OPEN] = "open",   [PRL_PRIMARY_MOVED] = "moved",
    [PRL_PRIMARY_ALONE] = "alone",
};

static const char *const secondary_states[] = {
    [PRL_SECONDARY_GONE] = "gone",   [PRL_SECONDARY_ACTIVE] = "active",       [PRL_SECONDARY_VOID] = "void",
    [PRL_SECONDARY_OWNER] = "owner", [PRL_SECONDARY_SUSPENDED] = "suspended", [PRL_SECONDARY_TAKING] = "taking",
};

const char *prl_reason_name(uint8_t reason)
{
    return NAME_OF(reasons, reason);
}

const char *prl_primary_state_name(uint8_t state)
{
    return NAME_OF(primary_states, state);
}

const char *prl_secondary_state_name(uint8_t state)
{
    return NAME_OF(secondary_states, state);
}
