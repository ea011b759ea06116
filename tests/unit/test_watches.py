"""Endpoints whose connections are protected as they are accepted."""

import asyncio
import os
import socket
import subprocess
from types import SimpleNamespace
from typing import Any, cast

import pytest

from prl.daemon.events.log import EventLog
from prl.daemon.programs import listening
from prl.daemon.programs.listening import Watch, Watches
from prl.endpoint import parse_endpoint
from prl.errors import UsageError
from prl.kernel.descriptors import Holder

ENDPOINT = parse_endpoint("192.0.2.100:7000")


def test_who_is_gone_while_its_listener_is_looked_for_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its end was told before there was a task to end, or a filter to take off."""

    async def live() -> None:
        heard, write = os.pipe()
        detached: list[socket.socket] = []
        listen = SimpleNamespace(
            fileno=lambda: heard, close=lambda: None, detach=detached.append, next=lambda: None
        )
        go_on = asyncio.Event()

        async def attach(_: Watches, watch: Watch) -> None:
            await go_on.wait()
            watch.listeners[1] = Holder(program.pid, 0)

        monkeypatch.setattr(Watches, "_attach", attach)
        monkeypatch.setattr(listening, "Listen", lambda: listen)
        monkeypatch.setattr(listening.descriptors, "inode_of", lambda _: 1)
        watches = Watches(cast(Any, None), EventLog(str))
        others = asyncio.all_tasks()
        client = cast(Any, SimpleNamespace(uid=0, is_guest=False, name="c", closed=False))
        start = asyncio.create_task(watches.start(client, ENDPOINT, None, 10))
        await asyncio.sleep(0)
        watches.client_gone(client)
        go_on.set()
        with pytest.raises(UsageError, match="gone"):
            await start
        assert len(detached) == 1
        assert asyncio.all_tasks() == others
        watches.close()
        os.close(heard)
        os.close(write)

    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        subprocess.Popen(["/usr/bin/sleep", "60"], stdin=listener.fileno()) as program,
    ):
        try:
            asyncio.run(asyncio.wait_for(live(), 20))
        finally:
            program.kill()
