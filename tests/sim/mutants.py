"""Copies of the datapath with one deliberate mistake each: what the simulator must see."""

import os
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from types import ModuleType

import pytest

from tests import results
from tests.sim import build
from tests.sim.core import Core

ROOT = build.ROOT
HUNT_S = 300
QUICK = ("-O1", "-g0")
"""How the one file with the mistake is compiled."""
"""How long one may be hunted: where the machine has nothing else to do, ten seconds are enough."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """``old`` stands exactly once in ``file`` and is replaced by ``new``."""

    name: str
    file: str
    old: str
    new: str
    faults: tuple[str, ...] = ()
    """The kinds that bring the mistake out soon; none: all."""
    test: str = ""
    """A test that must fail, where the moment is too rare for seeds: of the state machines (in
    tests/unit), or a situation (sim/…)."""


MUTANTS = (
    # -- the state machines; then, what does what they ask for
    Mutant(
        "the primary opens before the secondary's lease has ended",
        "core/ownership.c",
        "echo_ns ? echo_ns + owner->config.hold_ns : 0;",
        "echo_ns ? echo_ns + owner->config.suspect_ns : 0;",
    ),
    Mutant(
        "a failed flow opens at once, without VOID",
        "core/primary.c",
        "    if (flow->state == PRL_PRIMARY_SETUP || (",
        "    if (flow->state == PRL_PRIMARY_SETUP || flow->state == PRL_PRIMARY_ACTIVE || (",
    ),
    Mutant(
        "a NACK releases the packet that was refused",
        "core/primary.c",
        "take_acked(&queues->in_held, is_nack ? seq - 1 : seq,",
        "take_acked(&queues->in_held, seq,",
    ),
    Mutant(
        "a shadow is taken over that was never confirmed",
        "core/secondary.c",
        "if (flow->state == PRL_SECONDARY_ACTIVE && flow->confirmed) {",
        "if (flow->state == PRL_SECONDARY_ACTIVE) {",
    ),
    Mutant(
        "the secondary's lease is twice as long",
        "core/ownership.c",
        "uint64_t until_ns = owner->lease_own_ns + owner->config.takeover_ns;",
        "uint64_t until_ns = owner->lease_own_ns + 2 * owner->config.takeover_ns;",
    ),
    Mutant(
        "a cumulative ACK releases one packet more",
        "core/primary.c",
        "take_acked(&queues->in_held, is_nack ? seq - 1 : seq,",
        "take_acked(&queues->in_held, is_nack ? seq - 1 : seq + 1,",
    ),
    Mutant(
        "a service that was renounced is taken back",
        "core/ownership.c",
        "        owner->given_mask |= 1u << service;",
        "        owner->given_mask |= 0u << service;",
        ("renounce", "slow reader"),
    ),
    Mutant(
        "a take-over that was decided in time may speak at any time",
        "core/ownership.c",
        "owner->first_by_ns = first_by_ns == UINT64_MAX ? 0 : first_by_ns;",
        "owner->first_by_ns = first_by_ns == UINT64_MAX ? 0 : 0;",
        ("stall at the decision",),
    ),
    Mutant(
        "an owner that has lost link and LAN is not silent",
        "core/ownership.c",
        "    if (owner->silence != PRL_SILENCE_NOT || mask == 0)",
        "    if (owner->silence != PRL_SILENCE_NOT || mask == 0 || why == PRL_SILENCE_NO_LAN)",
        ("both cut", "link cut and LAN of one deaf", "LAN silent"),
    ),
    Mutant(
        "an owner that may be replaced trusts in its LAN for longer",
        "core/ownership.c",
        "    return echoed_ns + owner->config.suspect_ns;",
        "    return echoed_ns + owner->config.hold_ns;",
        ("link cut and LAN of one deaf",),
    ),
    Mutant(
        "an owner whose kernel is heard trusts in its LAN as long as another one",
        "core/ownership.c",
        "    return later(echoed_ns, owner->probes.confirmed_ns) + owner->config.dead_ns;",
        "    return later(echoed_ns, owner->probes.confirmed_ns) + owner->config.hold_ns;",
        ("both cut", "link cut and LAN of one deaf"),
    ),
    Mutant(
        "an owner that was stopped trusts in its LAN for longer from then on",
        "core/ownership.c",
        "    if (owner->unsure_ns)\n        owner->unsure_ns = now_ns;",
        "    if (owner->unsure_ns)\n        owner->unsure_ns = now_ns + owner->config.hold_ns;",
        test="sim/test_situations.py::test_a_deaf_owner_that_was_stopped_notices_that_it_is_deaf",
    ),
    Mutant(
        "a silent owner that was stopped trusts what was said before",
        "core/ownership.c",
        "        owner->silent_ns = now_ns; /* of one that was silent before as well",
        "        /* of one that was silent before as well",
        test="test_core_ownership.py::"
        "test_one_that_was_silent_before_waits_for_an_echo_of_after_that_as_well",
    ),
    Mutant(
        "an owner that was late is sure of itself, whatever its kernel was asked",
        "core/ownership.c",
        "now_ns < prl_owner_replaceable_ns(owner) &&\n"
        "           !is_silent(owner->last_tick_ns, now_ns, owner->config.hung_ns)",
        "now_ns < UINT64_MAX",
        test="test_core_answers.py::test_an_owner_that_was_late_is_sure_of_itself_if_its_kernel_was_heard",
    ),
    Mutant(
        "what its kernel has answered does not keep an owner's flows closed",
        "core/ownership.c",
        "uint64_t echo_ns = later(owner->last_echo_sent_ns, owner->probes.renewed_ns);",
        "uint64_t echo_ns = owner->last_echo_sent_ns;",
        test="test_core_answers.py::test_what_the_own_kernel_answered_puts_opening_off",
    ),
    Mutant(
        "a lease that a kernel has renewed is forgotten in a new epoch",
        "core/ownership.c",
        "    owner->probes.renewed_ns = renewed_ns;\n}",
        "    (void)renewed_ns;\n}",
        test="test_core_answers.py::test_what_the_own_kernel_answered_puts_opening_off",
    ),
    Mutant(
        "a kernel renews the lease of what was opened",
        "core/ownership.c",
        "    return owner->link == PRL_LINK_UP && is_primary(owner) && owner->flows_failed == 0;",
        "    return is_primary(owner);",
        test="test_core_answers.py::test_answers_renew_only_while_the_link_is_up_and_nothing_opens",
    ),
    Mutant(
        "an answer renews a lease that is over",
        "core/ownership.c",
        "answer->leases && has_shadows(owner) && now_ns < prl_owner_takeover_until_ns(owner))",
        "answer->leases && has_shadows(owner))",
        test="test_core_answers.py::test_an_answer_renews_no_lease_that_is_over",
    ),
    Mutant(
        "a kernel that does not know that it is heard is dead as soon",
        "core/ownership.c",
        "    if (!probes->mutual || !is_silent(newest_ns,",
        "    if (!newest_ns || !is_silent(newest_ns,",
        test="test_core_answers.py::test_without_the_other_node_s_knowledge_its_kernel_may_be_silent_as_long_as_it_may",
    ),
    Mutant(
        "a standby that was cut off takes its owner for dead",
        "core/ownership.c",
        "    return !is_dead(owner, now_ns) || owner->last_frame_ns > word_ns;",
        "    (void)word_ns;\n    return true;",
        test="test_core_answers.py::test_who_is_cut_off_takes_nobody_for_dead",
    ),
    Mutant(
        "a datapath that hangs is spared for as long as its kernel answers",
        "core/ownership.c",
        "        return age_ns < owner->config.hung_ns;",
        "        return true;",
        test="test_core_answers.py::test_a_late_datapath_is_spared_and_its_lease_renewed",
    ),
    Mutant(
        "a lease is judged by our own clock alone",
        "core/ownership.c",
        "    owner->echo_at_ns = sent_ns;",
        "    owner->echo_at_ns = UINT64_MAX / 2;",
        ("owner dies unseen",),
    ),
    Mutant(
        "an owner may speak without the arbiter for as long as it likes",
        "core/ownership.c",
        "    return owner->word_ns + owner->config.suspect_ns;",
        "    return owner->word_ns + 100 * owner->config.suspect_ns;",
        ("parted",),
    ),
    Mutant(
        "a standby that has won takes over as soon as the owner's kernel is silent",
        "core/ownership.c",
        "    if (ends_by_time(owner) && !is_silent(",
        "    if (false && !is_silent(",
        ("parted",),
    ),
    Mutant(
        "a standby takes over before it has won",
        "core/ownership.c",
        "    if (prl_arbiter_rules(&owner->arbiter) && !prl_arbiter_is_won(&owner->arbiter)) {",
        "    if (false) {",
        ("parted",),
    ),
    Mutant(
        "the kernel does not know until when it may speak",
        "node/ownership.c",
        "prl_owner_speak_by_ns(&dp->owner), __ATOMIC_RELEASE);",
        "0 * prl_owner_speak_by_ns(&dp->owner), __ATOMIC_RELEASE);",
        ("parted", "pause", "prld killed"),
    ),
    Mutant(
        "the kernel does not know until when a witness was heard",
        "core/ownership.c",
        "    if (!owner->config.witnessed || !replaceable_ns)",
        "    if (true)",
        ("parted", "pause", "prld killed"),
    ),
    Mutant(
        "the kernel is not told that the owner is silent",
        "node/ownership.c",
        "__atomic_store_n(&dp->node->silent, dp->owner.silent_mask, __ATOMIC_RELEASE);",
        "__atomic_store_n(&dp->node->silent, 0, __ATOMIC_RELEASE);",
        ("both cut",),
    ),
    Mutant(
        "flows that the kernel opened go on as though nothing had passed",
        "node/ownership.c",
        "    dp_primary_fail_all(dp, PRL_REASON_TIMEOUT);\n    dp_primary_open_all(dp);\n",
        "",
        ("pause", "both paused"),
    ),
    Mutant(
        "what is taken over is not claimed",
        "node/ownership.c",
        "    dp_claims_taken_over(dp, mask);\n",
        "",
    ),
    Mutant(
        "who has taken over claims without a MAC",
        "node/announce.c",
        "    if (kept || dp->owner.taken_mask",
        "    if (false && dp->owner.taken_mask",
    ),
    Mutant(
        "the claims' key of a new epoch does not reach the kernel",
        "node/claim.c",
        "    tell_kernel(dp, &others);\n",
        "    (void)tell_kernel;\n",
    ),
    Mutant(
        "a take-over is of the term before",
        "node/ownership.c",
        "            dp_term_raise(dp, service, dp->node->terms[service] + 1);\n        if (mask",
        "            dp_term_raise(dp, service, dp->node->terms[service]);\n        if (mask",
    ),
    Mutant(
        "a take-over leaves the shadows as they are",
        "node/ownership.c",
        "    dp_takeover_decide(dp, mask);\n",
        "",
    ),
    Mutant(
        "a take-over may speak beyond the lease, as far as tc knows",
        "node/service.c",
        "            value.first_by_ns = first_by_ns;",
        "            value.first_by_ns = 0;\n            (void)first_by_ns;",
        ("stall at the decision",),
    ),
    Mutant(
        "a service that is given away is not silent",
        "node/service.c",
        "    return set_entries(dp, service, PRL_ADDR_LEAVING, 0);",
        "    (void)dp;\n    (void)service;\n    return 0;",
        ("switchover", "renounce"),
    ),
    Mutant(
        "flows of a fenced service live on",
        "node/service.c",
        "    dp_service_set(dp, service, PRL_OWNER_FENCED);\n"
        "    dp_primary_fence_service(dp, service);",
        "    dp_service_set(dp, service, PRL_OWNER_OWNER);",
        ("pause",),
    ),
    Mutant(
        "a service that neither node owns is left to itself",
        "core/ownership.c",
        "    *since_ns = 0;\n    return drop_link(owner);",
        "    return 0;",
        test="sim/test_situations.py::test_nodes_of_which_neither_owns_a_service_agree_anew",
    ),
    Mutant(
        "heartbeats do not tell that nobody owns a service",
        "node/ownership.c",
        "heard.tells && !dp->owner.probes.at_ns && ",
        "!heard.tells && ",
        test="sim/test_situations.py::test_nodes_of_which_neither_owns_a_service_agree_anew",
    ),
    Mutant(
        "what is fenced by mistake loses its shadows, too",
        "core/ownership.c",
        "    if (word->fenced && takeable(owner) & mask",
        "    if (0 && takeable(owner) & mask",
        test="sim/test_situations.py"
        "::test_what_was_fenced_by_mistake_is_taken_over_by_who_has_the_shadows",
    ),
    Mutant(
        "a service on the move counts as nobody's",
        "core/ownership.c",
        "word->owned || word->moves || ",
        "word->owned || ",
        test="test_core_ownership.py::test_while_a_service_moves_nobody_owns_it_for_a_moment",
    ),
    Mutant(
        "nothing opens when the lease has ended",
        "node/ownership.c",
        "    if (todo & PRL_OWNER_DO_OPEN_FLOWS)\n        dp_resync_alone(dp);",
        "",
        ("power off",),
    ),
    Mutant(
        "who has taken over and has shadows again does not fall silent",
        "node/enter.c",
        "    prl_owner_has_shadow(&dp->owner, flow->service);\n",
        "",
        ("switchover", "link cut and LAN of one deaf"),
    ),
    Mutant(
        "COMMIT is said before all is drained",
        "node/switchover.c",
        "dp_primary_of(flow)->state == PRL_PRIMARY_ACTIVE &&\n"
        "            !prl_primary_is_drained(dp_primary_of(flow)))",
        "dp_primary_of(flow)->state == PRL_PRIMARY_GONE)",
        ("switchover",),
    ),
    Mutant(
        "a service that was given away may be taken over again",
        "node/move.c",
        "    prl_owner_give(&dp->owner, service); /* not taken back",
        "    (void)service; /* not taken back",
        ("renounce", "switchover"),
    ),
    Mutant(
        "doubt ends before the other node's lease",
        "api/services.c",
        "        (dp->now_ns < prl_owner_open_at_ns(&dp->owner) || ",
        "        (",
        ("switchover", "renounce"),
    ),
    Mutant(
        "the flows of a service that is not taken stay moved",
        "node/move.c",
        "        every_primary(dp, service, resume);",
        "        (void)resume;",
        ("switchover", "renounce"),
    ),
    Mutant(
        "the old owner is owner again when it has relayed all",
        "node/move.c",
        "    dp_service_set(dp, service, PRL_OWNER_STANDBY);\n",
        "    dp_service_set(dp, service, PRL_OWNER_OWNER);\n",
        ("switchover",),
    ),
    Mutant(
        "output is acknowledged whatever the shadow has sent",
        "path/shadow.c",
        "prl_secondary_take_output_ack(dp_secondary_of(flow), push_out(dp, flow),",
        "prl_secondary_take_output_ack(dp_secondary_of(flow), 0 * push_out(dp, flow),",
    ),
    Mutant(
        "input is accepted and not fed",
        "path/secondary.c",
        "    feed(dp, flow, arrival);\n",
        "    (void)feed;\n",
    ),
    Mutant(
        "VOID is acknowledged, and the shadow is not void",
        "path/secondary.c",
        "            dp_shadow_void(dp, flow, msg->reason);\n        dp_send(dp, &answer);",
        "            (void)flow;\n        dp_send(dp, &answer);",
    ),
    Mutant(
        "a shadow that was taken over stays silent",
        "path/takeover.c",
        "    dp_flow_set_flags(flow);\n    dp_mirror_forget(dp, flow);",
        "    dp_mirror_forget(dp, flow);",
    ),
    Mutant(
        "what a NACK refused counts as accepted",
        "path/primary.c",
        "prl_primary_ack(dp_primary_of(flow), msg->seq, msg->reason,",
        "prl_primary_ack(dp_primary_of(flow), msg->seq, 0 * msg->reason,",
    ),
    Mutant(
        "the space of the other side does not reach the kernel",
        "path/window.c",
        "    __atomic_store_n(&flow->kernel->edge_limit, primary->peer_edge, __ATOMIC_RELEASE);",
        "    (void)flow;",
    ),
    Mutant(
        "a window is told with a sequence number from before the last output",
        "path/window.c",
        "    dp_flow_sample(dp, flow);\n",
        "",
        test="sim/test_situations.py"
        "::test_a_peer_that_has_acknowledged_all_output_takes_what_it_is_told_of_room",
    ),
    Mutant(
        "a window of less than two segments waits until it grew by two",
        "path/window.c",
        "    return share && share < segments ? share : segments;",
        "    return segments;",
        test="sim/test_situations.py::test_a_window_smaller_than_two_segments_is_opened_again",
    ),
    Mutant(
        "a window that was lowered while room was told stays so",
        "path/timers.c",
        "        dp_window_look(dp, flow);",
        "        (void)flow;",
        test="sim/test_situations.py"
        "::test_a_window_that_was_lowered_while_room_was_told_is_opened_again",
    ),
    Mutant(
        "a tick acknowledges what was fed in the same turn",
        "path/secondary.c",
        "what is kept. */\n    dp_verify_flush(dp);\n",
        "what is kept. */\n",
        test="sim/test_situations.py"
        "::test_a_tick_acknowledges_nothing_that_was_fed_in_the_same_turn",
    ),
    Mutant(
        "an active flow's packets pass",
        "flow/flow.c",
        "            flags = PRL_FLOW_SETUP | PRL_FLOW_ACTIVE;",
        "            flags = PRL_FLOW_OPEN;",
    ),
    Mutant(
        "output that the hold TAP has lost is never held again",
        "path/timers.c",
        "        kernel->out_held = kernel->out_committed;",
        "        (void)kernel;",
    ),
    Mutant(
        "a lost link is not ownership's affair",
        "node/ownership.c",
        "        dp_owner_do(dp, prl_owner_link_down(&dp->owner, dp->now_ns));",
        "        (void)was_up;",
    ),
    Mutant(
        "a move does not hear that the link is lost",
        "node/ownership.c",
        "        dp_move_link_down(dp);",
        "        (void)was_up;",
        ("switchover",),
    ),
    Mutant(
        "the datapath's heartbeat stands",
        "loop/loop.c",
        "    dp->node->heartbeat_ns = dp->now_ns;\n",
        "",
    ),
    Mutant(
        "what the shadow's kernel dropped is not kept",
        "path/verify.c",
        "            (verify->fed[i].data ? keep : keep_bare)(dp, flow, &verify->fed[i]);",
        "            verify->fed[i].data ? (void)keep : keep_bare(dp, flow, &verify->fed[i]);",
        ("kernel drops",),
    ),
    Mutant(
        "what the shadow's kernel dropped is never fed again",
        "path/verify.c",
        "            feed_kept(dp, flow, hold);",
        "            (void)feed_kept;",
        ("kernel drops",),
    ),
    # -- going on after a flap of the link (L10)
    Mutant(
        "a suspended shadow may be taken over",
        "core/secondary.c",
        "if (flow->state == PRL_SECONDARY_ACTIVE && flow->confirmed) {",
        "if (flow->state != PRL_SECONDARY_VOID && flow->confirmed) {",
        test="test_core_resync.py::test_a_suspended_shadow_never_speaks",
    ),
    Mutant(
        "a shadow that is suspended takes what comes",
        "core/secondary.c",
        "    flow->state = PRL_SECONDARY_SUSPENDED;",
        "    (void)flow;",
        ("flap",),
    ),
    Mutant(
        "a flow stays alone although a packet has passed",
        "core/primary.c",
        "        if (flow->state == PRL_PRIMARY_ALONE) /* L10",
        "        if (false) /* L10",
        ("flap",),
    ),
    Mutant(
        "a flow is alone although something waited that its shadow does not have",
        "core/primary.c",
        "flow->resume != PRL_RESUME_NOT && prl_primary_is_quiet(flow)) {",
        "flow->resume != PRL_RESUME_NOT) {",
        test="test_core_resync.py::test_what_waits_while_the_link_is_away_is_no_quiet_flow_s",
    ),
    Mutant(
        "a flow goes on whatever its shadow lacks",
        "core/primary.c",
        "    return prl_serial_lt(acked, number) && prl_serial_le(number, next);",
        "    return acked || number || next;",
        test="test_core_resync.py::"
        "test_a_secondary_that_lacks_what_has_passed_or_has_what_was_never_sent",
    ),
    Mutant(
        "a refusal that was lost with the link is nothing",
        "core/primary.c",
        "!position->has_refused || prl_serial_le(",
        "true || prl_serial_le(",
        test="test_core_resync.py::test_a_refusal_that_was_lost_with_the_link_ends_it",
    ),
    Mutant(
        "what the shadow lacks is not sent again",
        "core/primary.c",
        "        send_again(&queues->in_held, &queues->in_pending, position->in_next, now_ns);",
        "",
        ("connection reset", "flap"),
    ),
    Mutant(
        "VOID is said before the secondary has said what it has",
        "core/primary.c",
        "    if (link_up && flow->resume != PRL_RESUME_AWAITED)",
        "    if (link_up)",
        test="test_core_resync.py::test_a_flow_waits_for_the_secondary_s_word_before_it_says_void",
    ),
    Mutant(
        "who has said VOID in this epoch goes on all the same",
        "core/primary.c",
        "    if (flow->resume != PRL_RESUME_AWAITED)\n        return false;",
        "",
        test="test_core_resync.py::test_who_has_said_void_in_this_epoch_does_not_go_on",
    ),
    Mutant(
        "a failure that is not the link's is forgotten while the link is away",
        "core/primary.c",
        "    } else if (flow->state == PRL_PRIMARY_VOIDING && !is_link) {",
        "    } else if (false) {",
        test="test_core_resync.py::test_another_failure_meanwhile_ends_it",
    ),
    Mutant(
        "what is not here any more is to be sent again",
        "node/resync.c",
        "    if (!has_all_from(core, msg->seq))",
        "    if (false && has_all_from(core, msg->seq))",
        ("connection reset", "flap"),
    ),
    Mutant(
        "the standby never says that it has said all",
        "node/resync.c",
        "    dp->resync->says = false;\n    dp_send(dp, &msg);",
        "    dp->resync->says = false;\n    (void)msg;",
        ("connection reset", "flap"),
    ),
    Mutant(
        "the shadow's output begins one byte too late",
        "node/setup.c",
        "        spec.committed = moment.snd_seq;",
        "        spec.committed = moment.snd_seq + 1;",
    ),
    # -- sessions that wait to be protected (docs/sessions.md)
    Mutant(
        "a session that is only prepared waits no more",
        "node/enter.c",
        "        prl_primary_enter(dp_primary_of(flow), spec->handle, spec->generation);\n",
        "        prl_primary_enter(dp_primary_of(flow), spec->handle, spec->generation);\n"
        "        dp_birth_end(dp, flow);\n",
    ),
    Mutant(
        "a session whose set-up has begun goes on waiting",
        "node/enter.c",
        "    dp_birth_end(dp, flow); /* only now that its input is captured */\n",
        "",
        test="sim/test_situations.py::test_so_is_that_of_a_session_whose_set_up_has_failed",
    ),
    Mutant(
        "the peer is not told that its session is protected",
        "node/enter.c",
        "    dp_birth_say(dp, flow);\n",
        "",
        test="sim/test_situations.py"
        "::test_the_peer_of_a_session_that_waited_is_told_of_room_once_it_is_protected",
    ),
    Mutant(
        "the peer is not told that its session is not protected",
        "path/apply.c",
        "                dp_birth_say(dp, flow);\n",
        "                (void)dp;\n",
        test="sim/test_situations.py::test_so_is_that_of_a_session_whose_set_up_has_failed",
    ),
    Mutant(
        "a session that was refused before its set-up goes on waiting",
        "api/flows.c",
        "            dp_birth_end(dp, flow);\n",
        "",
        test="sim/test_situations.py::test_so_is_that_of_a_session_that_was_refused_before",
    ),
    Mutant(
        "the peer is told but once that there is room",
        "path/birth.c",
        "    if (--flow->tellings == 0)\n",
        "    flow->tellings = 0;\n    if (flow->used)\n",
        test="sim/test_situations.py::test_what_the_peer_is_told_of_room_may_be_lost",
    ),
    Mutant(
        "the peer is told that there is room for as long as the session lives",
        "path/birth.c",
        "    if (--flow->tellings == 0)\n",
        "    if (!flow->used)\n",
        test="sim/test_situations.py::test_what_the_peer_is_told_of_room_may_be_lost",
    ),
    Mutant(
        "a peer that has been heard is told again that there is room",
        "path/birth.c",
        " || was_heard(flow)",
        "",
        test="sim/test_situations.py"
        "::test_a_peer_that_has_been_heard_since_is_not_told_of_room_again",
    ),
    # -- packets that wait in the kernel (docs/carriers.md)
    Mutant(
        "a packet whose entry ends waits in the kernel for ever",
        "flow/held.c",
        "    if (*queued)\n        dp->io->settle(dp->host, *queued, false);\n",
        "",
    ),
    Mutant(
        "a packet that is not even held waits in the kernel for ever",
        "path/input.c",
        "    if (received->queued)\n        dp->io->settle(dp->host, received->queued, false);\n",
        "",
    ),
    Mutant(
        "a packet that goes on is dropped as well",
        "flow/held.c",
        "    *queued = 0;\n    dp_hold_free(dp, hold);\n    return true;",
        "    dp_hold_free(dp, hold);\n    return true;",
    ),
    Mutant(
        "the copy of a packet goes although it may have to be sent again",
        "flow/held.c",
        "    if (!held->queued[entry] || dp->config.limits.nack_retry ||",
        "    if (!held->queued[entry] ||",
    ),
    Mutant(
        "verdicts stay where they are gathered",
        "path/reinject.c",
        "    prl_gro_flush(&dp->reinject->gro);\n    dp->io->settle_all(dp->host);\n",
        "    prl_gro_flush(&dp->reinject->gro);\n",
    ),
    # -- packets whose payload goes by the cable (docs/mirror.md)
    Mutant(
        "what went by the cable is acknowledged before the socket has it",
        "path/shadow.c",
        "    if (!dp_shadow_of(flow)->unseen &&\n        prl_secondary_take_ack(",
        "    if (prl_secondary_take_ack(",
        faults=("kernel drops", "power off", "pause"),
    ),
    Mutant(
        "what the socket lacks is acknowledged with what came before it",
        "path/verify.c",
        "        .seq = seq - 1,\n        .space",
        "        .seq = seq,\n        .space",
        faults=("kernel drops", "power off", "pause"),
    ),
    Mutant(
        "what is kept counts as a hole of the peer's",
        "path/verify.c",
        "                reach = prl_serial_max(reach, hold->tcp_end);\n",
        "                continue;\n",
        test="sim/test_situations.py"
        "::test_what_the_socket_lacks_behind_what_is_kept_is_not_acknowledged",
    ),
    Mutant(
        "what is kept the wrong way round counts as a hole of the peer's",
        "path/verify.c",
        "    return reach == before ? lacking : first;",
        "    return lacking;",
        test="sim/test_situations.py"
        "::test_what_the_socket_lacks_behind_what_is_kept_is_not_acknowledged",
    ),
    Mutant(
        "a refusal does not wait for the socket to have what was before it",
        "path/secondary.c",
        "        if (lost ? dp_shadow_of(flow)->unseen : must_wait(dp, flow, &arrival))",
        "        if (!lost && must_wait(dp, flow, &arrival))",
        faults=("kernel drops",),
    ),
    Mutant(
        "a message is worked on although a frame of its packet is missing",
        "path/mirror.c",
        "    return tcp_seq == tcp_end;\n}",
        "    return true;\n}",
        test="sim/test_situations.py::test_a_packet_is_fed_when_all_of_its_frames_are_here",
    ),
    Mutant(
        "frames of another packet are fed in place of those that a message names",
        "path/mirror.c",
        "        if (hold->tcp_seq != tcp_seq)\n            return false;\n",
        "",
        test="sim/test_situations.py::test_a_packet_is_fed_when_all_of_its_frames_are_here",
    ),
    Mutant(
        "what comes behind a message that waits for its frames overtakes it",
        "path/secondary.c",
        "        (dp_mirror_waiting(flow) || must_wait(dp, flow, &arrival)))",
        "        must_wait(dp, flow, &arrival))",
        test="sim/test_situations.py::test_what_comes_behind_a_packet_that_is_late_waits_for_it",
    ),
    Mutant(
        "a cable by which nothing arrives is used on",
        "path/mirror.c",
        "    if (++mirror->refused == DP_MIRROR_REFUSED_MAX)\n        turn_off(dp);\n",
        "    (void)turn_off;\n",
        test="sim/test_situations.py::test_a_cable_by_which_nothing_arrives_is_used_no_more",
    ),
    Mutant(
        "flows that mirror go on with it although the cable is used no more",
        "path/mirror.c",
        "~(uint32_t)PRL_FLOW_MIRRORS, __ATOMIC_RELEASE);",
        "~0u, __ATOMIC_RELEASE);",
        test="sim/test_situations.py::test_a_cable_by_which_nothing_arrives_is_used_no_more",
    ),
    Mutant(
        "each packet of a burst that the cable loses counts as a fault of its own",
        "path/mirror.c",
        "    if (!dp->mirrors || sent_ns < mirror->refused_ns)\n",
        "    if (!dp->mirrors)\n",
        test="sim/test_situations.py::test_a_cable_that_loses_some_is_used_on",
    ),
    Mutant(
        "what arrives by the cable does not show that it can be used",
        "path/mirror.c",
        "        dp->mirror->refused = 0;\n}",
        "        dp->mirror->refused += 0;\n}",
        test="sim/test_situations.py::test_a_cable_that_loses_some_is_used_on",
    ),
    Mutant(
        "a flow starves as long as another one's packets arrive",
        "path/mirror.c",
        "    if (flow->slot == dp->mirror->refused_slot)\n",
        "    (void)flow;\n",
        test="sim/test_situations.py"
        "::test_a_flow_that_starves_does_so_beside_others_whose_packets_arrive",
    ),
    Mutant(
        "a number on the cable is taken for the peer's MAC address",
        "path/input.c",
        "    if (!received->mirrored) /*",
        "    if (!received->is_cut) /*",
        test="sim/test_situations.py::test_what_the_cable_does_not_take_goes_by_the_link",
    ),
    Mutant(
        "a frame that no message has named is fed to who has taken over",
        "path/input.c",
        "    return !received->mirrored && (flow->relaying",
        "    return (flow->relaying",
        test="sim/test_situations.py::test_a_frame_that_is_read_after_the_take_over_is_nobody_s",
    ),
    Mutant(
        "the newest frames go in place of the oldest where entries are short",
        "path/mirror.c",
        "    if (mirror->newest - mirror->oldest >= DP_MIRROR_FRAMES)\n",
        "    if (false)\n",
        test="sim/test_situations.py::test_the_oldest_frames_go_first_where_entries_are_short",
    ),
    Mutant(
        "a former owner is woken by each frame",
        "path/mirror.c",
        "    dp->mirror->owns = dp->mirror->owns && prl_owner_owns_any(&dp->owner);",
        "",
        test="sim/test_situations.py"
        "::test_a_former_owner_is_not_woken_by_frames_that_the_link_tells_of",
    ),
    Mutant(
        "what is to wait for a move goes by the cable",
        "node/move.c",
        "    dp_mirror_end(flow);",
        "    ;",
        test="sim/test_situations.py::test_long_packets_wait_whole_while_a_move_drains_their_flow",
    ),
    Mutant(
        "what goes by the cable needs room on the link all the same",
        "path/input.c",
        "received->is_cut ? packet.data_offset : packet.l3_bytes",
        "packet.l3_bytes",
        test="sim/test_situations.py"
        "::test_what_goes_by_the_cable_needs_no_room_on_the_link_for_its_payload",
    ),
    Mutant(
        "what cannot be fed again is counted on when it has gone",
        "path/verify.c",
        "    dp_shadow_of(flow)->unfed->bare -= is_bare(hold);\n",
        "",
        test="sim/test_situations.py"
        "::test_what_the_socket_lacks_behind_what_is_kept_is_not_acknowledged",
    ),
    Mutant(
        "all flows' time goes faster while messages wait for their frames",
        "loop/loop.c",
        "        dp_secondary_advance_all(dp);\n",
        "        dp_secondary_advance_all(dp), dp_flows_tick(dp);\n",
        test="sim/test_situations.py"
        "::test_flows_have_their_time_while_messages_wait_for_their_frames",
    ),
    Mutant(
        "a packet that waits behind a late one is its first piece alone",
        "path/secondary.c",
        "    if (pieces > 1) {\n",
        "    if (false) {\n",
        test="sim/test_situations.py"
        "::test_a_long_packet_that_was_captured_whole_waits_behind_one_that_is_late",
    ),
    Mutant(
        "a packet without payload waits to be sent",
        "path/mirror.c",
        "        return dp->mirrors && !primary->held_back &&",
        "        return dp->mirrors &&",
        test="sim/test_situations.py"
        "::test_what_went_by_the_cable_just_before_its_flow_drains_is_dropped",
    ),
    Mutant(
        "what cannot be fed again is kept by the new owner",
        "path/verify.c",
        "    drop_bare(dp, flow);\n    if (!has_kept(flow))",
        "    dp_shadow_of(flow)->unseen = false;\n    (void)drop_bare;\n    if (!has_kept(flow))",
        test="sim/test_situations.py::test_a_new_owner_does_not_wait_for_what_cannot_be_fed_again",
    ),
    Mutant(
        "frames that no message names take all entries",
        "path/mirror.c",
        "pool->used <= DP_MIRROR_RESERVE)) {",
        "pool->used < 1)) {",
        test="sim/test_situations.py::test_frames_that_no_message_names_leave_entries_to_all_else",
    ),
    Mutant(
        "frames outlive the link that would have told of them",
        "path/mirror.c",
        "for (uint32_t i = 0; dp->mirror->taken && i < DP_MIRROR_FRAMES; i++)\n        if",
        "for (uint32_t i = 0; false && i < DP_MIRROR_FRAMES; i++)\n        if",
        test="sim/test_situations.py::test_frames_that_no_message_names_leave_entries_to_all_else",
    ),
    Mutant(
        "a standby never listens to frames again",
        "path/mirror.c",
        "    return dp->now_ns - mirror->named_ns >= DP_MIRROR_QUIET_NS;",
        "    return false;",
        test="sim/test_situations.py"
        "::test_frames_wake_nobody_while_the_link_tells_when_they_are_wanted",
    ),
    Mutant(
        "frames that no message names wait for ever",
        "path/mirror.c",
        "dp->now_ns - place->came_ns >= DP_MIRROR_FRAME_NS)",
        "false)",
        test="sim/test_situations.py::test_frames_that_no_message_names_are_dropped",
    ),
    # -- a take-over takes turns (F22)
    Mutant(
        "all sessions of a take-over go on in one pass",
        "path/takeover.c",
        "        if (dp_clock_ns(dp) >= end_ns)\n            return false;\n",
        "        (void)end_ns;\n",
        test="sim/test_situations.py::test_heartbeats_go_on_within_a_take_over",
    ),
    Mutant(
        "a share comes before the heartbeat",
        "loop/loop.c",
        "    dp_switchover_pass(dp);\n",
        "    dp_switchover_pass(dp);\n    dp_takeover_pass(dp);\n",
        test="sim/test_situations.py::test_the_link_is_not_silent_within_a_planned_move",
    ),
    Mutant(
        "a shadow that was taken over speaks before its turn",
        "path/takeover.c",
        "    if (!prl_secondary_takeover(core) && was_usable) {",
        "    if (prl_secondary_takeover(core))\n"
        "        __atomic_store_n(&flow->kernel->flags, PRL_FLOW_OPEN, __ATOMIC_RELEASE);\n"
        "    else if (was_usable) {",
        test="sim/test_situations.py::test_a_session_is_silent_until_its_turn_and_its_peer_is_not_refused",
    ),
    Mutant(
        "a HELLO that is said on a link that is up gives up what the shadows may do",
        "api/link.c",
        "    if (dp->link.fd < 0 || dp->link_up) {\n",
        "    if (dp->link.fd < 0) {\n",
        test="sim/test_situations.py::test_a_hello_that_nobody_waits_for_gives_nothing_up",
    ),
    Mutant(
        "a HELLO that nobody hears gives up what the shadows may do",
        "api/link.c",
        "    if (dp->link.fd < 0 || dp->link_up) {\n",
        "    if (dp->link_up) {\n",
        test="sim/test_situations.py::test_a_hello_that_nobody_waits_for_gives_nothing_up",
    ),
    Mutant(
        "a quiet shadow may have been written into",
        "path/timers.c",
        "            dp_shadow_check(dp, flow);\n",
        "",
        test="sim/test_situations.py::test_a_shadow_that_its_program_writes_into_is_void",
    ),
    Mutant(
        "a shadow that was written into is found by the look at all flows alone",
        "path/verify.c",
        "        dp_shadow_check(dp, flow);\n",
        "",
        test="sim/test_situations.py::test_a_shadow_that_its_program_writes_into_is_void",
    ),
    Mutant(
        "a session moves to a shadow that was just written into",
        "path/takeover.c",
        "    if (dp_shadow_is_written(flow))\n",
        "    if (0)\n",
        test="sim/test_situations.py::"
        "test_a_shadow_that_its_program_has_just_written_into_is_not_taken_over",
    ),
    Mutant(
        "a shadow goes on with what its program wrote behind a shut window",
        "path/takeover.c",
        "    if (!flow->relaying && dp_shadow_is_written(flow)) {",
        "    if (0) {",
        test="sim/test_situations.py::"
        "test_a_shadow_that_its_program_has_just_written_into_is_not_taken_over",
    ),
    Mutant(
        "a moved session leaves our hands when the other node prepares for it",
        "flow/flow.c",
        "        case PRL_PRIMARY_OPEN:\n            flags = PRL_FLOW_OPEN | (flow->relaying",
        "        case PRL_PRIMARY_OPEN:\n            flags = PRL_FLOW_OPEN | (0",
        test="sim/test_situations.py::test_a_moved_session_is_prepared_without_leaving_our_hands",
    ),
    Mutant(
        "a moved session that is only prepared never leaves our hands",
        "path/timers.c",
        "dp_compare_is_due(flow) || dp_relay_is_on(flow) ||",
        "dp_compare_is_due(flow) ||",
        test="sim/test_situations.py::"
        "test_a_moved_session_that_is_only_prepared_is_given_to_the_stack_once_it_is_quiet",
    ),
    Mutant(
        "what was captured of a session that opens is overtaken",
        "path/apply.c",
        "    flow->relaying = true;\n",
        "    flow->relaying = false;\n",
        test="sim/test_situations.py::"
        "test_what_was_captured_is_not_overtaken_when_a_session_is_not_protected_any_more",
    ),
    Mutant(
        "a session that is not protected any more depends on prld",
        "flow/flow.c",
        "        case PRL_PRIMARY_OPEN:\n            flags = PRL_FLOW_OPEN | (",
        "        case PRL_PRIMARY_OPEN:\n            flags = (!flow->relaying * PRL_FLOW_OPEN) | (",
        test="sim/test_situations.py::test_nor_does_it_depend_on_prld",
    ),
    Mutant(
        "an owner that goes on by itself is fenced by what its rival said before",
        "api/services.c",
        "        dp_terms_take_back(dp);\n",
        "        ;\n",
        test="sim/test_situations.py::"
        "test_an_owner_that_goes_on_by_itself_is_past_who_may_have_taken_over_meanwhile",
    ),
    Mutant(
        "packets leave no room on the link",
        "flow/send.c",
        "bytes + dp->link.tx_bytes / DP_LINK_RESERVE_SHARE",
        "bytes",
        test="sim/test_situations.py::test_a_link_that_is_full_of_packets_has_room_for_the_rest",
    ),
    Mutant(
        "the last piece of a long moment is sent as the first",
        "node/setup.c",
        "    memmove(queues, queues + queues_bytes - last, last);\n",
        "",
        test="sim/test_situations.py::"
        "test_a_moment_with_more_queued_than_a_message_takes_comes_in_pieces",
    ),
    Mutant(
        "the pieces of a long moment are put over one another",
        "node/setup.c",
        "    ready->queues_bytes += bytes;\n",
        "    ready->queues_bytes = bytes;\n",
        test="sim/test_situations.py::"
        "test_a_moment_with_more_queued_than_a_message_takes_comes_in_pieces",
    ),
    Mutant(
        "a session that is never quiet stays in our hands",
        "path/relay.c",
        " && flow->relay_ticks < DP_RELAY_TICKS_MAX))",
        "))",
        test="sim/test_situations.py::test_so_is_one_that_is_never_quiet_after_a_second",
    ),
    Mutant(
        "what was captured while a moved session was given to the stack is dropped",
        "path/input.c",
        " || dp_secondary_of(flow)->state == PRL_SECONDARY_OWNER);",
        ");",
        test="sim/test_situations.py::"
        "test_what_was_captured_while_a_moved_session_was_given_to_the_stack_is_not_lost",
    ),
    Mutant(
        "what waits for its turn goes on although the address was claimed back",
        "core/secondary.c",
        "    if (!prl_secondary_is_taken(flow))\n",
        "    if (flow->state != PRL_SECONDARY_OWNER)\n",
        test="sim/test_situations.py::test_what_is_claimed_back_in_the_middle_never_speaks",
    ),
    Mutant(
        "what waits for its turn has it while its service is given away",
        "path/takeover.c",
        "    if (dp->owner.state[flow->service] != PRL_OWNER_OWNER)\n"
        "        return false;\n    go_on",
        "    go_on",
        test="sim/test_situations.py::test_what_was_given_away_in_the_middle_and_taken_back_goes_on",
    ),
    Mutant(
        "turns that were passed over never come",
        "path/takeover.c",
        "        takeover->passed_over |= !take_turn(dp, flow);",
        "        take_turn(dp, flow);",
        test="sim/test_situations.py::test_what_was_given_away_in_the_middle_and_taken_back_goes_on",
    ),
    Mutant(
        "what comes for a moved session is fed before its turn",
        "path/relay.c",
        "        return false;\n    dp_takeover_turn(dp, flow);\n",
        "        return false;\n",
        test="sim/test_situations.py::test_a_moved_session_has_its_turn_as_soon_as_something_comes_for_it",
    ),
    Mutant(
        "what is relayed to a session that waits for its turn is lost",
        "path/relay.c",
        "    if (flow)\n        dp_takeover_turn(dp, flow);\n",
        "",
        test="sim/test_situations.py::test_what_is_relayed_to_a_session_that_waits_is_not_late",
    ),
    Mutant(
        "a moved session is left to the network before its turn",
        "path/relay.c",
        "                               dp_secondary_of(flow)->state == PRL_SECONDARY_TAKING);",
        "                               false);",
        test="sim/test_situations.py::test_a_moved_session_has_its_turn_as_soon_as_something_comes_for_it",
    ),
    Mutant(
        "a take-over that was asked for waits for the timer",
        "api/services.c",
        "    dp->io->wake(dp->host); /* for the turns of a take-over */\n",
        "",
        test="sim/test_situations.py::test_who_asks_for_a_take_over_wakes_the_datapath_for_it",
    ),
    Mutant(
        "an owner without a carrier waits for answers that cannot come",
        "core/ownership.c",
        "    return owner->is_unplugged ||\n           (owner->unsure_ns",
        "    return (owner->unsure_ns",
        test="test_core_ownership.py::test_an_owner_whose_lan_has_no_carrier_hands_over_at_once",
    ),
    Mutant(
        "a node whose LAN has no carrier takes a service",
        "core/ownership.c",
        "return !owner->is_unplugged && (!has_lost_lan_heartbeats",
        "return (!has_lost_lan_heartbeats",
        test="test_core_ownership.py::test_an_owner_whose_lan_has_no_carrier_hands_over_at_once",
    ),
    Mutant(
        "who could not hand over at once tries only a second later",
        "core/ownership.c",
        "PRL_OWNER_HAND_OVER_NS << (tries ? tries - 1 : 0)",
        "10 * PRL_OWNER_HAND_OVER_NS",
        test="test_core_ownership.py::test_an_owner_whose_lan_has_no_carrier_hands_over_at_once",
    ),
    Mutant(
        "an epoch for which the other node is late is given up as any silent one",
        "core/ownership.c",
        "return later(owner->config.suspect_ns, PRL_OWNER_BEGIN_NS);",
        "return owner->config.suspect_ns;",
        test="test_core_ownership.py::test_an_epoch_that_the_other_node_is_late_for_is_not_given_up_for_that",
    ),
    Mutant(
        "who has renounced what it had won keeps it in the next epoch",
        "core/arbiter.c",
        "    arbiter->in_doubt = 1;",
        "    arbiter->in_doubt = 0;",
        test="test_core_arbiter.py::test_who_has_renounced_asks_again_in_the_next_epoch",
    ),
    Mutant(
        "what an owner has by the other node's word outlives its HELLO",
        "core/arbiter.c",
        "    arbiter->in_doubt = by_word;",
        "    arbiter->in_doubt = 0 * by_word;",
        test="test_core_arbiter.py::test_what_an_owner_has_by_word_alone_ends_with_its_hello",
    ),
    Mutant(
        "a word of the last epoch counts although HELLO was said",
        "core/ownership.c",
        "    owner->says_hello = 1;",
        "    owner->says_hello = 0;",
        test="test_core_arbiter.py::test_an_owner_that_has_said_hello_believes_no_word_of_before",
    ),
    Mutant(
        "a shadow may come in once its service has been taken over",
        "node/enter.c",
        "dp->owner.state[service] == PRL_OWNER_OWNER)\n        return -EALREADY;",
        "false)\n        return -EALREADY;",
        test="sim/test_situations.py::test_a_shadow_that_is_made_too_late_for_a_take_over_does_not_come_in",
    ),
    Mutant(
        "a session that waits for its turn can be set up",
        "node/enter.c",
        "dp_secondary_of(flow)->state == PRL_SECONDARY_ACTIVE ||\n",
        "dp_secondary_of(flow)->state == PRL_SECONDARY_ACTIVE && !\n",
        test="sim/test_situations.py::test_a_session_that_waits_for_its_turn_cannot_be_set_up",
    ),
    Mutant(
        "a word of the old primary's counts although its session was taken over",
        "path/secondary.c",
        "        if (flow && prl_secondary_is_taken(dp_secondary_of(flow)))\n",
        "        if (flow && dp_secondary_of(flow)->state == PRL_SECONDARY_OWNER)\n",
        test="sim/test_situations.py::test_no_word_opens_what_waits_for_its_turn",
    ),
)


def make(folder: Path, mutant: Mutant) -> Path:
    """Compile the datapath with ``mutant``'s mistake into ``folder``.

    Returns the path of the module. Raises ValueError when the place of the mistake is not there
    exactly once: the datapath was changed, change the mutant too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source = ROOT / "userspace" / mutant.file
    text = source.read_text()
    if text.count(mutant.old) != 1:
        raise ValueError(f"{mutant.file} does not contain exactly once: {mutant.old!r}")
    changed, target = folder / source.name, folder / build.object_of(source)
    changed.write_text(text.replace(mutant.old, mutant.new))
    build.compile_object(changed, target, QUICK)
    parts = [target if part.name == target.name else part for part in build.objects()]
    module = folder / f"{build.MODULE}.so"
    build.link(parts, module)
    return module


def hunt(number: int, folder: Path, seeds: int) -> str:
    """How a mutant was caught, or nothing. It runs in a process of its own, which may die of it."""
    command = [sys.executable, "-m", "tests.sim.mutants", str(number), str(folder), str(seeds)]
    # That a test fails with a mutant is no result of this run.
    own = {results.FOLDER_VARIABLE, results.LANE_VARIABLE}
    environment = {name: value for name, value in os.environ.items() if name not in own}
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=HUNT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        name = MUTANTS[number].name
        words = f"{name}: it goes round for ever, or for {HUNT_S} s: give it kinds of faults"
        raise RuntimeError(words) from error
    if done.returncode < 0:
        return f"it died of signal {-done.returncode}: {done.stderr.splitlines()[0]}"
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout.strip()


def _fails(test: str, core: Core) -> bool:
    """Whether a test does with this core. Raises RuntimeError: it was not run."""
    broken = ModuleType("prl._core")
    broken.__dict__.update(ffi=core.ffi, lib=core.lib)
    sys.modules["prl._core"] = broken
    vars(build)["product"] = lambda: core
    place = test if test.startswith("sim/") else f"unit/{test}"
    with redirect_stdout(StringIO()) as said:
        plain = ("-q", "-p", "no:cacheprovider", "--assert=plain")  # that it fails is all
        code = pytest.main([*plain, str(ROOT / "tests" / place)])
    if code not in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}:
        raise RuntimeError(said.getvalue())
    return code == pytest.ExitCode.TESTS_FAILED


def main() -> None:
    """Hunt one mutant: ``python -m tests.sim.mutants NUMBER FOLDER SEEDS``."""
    from tests.sim.runner import run_block  # noqa: PLC0415 - the runner builds the product

    mutant = MUTANTS[int(sys.argv[1])]
    core = build.load(make(Path(sys.argv[2]), mutant))
    if mutant.test:
        sys.stdout.write(f"{mutant.test} fails\n" if _fails(mutant.test, core) else "")
        return
    report = run_block(range(int(sys.argv[3])), core, faults=mutant.faults, stop_at_first=True)
    for seed, why in report.failures:
        sys.stdout.write(f"seed {seed}: {why}\n")


if __name__ == "__main__":
    main()
