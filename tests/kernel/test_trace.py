"""The USDT probes are in the datapath, and the tracing script finds them in a running prld."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import prl
from prl.demo.payload import Payload
from tests.system import support
from tests.system.support import Applications

pytestmark = pytest.mark.kernel

TREE = Path(__file__).resolve().parent.parent.parent
PROBES = TREE / "userspace" / "probes.h"
HOLDLAT = TREE / "bpf" / "trace" / "holdlat.py"
DEBIAN_PYTHON = "/usr/bin/python3"  # bcc is Debian's
SIZE_BYTES = 4 << 20
COMPILE_S = 60.0
ROW = re.compile(r"^\s*\d+ -> \d+\s*: (\d+)\s*\|", re.MULTILINE)


def _extension() -> Path:
    (found,) = Path(prl.__file__).parent.glob("_core*.so")
    return found


def test_every_documented_probe_is_in_the_extension() -> None:
    documented = set(re.findall(r"^ \*     (\w+)\(", PROBES.read_text(), re.MULTILINE))
    assert "reinject" in documented
    notes = subprocess.run(
        ["readelf", "-n", str(_extension())], capture_output=True, text=True, check=True
    ).stdout
    found = set(re.findall(r"Provider: prl\n\s*Name: (\w+)", notes))
    assert found == documented


@pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops", "bpftool", "bcc")
def test_holdlat_shows_how_long_packets_were_held() -> None:
    """Traces re0 while the peer talks to an echo there: input and output are both held."""
    with support.pair("f8t") as lab:
        apps = Applications(lab, "echo")
        pid = lab.state.pid(lab.topology.re0)
        # The tracing file system may not be mounted here: mount it where nobody else sees it.
        place = "/sys/kernel/tracing"
        script = f'mountpoint -q {place} || mount -t tracefs tracefs {place} && exec "$@"'
        command = [DEBIAN_PYTHON, "-u", str(HOLDLAT), "-p", str(pid)]
        with (
            apps.connect() as peer,
            subprocess.Popen(
                ["unshare", "-m", "sh", "-c", script, "sh", *command],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            ) as tracer,
        ):
            try:
                assert tracer.stdout is not None
                first = tracer.stdout.readline()
                assert "Tracing" in first, tracer.communicate(timeout=5)
                peer.converse(Payload(SIZE_BYTES), 10_000)
                peer.finish()
                tracer.send_signal(signal.SIGINT)
                shown, complaints = tracer.communicate(timeout=COMPILE_S)
            finally:
                tracer.kill()
        assert tracer.returncode == 0, complaints
        _, incoming, outgoing = re.split(r"^(?:input|output), .*$", shown, flags=re.MULTILINE)
        assert sum(map(int, ROW.findall(incoming))) > 0, shown
        assert sum(map(int, ROW.findall(outgoing))) > 0, shown
        assert support.flows(lab, "re0") is not None


@pytest.mark.needs("root", "bcc")
def test_holdlat_wants_a_process_that_is_there() -> None:
    done = subprocess.run(
        [DEBIAN_PYTHON, str(HOLDLAT), "-p", "99999999"],
        capture_output=True,
        text=True,
        timeout=COMPILE_S,
        check=False,
    )
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_holdlat_is_run_by_an_interpreter_that_has_bcc() -> None:
    assert HOLDLAT.read_text().startswith(f"#!{DEBIAN_PYTHON}\n")
    assert sys.executable  # the tests themselves may run in an environment without bcc
