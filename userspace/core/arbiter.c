/* SPDX-License-Identifier: BSD-2-Clause */
#include "core/arbiter.h"

static bool is_there(const struct prl_arbiter *arbiter)
{
    return arbiter->config.answer_ns != 0;
}

bool prl_arbiter_rules(const struct prl_arbiter *arbiter)
{
    bool has_answer = arbiter->state == PRL_ARBITER_UNREACHED || arbiter->state == PRL_ARBITER_WON;

    return is_there(arbiter) && !(arbiter->config.leases && has_answer);
}

bool prl_arbiter_is_won(const struct prl_arbiter *arbiter)
{
    return arbiter->state == PRL_ARBITER_WON && !arbiter->config.leases;
}

bool prl_arbiter_ask(struct prl_arbiter *arbiter, uint64_t now_ns)
{
    bool waits = arbiter->state == PRL_ARBITER_ASKED || arbiter->state == PRL_ARBITER_UNREACHED;

    if (!is_there(arbiter) || arbiter->state == PRL_ARBITER_WON || arbiter->state == PRL_ARBITER_LOST)
        return false;
    if (waits && now_ns - arbiter->asked_ns < arbiter->config.answer_ns)
        return false;
    if (waits && arbiter->state == PRL_ARBITER_ASKED)
        arbiter->unreached++;
    arbiter->state = waits ? PRL_ARBITER_UNREACHED : PRL_ARBITER_ASKED;
    arbiter->asked_ns = now_ns;
    arbiter->asks++;
    return true;
}

bool prl_arbiter_answer(struct prl_arbiter *arbiter, uint32_t round, uint8_t state)
{
    if (!is_there(arbiter) || round != arbiter->round || state == arbiter->state ||
        arbiter->state == PRL_ARBITER_WON || arbiter->state == PRL_ARBITER_LOST)
        return false;
    if (state == PRL_ARBITER_UNREACHED && arbiter->state != PRL_ARBITER_ASKED)
        return false;
    if (state == PRL_ARBITER_UNREACHED)
        arbiter->unreached++;
    arbiter->state = state;
    return true;
}

void prl_arbiter_link_up(struct prl_arbiter *arbiter)
{
    arbiter->round++;
    if (arbiter->state != PRL_ARBITER_WON)
        prl_arbiter_together(arbiter);
}

void prl_arbiter_together(struct prl_arbiter *arbiter)
{
    arbiter->in_doubt = 0;
    arbiter->state = PRL_ARBITER_TOGETHER;
}

void prl_arbiter_renounced(struct prl_arbiter *arbiter)
{
    arbiter->in_doubt = 1;
}

void prl_arbiter_hello(struct prl_arbiter *arbiter)
{
    if (arbiter->state == PRL_ARBITER_WON && arbiter->in_doubt)
        arbiter->state = PRL_ARBITER_TOGETHER;
}

bool prl_arbiter_seize(struct prl_arbiter *arbiter, bool by_word)
{
    if (!is_there(arbiter))
        return false;
    arbiter->state = PRL_ARBITER_WON;
    arbiter->seizes = by_word ? PRL_SEIZES_BY_WORD : PRL_SEIZES_FENCED;
    arbiter->in_doubt = by_word;
    return true;
}
