"""A place for virtual machines that is gone, with all in it, when it is closed.

Namespaces of its own for processes, mounts and the network, and in them a libvirtd that knows no
other: neither the host's own libvirt nor its bridges, leases and rules are touched, and the end of
the first process is the end of all.
"""

import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

# The first process puts its own directories in the place of libvirt's. It is bash, because bash
# reaps the orphans that come to a first process: libvirt waits for those of QEMU.
_SETUP = r"""
set -eu
mount -t tmpfs tmpfs /run
mkdir -p "$HALL/etc" "$HALL/lib" "$HALL/cache" "$HALL/log" /run/lock
cp -a /etc/libvirt/. "$HALL/etc"
rm -rf "$HALL/etc/qemu/networks" "$HALL/etc/qemu/autostart"
cat >"$HALL/etc/qemu.conf" <<'CONF'
user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = []
namespaces = []
remember_owner = 0
CONF
mkdir -p "$HALL/etc/qemu/networks" "$HALL/lib/images" "$HALL/lib/qemu" "$HALL/lib/dnsmasq"
mkdir -p "$HALL/log/qemu" /var/cache/libvirt /var/log/libvirt
mount --bind "$HALL/etc" /etc/libvirt
mount --bind "$HALL/lib" /var/lib/libvirt
mount --bind "$HALL/cache" /var/cache/libvirt
mount --bind "$HALL/log" /var/log/libvirt
ip link set lo up; virtlogd -d; libvirtd -d
for try in $(seq 100); do
    if virsh -q list >/dev/null 2>&1; then echo ready; break; fi
    sleep 0.2
done
exec 1>&-
read -r end || true
"""

END_TIMEOUT_S = 60.0


class HallError(Exception):
    """Something in the hall did not work."""


class Hall:
    """Open from ``with`` until its end. ``directory`` is its scratch space, on a disk."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._first = 0
        self.directory = Path()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.directory = Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="prl-vm-"))
            )
            process = subprocess.Popen(
                [
                    *("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child"),
                    *("--mount-proc", "--propagation", "private", "bash", "-c", _SETUP),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "HALL": str(self.directory)},
                start_new_session=True,
                text=True,
            )
            stack.callback(_end, process)
            assert process.stdout is not None
            if process.stdout.readline().strip() != "ready":
                raise HallError("libvirtd did not start; is libvirt-daemon-system installed?")
            self._first = _first_of(process)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def inside(self, *argv: str) -> list[str]:
        """The command line that runs ``argv`` in here."""
        return ["nsenter", "--target", str(self._first), "--mount", "--net", "--pid", *argv]

    def run(
        self,
        *argv: str,
        timeout_s: float = 60.0,
        check: bool = True,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in here. Raises HallError, with what it said, unless ``check`` is false."""
        return self.run_outside(
            *self.inside(*argv), timeout_s=timeout_s, check=check, environment=environment
        )

    def run_outside(
        self,
        *argv: str,
        timeout_s: float = 60.0,
        check: bool = True,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """The same where the host is; ``directory`` is there, too."""
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env={**os.environ, **(environment or {})},
            check=False,
        )
        if check and done.returncode:
            raise HallError(f"{' '.join(argv)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done


def _first_of(process: "subprocess.Popen[str]") -> int:
    """The first process in there is the child of unshare(1)."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return int(children.split()[0])


def _end(process: "subprocess.Popen[str]") -> None:
    """With the first process all others are killed, and waited for: unshare(1) ends last."""
    with suppress(OSError, IndexError):
        os.kill(_first_of(process), signal.SIGKILL)
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()  # whoever reads the end of it ends
    try:
        process.wait(END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
