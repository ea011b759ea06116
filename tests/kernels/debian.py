"""Debian's kernel packages: found, verified by apt, unpacked, and kept while they are current.

The machine's own apt configuration is read and never changed: lists and sources are private ones
in the cache. Where the machine's mirror has further suites of Debian, their kernels are offered.
"""

import fcntl
import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.kernels import image

NEWEST = "newest"
"""The name of the newest kernel that the machine's mirror has, whatever its number."""
SERIES = ("6.1", "6.12", NEWEST)
"""The kernels that prl is tested on: Debian 12's, its backports' (Debian 13's), the newest."""
SUITES_BESIDES = ("bookworm-backports", "trixie", "trixie-backports", "sid")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
META_PACKAGE = "linux-image-amd64"
APT_TIMEOUT_S = 300
LISTS_GOOD_FOR_S = 3600
"""How long the mirror is not asked again what it has."""
_READY = "ready"  # written last into a folder that is complete


class KernelError(Exception):
    """A kernel could not be had or did not do what was asked of it."""


@dataclass(frozen=True, slots=True)
class Package:
    """A version of Debian's kernel."""

    version: str  # Debian's
    needs: tuple[str, ...]  # "name=version" of what the meta-package depends on


@dataclass(frozen=True, slots=True)
class Kernel:
    """An unpacked kernel, good for booting."""

    folder: Path
    release: str  # as `uname -r` says it

    @property
    def vmlinux(self) -> Path:
        """The kernel, uncompressed."""
        return self.folder / "vmlinux"

    @property
    def initramfs(self) -> Path:
        """What mounts the machine's root."""
        return self.folder / "initramfs.gz"

    @property
    def modules(self) -> Path:
        """The folder that is /lib/modules/RELEASE in the guest."""
        return self.folder / "tree/lib/modules" / self.release


def cache() -> Path:
    """Where kernels are kept, outside of the tree."""
    if os.geteuid() == 0:
        return Path("/var/cache/prl/kernels")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prl/kernels"


@contextmanager
def kernel(name: str) -> Iterator[Kernel]:
    """The newest kernel of a series ("6.1"), or of all; downloaded if it is not there yet.

    It is not removed as out of date until the context is left.

    Raises:
        KernelError: the mirror has no such kernel, or it could not be had.
    """
    folder = cache()
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            found = _current(folder, name)
            used = held.enter_context((found.folder / _READY).open())
            fcntl.flock(used, fcntl.LOCK_SH)  # before another one may look for what is old
        yield found


def _current(folder: Path, name: str) -> Kernel:
    apt = Apt(folder / "apt")
    try:
        apt.update()
    except KernelError as error:
        if kept := _kept(folder, name):
            print(f"{kept.release} is used as it is: {error}", file=sys.stderr)
            return kept
        raise
    package = newest(name, apt.packages())
    place = folder / f"linux-{package.version}"
    if not (place / _READY).exists():
        shutil.rmtree(place, ignore_errors=True)
        _unpack(apt, package, place)
    _remove_older(folder, name, place)
    return _kernel(place)


class Apt:
    """apt with sources and lists of its own, and the machine's keyring and settings."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._options = [
            f"-oDir::Etc::SourceList={folder}/sources.list",
            "-oDir::Etc::SourceParts=-",
            f"-oDir::State={folder}/state",
            "-oDir::State::Status=/dev/null",
            f"-oDir::Cache={folder}/cache",
            "-oAPT::Sandbox::User=root",  # it writes into a folder of ours
            "-oAcquire::Languages=none",
            "-oAcquire::Retries=3",
            "-oAcquire::http::Timeout=30",
            "-oAcquire::https::Timeout=30",
        ]

    def update(self) -> None:
        """Fetch the lists of all suites that the mirror has; that it lacks some is no failure."""
        sources = "".join(_sources())
        if self._is_fresh(sources):
            return
        for part in ("state/lists/partial", "cache/archives/partial"):
            (self._folder / part).mkdir(parents=True, exist_ok=True)
        (self._folder / "sources.list").write_text(sources)
        trouble = _run(["apt-get", *self._options, "update", "-qq"], check=False).stderr.strip()
        if not self._has_lists():
            raise KernelError(f"apt-get has no lists of packages: {trouble}")
        (self._folder / _READY).touch()

    def _is_fresh(self, sources: str) -> bool:
        ready, listed = self._folder / _READY, self._folder / "sources.list"
        return (
            self._has_lists()
            and ready.exists()
            and listed.read_text() == sources
            and time.time() - ready.stat().st_mtime < LISTS_GOOD_FOR_S
        )

    def _has_lists(self) -> bool:
        return any((self._folder / "state/lists").glob("*_Packages*"))

    def packages(self) -> list[Package]:
        """All versions of the kernel that the lists have."""
        return [Package(v, needs) for v, needs in self._show(META_PACKAGE) if "~rc" not in v]

    def download(self, package: Package, into: Path) -> None:
        """Fetch the package's files, and those that they need of the same version."""
        wanted: set[str] = set()
        waiting = list(package.needs)
        while waiting:
            name = waiting.pop()
            if name not in wanted:
                wanted.add(name)
                waiting += [need for _, needs in self._show(name) for need in needs]
        _run(["apt-get", *self._options, "download", "-qq", *sorted(wanted)], cwd=into)

    def _show(self, name: str) -> list[tuple[str, tuple[str, ...]]]:
        text = _run(["apt-cache", *self._options, "show", name], check=False).stdout
        found = []
        for stanza in text.split("\n\n"):
            fields = dict(re.findall(r"^(Version|Depends): (.*)$", stanza, re.MULTILINE))
            if "Version" in fields:
                same = re.findall(r"(linux-[^ ,|]+) \(= ([^)]+)\)", fields.get("Depends", ""))
                found.append((fields["Version"], tuple(f"{n}={v}" for n, v in same)))
        return found


def newest(name: str, packages: Sequence[Package]) -> Package:
    """The highest version of a series among ``packages``, or of all.

    Raises:
        KernelError: there is none.
    """
    fitting = [p for p in packages if name == NEWEST or p.version.startswith(f"{name}.")]
    if not fitting:
        there = ", ".join(sorted(p.version for p in packages)) or "no kernel at all"
        raise KernelError(f"Debian's mirror has no kernel {name}; it has {there}")
    return max(fitting, key=functools.cmp_to_key(lambda a, b: _compare(a.version, b.version)))


def _compare(one: str, other: str) -> int:
    if one == other:
        return 0
    above = subprocess.run(["dpkg", "--compare-versions", one, "gt", other], check=False)
    return 1 if above.returncode == 0 else -1


def _sources() -> Iterator[str]:
    """The machine's own sources of Debian, and further suites of the same archive."""
    listed = _run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"]
    ).stdout
    configured = sorted({tuple(line.split()) for line in listed.splitlines() if line})
    code_name = _code_name()
    signed = f"[signed-by={KEYRING}] " if KEYRING.exists() else ""
    for uri, suite in configured:
        if suite.startswith(code_name):
            yield f"deb {signed}{uri} {suite} main\n"
    for uri in {uri for uri, suite in configured if suite == code_name}:
        own = {suite for place, suite in configured if place == uri}
        yield from (f"deb {signed}{uri} {s} main\n" for s in SUITES_BESIDES if s not in own)


def _code_name() -> str:
    for line in Path("/etc/os-release").read_text().splitlines():
        if line.startswith("VERSION_CODENAME="):
            return line.partition("=")[2].strip('"')
    raise KernelError("/etc/os-release does not name Debian's release")


def _unpack(apt: Apt, package: Package, place: Path) -> None:
    place.mkdir()
    with tempfile.TemporaryDirectory(dir=place) as archives:
        apt.download(package, Path(archives))
        for archive in sorted(Path(archives).glob("*.deb")):
            _run(["dpkg-deb", "--extract", str(archive), str(place / "tree")])
    tree = place / "tree"
    if (usr := tree / "usr/lib/modules").exists():  # from Debian 13 on
        (tree / "lib").mkdir(exist_ok=True)
        usr.rename(tree / "lib/modules")
    release = next((folder.name for folder in tree.glob("lib/modules/*")), "")
    boot_images = (tree / f"boot/vmlinuz-{release}", tree / f"lib/modules/{release}/vmlinuz")
    vmlinuz = next((path for path in boot_images if path.exists()), None)
    if vmlinuz is None:
        raise KernelError(f"there is no kernel in Debian's packages {', '.join(package.needs)}")
    _run(["depmod", "-b", str(tree), release])
    made = Kernel(place, release)
    made.vmlinux.write_bytes(image.uncompressed(vmlinuz.read_bytes()))
    made.initramfs.write_bytes(image.initramfs(made.modules))
    (place / _READY).write_text(f"{release}\n")


def _kernel(place: Path) -> Kernel:
    return Kernel(place, (place / _READY).read_text().strip())


def _kept(folder: Path, name: str) -> Kernel | None:
    ready = [p.parent for p in folder.glob(f"linux-*/{_READY}")]
    packages = [Package(p.name.removeprefix("linux-"), ()) for p in ready]
    try:
        return _kernel(folder / f"linux-{newest(name, packages).version}")
    except KernelError:
        return None


def _remove_older(folder: Path, name: str, current: Path) -> None:
    """Remove what ``current`` takes the place of, unless a guest runs with it."""
    series = current.name if name == NEWEST else f"linux-{name}."
    wanted = {f"linux-{s}." for s in SERIES if s != NEWEST}
    for place in folder.glob("linux-*"):
        other = place != current and (
            place.name.startswith(series)
            or (name == NEWEST and not any(place.name.startswith(s) for s in wanted))
        )
        if not other:
            continue
        try:
            with (place / _READY).open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(place)
        except FileNotFoundError:
            shutil.rmtree(place, ignore_errors=True)
        except BlockingIOError:
            continue


def _run(
    command: Sequence[str], *, check: bool = True, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=APT_TIMEOUT_S,
            check=False,
            cwd=cwd,
            env=os.environ | {"LC_ALL": "C.UTF-8"},
        )
    except FileNotFoundError as error:
        raise KernelError(f"{command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise KernelError(f"{command[0]} takes longer than {APT_TIMEOUT_S} s") from error
    if check and done.returncode != 0:
        raise KernelError(f"{' '.join(command)} failed: {done.stderr.strip()}")
    return done
