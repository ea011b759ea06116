/* SPDX-License-Identifier: BSD-2-Clause */
#include "names.h"

#include <stddef.h>

#include "core/primary.h"
#include "core/secondary.h"
#include "wire.h"

#define NAME_OF(names, number) \
    ((number) < sizeof(names) / sizeof((names)[0]) && (names)[number] ? (names)[number] : "unknown")

static const char *const reasons[PRL_REASON_COUNT] = {
    [PRL_REASON_OK] = "ok",
    [PRL_REASON_NO_SPACE] = "no space",
    [PRL_REASON_INVALID_HANDLE] = "invalid handle",
    [PRL_REASON_NOT_ACTIVE] = "not active",
    [PRL_REASON_TIMEOUT] = "timeout",
    [PRL_REASON_LINK_LOST] = "link lost",
    [PRL_REASON_NO_APPLICATION] = "no application",
    [PRL_REASON_APPLICATION_GONE] = "application gone",
    [PRL_REASON_RESTORE_FAILED] = "restore failed",
    [PRL_REASON_DIVERGED] = "diverged",
    [PRL_REASON_REQUESTED] = "requested",
    [PRL_REASON_ENDED] = "ended",
    [PRL_REASON_NO_MEMORY] = "no memory",
    [PRL_REASON_MALFORMED] = "malformed",
    [PRL_REASON_OUTPUT_DIFFERS] = "output differs",
    [PRL_REASON_MID_STREAM] = "mid stream",
    [PRL_REASON_NOT_OWNER] = "not owner",
    [PRL_REASON_UNPROTECTED] = "unprotected",
    [PRL_REASON_BUSY] = "busy",
    [PRL_REASON_LEASE_OVER] = "lease over",
    [PRL_REASON_NO_LAN] = "no lan",
    [PRL_REASON_NOT_HELD] = "not held",
    [PRL_REASON_STRAY_IN] = "stray in",
    [PRL_REASON_STRAY_OUT] = "stray out",
};

static const char *const primary_states[] = {
    [PRL_PRIMARY_GONE] = "gone",       [PRL_PRIMARY_SETUP] = "setup", [PRL_PRIMARY_ACTIVE] = "active",
    [PRL_PRIMARY_VOIDING] = "voiding", [PRL_PRIMARY_OPEN] = "open",   [PRL_PRIMARY_MOVED] = "moved",
};

static const char *const secondary_states[] = {
    [PRL_SECONDARY_GONE] = "gone",
    [PRL_SECONDARY_ACTIVE] = "active",
    [PRL_SECONDARY_VOID] = "void",
    [PRL_SECONDARY_OWNER] = "owner",
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
