"""Who captures: what the configuration says, or what suits the interfaces and their drivers."""

from dataclasses import dataclass

from prl.bindings.programs import Kernel, XdpRefusedError, queue_refusal
from prl.config import Config
from prl.daemon.events.log import EventLog
from prl.errors import KernelError
from prl.kernel.features import INSTEAD_OF_NATIVE, Mode, best_mode, no_generic, no_native


@dataclass(frozen=True, slots=True)
class Choice:
    """The mode to begin with, the one for an interface that does not take it, and why."""

    mode: Mode
    fallback: Mode | None
    why: str
    no_generic: str
    no_queue: str = ""
    """Why packets cannot wait in this kernel; found out only where that is chosen or not."""


def choose(config: Config) -> Choice:
    """What the configuration, the kernel and the interfaces say.

    Raises:
        KernelError: it is XDP, which would lose packets here, or capture none.
    """
    no_queue = queue_refusal() if config.mode == "auto" else ""
    mode, why = (
        best_mode(config.interfaces, no_queue) if config.mode == "auto" else (config.mode, "")
    )
    trouble = no_generic(config.interfaces)
    if mode == "native" and (refusal := no_native(config.interfaces)):
        raise KernelError("; ".join(filter(None, (refusal, INSTEAD_OF_NATIVE, trouble))))
    if mode == "generic" and trouble:
        raise KernelError("; ".join(filter(None, (trouble, no_queue))))
    generic: Mode | None = None if trouble else "generic"
    fallback: Mode | None = None
    if config.mode == "auto" and mode == "native":
        fallback = generic if no_queue else "kernel"
    elif config.mode == "auto" and mode == "kernel":
        fallback = generic
    return Choice(mode, fallback, why, trouble, no_queue)


def attach(kernel: Kernel, choice: Choice, events: EventLog) -> None:
    """Attach the programs, and say in the log what was chosen by whom.

    Raises:
        KernelError: they could not be; of native XDP with what can be done instead.
    """
    try:
        refusal = kernel.attach()
    except XdpRefusedError as error:
        instead = "; ".join(filter(None, (INSTEAD_OF_NATIVE, choice.no_generic)))
        raise KernelError(
            f"{error}; {instead}" if choice.mode == "native" else str(error)
        ) from error
    if kernel.mode == "generic":  # the last resort of "auto": other traffic pays for it
        kernel.mode_because = "; ".join(filter(None, (refusal, choice.no_queue)))
    why = kernel.mode_because or choice.why
    if kernel.mode == "kernel":
        words = "no XDP: input waits in the kernel (NFQUEUE)" + (f": {why}" if why else "")
        events.info("xdp_mode", words, mode=kernel.mode)
    elif kernel.mode == "mirror":
        words = "no XDP: input waits in the kernel (NFQUEUE), on both nodes if it is long"
        events.info("xdp_mode", words, mode=kernel.mode)
    elif why:
        tell = events.warning if kernel.mode_because else events.info
        tell("xdp_mode", f"XDP runs in {kernel.mode} mode: {why}", mode=kernel.mode)
