"""Who captures: what the configuration says, or what suits the interfaces and their drivers."""

from dataclasses import dataclass

from prl.bindings.programs import Kernel, XdpRefusedError
from prl.config import Config
from prl.daemon.events.log import EventLog
from prl.errors import KernelError
from prl.kernel.features import Mode, no_generic, xdp_mode


@dataclass(frozen=True, slots=True)
class Choice:
    """The mode to begin with, the one for a driver that does not take it, and why."""

    mode: Mode
    fallback: Mode | None
    why: str
    no_generic: str


def choose(config: Config) -> Choice:
    """What the configuration, the kernel and the interfaces say.

    Raises:
        KernelError: it is generic XDP, which would lose packets here.
    """
    mode, why = (config.mode, "") if config.mode != "auto" else xdp_mode(config.interfaces)
    trouble = no_generic(config.interfaces)
    if mode == "generic" and trouble:
        raise KernelError(trouble)
    may_fall_back = config.mode == "auto" and mode == "native" and not trouble
    return Choice(mode, "generic" if may_fall_back else None, why, trouble)


def attach(kernel: Kernel, choice: Choice, events: EventLog) -> None:
    """Attach the programs, and say in the log what was chosen by whom.

    Raises:
        KernelError: they could not be; of native XDP with what can be done instead.
    """
    try:
        refusal = kernel.attach()
    except XdpRefusedError as error:
        instead = choice.no_generic or 'mode = "auto" takes generic XDP then, and so does "generic"'
        raise KernelError(
            f"{error}; {instead}" if choice.mode == "native" else str(error)
        ) from error
    if kernel.mode == "kernel":
        events.info("xdp_mode", "no XDP: input waits in the kernel (NFQUEUE)", mode=kernel.mode)
    elif refusal:
        events.warning("xdp_mode", f"XDP runs in {kernel.mode} mode: {refusal}", mode=kernel.mode)
    elif choice.why:
        events.info("xdp_mode", f"XDP runs in {kernel.mode} mode: {choice.why}", mode=kernel.mode)
