"""The fence hook: the operator's command that makes sure that the other node is dead (SPEC L5)."""

import asyncio
import contextlib
from collections.abc import Callable

from prl.config import Config
from prl.daemon.events.log import EventLog

OUTPUT_MAX_CHARACTERS = 200
"""Of what the command says, so much goes to the event log."""


class FenceHook:
    """Runs the configured command, one at a time; ``confirmed`` is called when it has succeeded."""

    def __init__(self, config: Config, log: EventLog, confirmed: Callable[[], None]) -> None:
        self._config, self._log, self._confirmed = config.ownership, log, confirmed
        self._running: asyncio.Task[None] | None = None

    @property
    def state(self) -> str:
        """``none`` (not configured), ``ready`` or ``running``."""
        if not self._config.fence_command:
            return "none"
        return "running" if self._running is not None and not self._running.done() else "ready"

    def start(self) -> None:
        """Run it, unless there is none or it runs already."""
        if self.state == "ready":
            self._running = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Kill it if it runs."""
        if self._running is not None:
            self._running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._running

    async def _run(self) -> None:
        command = self._config.fence_command or []
        self._log.warning("fencing", f"the other node is being fenced: {command[0]}")
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
        except OSError as error:
            self._log.error("fence_failed", f"{command[0]}: cannot be run: {error.strerror}")
            return
        try:
            async with asyncio.timeout(self._config.fence_timeout_ms / 1000):
                said, _ = await process.communicate()
        except TimeoutError:
            self._log.error(
                "fence_failed",
                f"{command[0]}: not done within {self._config.fence_timeout_ms} ms: killed; the "
                "other node is not confirmed dead",
            )
            return
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode == 0:
            self._log.warning("fence_confirmed", f"{command[0]}: the other node is dead")
            self._confirmed()
            return
        words = " ".join(said.decode("utf-8", "replace").split())[:OUTPUT_MAX_CHARACTERS]
        self._log.error(
            "fence_failed",
            f"{command[0]}: exit status {process.returncode}: the other node is not confirmed "
            f"dead: {words or '(it said nothing)'}",
        )
