/* SPDX-License-Identifier: BSD-2-Clause */
/* Segments of ours that tell the peer of its window, where the own stack has no reason to say anything (R10). */
#ifndef PRL_PATH_WINDOW_H
#define PRL_PATH_WINDOW_H

#include "flow/flow.h"

/* An ACK of ours, in which tc fills in the newest ack, window and timestamps, unless the flow is signed. Samples the socket; false:
 * there is none any more, or it has said nothing yet. */
bool dp_window_say(struct prl_dp *dp, struct dp_flow *flow);
/* The other side's space may have changed: the kernel is told, and the peer, if its window was lowered for that. */
void dp_window_note_space(struct prl_dp *dp, struct dp_flow *flow);
/* The other side's space grew after the advertised window had to be lowered: the own stack believes that its window is open and would say
 * nothing, so the peer is told with a segment of ours. tc may lower a window by the space of before while userspace says the new one,
 * and says so only then: hence a look with the next tick, too. */
void dp_window_look(struct prl_dp *dp, struct dp_flow *flow);
/* Nothing limits the session any more: the peer is told, if its window was lowered. */
void dp_window_reopen(struct prl_dp *dp, struct dp_flow *flow);

#endif /* PRL_PATH_WINDOW_H */
