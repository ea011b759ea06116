/* SPDX-License-Identifier: BSD-2-Clause */
#include "core/switchover.h"

#include "wire/wire.h"

static uint32_t tell(struct prl_move *move, uint8_t outcome, uint8_t reason)
{
    move->outcome = outcome;
    move->reason = reason;
    move->done += outcome == PRL_MOVE_DONE;
    move->undone += outcome == PRL_MOVE_UNDONE;
    move->doubts += outcome == PRL_MOVE_UNSURE;
    move->resumed += outcome == PRL_MOVE_RESUMED;
    return PRL_MOVE_DO_TELL;
}

bool prl_move_is_given(const struct prl_move *move)
{
    return move->state == PRL_MOVE_SILENT || move->state == PRL_MOVE_DOUBT;
}

uint32_t prl_move_request(struct prl_move *move, const struct prl_move_config *config, bool is_owner,
                          uint8_t flags, uint64_t now_ns, uint8_t *reason)
{
    *reason = move->state == PRL_MOVE_IDLE ? PRL_REASON_OK : PRL_REASON_BUSY;
    if (*reason != PRL_REASON_OK)
        return 0;
    move->flags = flags;
    move->asked_ns = now_ns;
    if (!is_owner) { /* twice the time: the owner's word that it gave up must come first */
        move->state = PRL_MOVE_ASKED;
        move->deadline_ns = now_ns + 2 * config->drain_ns;
        return PRL_MOVE_DO_REQUEST;
    }
    move->state = PRL_MOVE_ASKING;
    move->deadline_ns = now_ns + config->drain_ns;
    move->number++;
    return PRL_MOVE_DO_PREPARE;
}

static uint32_t silence(struct prl_move *move, uint64_t now_ns)
{
    move->state = PRL_MOVE_SILENT;
    move->claimed = 0;
    move->silent_ns = now_ns;
    return PRL_MOVE_DO_COMMIT;
}

uint32_t prl_move_give(struct prl_move *move, uint64_t now_ns, uint8_t *reason)
{
    *reason = PRL_REASON_BUSY;
    if (move->state != PRL_MOVE_IDLE && move->state != PRL_MOVE_ASKING && move->state != PRL_MOVE_DRAINING)
        return 0;
    *reason = PRL_REASON_OK;
    if (move->state == PRL_MOVE_IDLE) {
        move->number++;
        move->asked_ns = now_ns;
    }
    move->flags = PRL_MOVE_FORCED;
    move->flows = 0;
    return silence(move, now_ns);
}

uint32_t prl_move_fail(struct prl_move *move, uint8_t reason)
{
    uint8_t state = move->state;

    if (state != PRL_MOVE_ASKED && state != PRL_MOVE_ASKING && state != PRL_MOVE_DRAINING)
        return 0;
    move->state = PRL_MOVE_IDLE;
    return tell(move, PRL_MOVE_UNDONE, reason) | (state == PRL_MOVE_ASKED ? 0 : PRL_MOVE_DO_RELEASE);
}

uint32_t prl_move_prepared(struct prl_move *move, uint32_t number, uint32_t shadows, uint32_t flows)
{
    if (move->state != PRL_MOVE_ASKING || number != move->number)
        return 0;
    if (shadows < flows)
        return prl_move_fail(move, PRL_REASON_UNPROTECTED);
    move->state = PRL_MOVE_DRAINING;
    move->flows = flows;
    return PRL_MOVE_DO_HOLD;
}

uint32_t prl_move_drained(struct prl_move *move, uint64_t now_ns)
{
    return move->state == PRL_MOVE_DRAINING ? silence(move, now_ns) : 0;
}

uint32_t prl_move_refused(struct prl_move *move, uint32_t number, uint8_t reason)
{
    if (move->state != PRL_MOVE_ASKED && number != move->number)
        return 0;
    if (move->state != PRL_MOVE_SILENT)
        return prl_move_fail(move, reason);
    move->state = PRL_MOVE_IDLE;
    return tell(move, PRL_MOVE_UNDONE, reason) | PRL_MOVE_DO_RESUME;
}

static uint32_t relay(struct prl_move *move, const struct prl_move_config *config, uint64_t now_ns)
{
    if (!prl_move_is_given(move))
        return 0;
    move->state = PRL_MOVE_RELAYING;
    move->last_input_ns = now_ns;
    move->deadline_ns = now_ns + config->relay_ns;
    return tell(move, PRL_MOVE_DONE, PRL_REASON_OK) | PRL_MOVE_DO_TAKEN;
}

uint32_t prl_move_taken(struct prl_move *move, const struct prl_move_config *config, uint32_t number,
                        uint64_t now_ns)
{
    return number == move->number ? relay(move, config, now_ns) : 0;
}

uint32_t prl_move_claimed(struct prl_move *move, const struct prl_move_config *config, uint64_t now_ns)
{
    if (move->claimed)
        return 0;
    if (prl_move_is_given(move) || move->state == PRL_MOVE_RELAYING) {
        move->claimed = 1;
        move->last_input_ns = now_ns;
    }
    return relay(move, config, now_ns);
}

uint32_t prl_move_link_down(struct prl_move *move, uint64_t now_ns)
{
    if (move->state == PRL_MOVE_SILENT) {
        move->state = PRL_MOVE_DOUBT;
        move->probe_at_ns = now_ns;
        return tell(move, PRL_MOVE_UNSURE, PRL_REASON_LINK_LOST);
    }
    if (move->state == PRL_MOVE_TAKING)
        return prl_move_relay_end(move);
    return prl_move_fail(move, PRL_REASON_LINK_LOST);
}

uint32_t prl_move_resolve(struct prl_move *move, const struct prl_move_config *config, bool is_taken,
                          uint64_t now_ns)
{
    if (move->state != PRL_MOVE_DOUBT)
        return 0;
    if (is_taken)
        return relay(move, config, now_ns);
    move->state = PRL_MOVE_IDLE;
    return tell(move, PRL_MOVE_RESUMED, PRL_REASON_LINK_LOST) | PRL_MOVE_DO_RESUME;
}

uint32_t prl_move_take(struct prl_move *move, const struct prl_move_config *config, uint64_t now_ns)
{
    move->state = PRL_MOVE_TAKING;
    move->deadline_ns = now_ns + config->relay_ns;
    return tell(move, PRL_MOVE_DONE, PRL_REASON_OK);
}

uint32_t prl_move_relay_end(struct prl_move *move)
{
    if (move->state != PRL_MOVE_TAKING)
        return 0;
    move->state = PRL_MOVE_IDLE;
    return PRL_MOVE_DO_FEED;
}

uint32_t prl_move_tick(struct prl_move *move, const struct prl_move_config *config, uint64_t open_at_ns,
                       uint64_t now_ns)
{
    bool is_late = now_ns >= move->deadline_ns;

    switch (move->state) {
    case PRL_MOVE_ASKED:
    case PRL_MOVE_ASKING:
    case PRL_MOVE_DRAINING:
        return is_late ? prl_move_fail(move, PRL_REASON_TIMEOUT) : 0;
    case PRL_MOVE_DOUBT:
        if (open_at_ns == UINT64_MAX || now_ns < open_at_ns || now_ns < move->probe_at_ns)
            return 0;
        move->probe_at_ns = now_ns + config->probe_ns;
        return PRL_MOVE_DO_PROBE;
    case PRL_MOVE_RELAYING:
        if (!is_late && !(move->claimed && now_ns >= move->last_input_ns + config->quiet_ns))
            return 0;
        move->state = PRL_MOVE_IDLE;
        return PRL_MOVE_DO_END;
    case PRL_MOVE_TAKING:
        if (!is_late)
            return 0;
        move->relay_late++;
        return prl_move_relay_end(move);
    default:
        return 0;
    }
}
