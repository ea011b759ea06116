"""A release, as `make dist` builds it: what is in it, the same again elsewhere, and installed."""

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

import prl

ROOT = Path(__file__).parents[2]
BUILD_TIMEOUT_S = 600
DATE = "2026-01-02T03:04:05Z"

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.timeout(2 * BUILD_TIMEOUT_S),
    pytest.mark.needs("git"),
]


def run(*argv: str, **how: object) -> str:
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT_S,
        check=False,
        **how,  # type: ignore[call-overload]
    )
    assert done.returncode == 0, (argv, done.stdout, done.stderr)
    return str(done.stdout)


def listed() -> set[str]:
    """The files of this work tree that git has, or would have."""
    names = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    return {name for name in names.split("\0") if name and (ROOT / name).is_file()}


def commit(folder: Path) -> Path:
    """This work tree as the only commit of a repository in ``folder``, always the same one."""
    for name in sorted(listed()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((ROOT / name).read_bytes())
        (folder / name).chmod(0o755 if os.access(ROOT / name, os.X_OK) else 0o644)
    author = {"GIT_AUTHOR_DATE": DATE, "GIT_COMMITTER_DATE": DATE}
    who = ("-c", "user.name=prl", "-c", "user.email=prl@localhost")
    run("git", "init", "-q", str(folder))
    run("git", "-C", str(folder), "add", "-A")
    run("git", "-C", str(folder), *who, "commit", "-qm", "all", env=os.environ | author)
    return folder


@dataclass(frozen=True)
class Release:
    folder: Path
    sums: str

    def file(self, pattern: str) -> Path:
        (found,) = self.folder.glob(pattern)
        return found


def build(folder: Path) -> Release:
    run("prl/packaging/dist", cwd=commit(folder), env=os.environ | {"PYTHON": sys.executable})
    return Release(folder / "dist", (folder / "dist/SHA256SUMS").read_text())


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return build(tmp_path_factory.mktemp("tree") / "one")


@pytest.fixture(scope="module")
def unpacked(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the Debian package installs."""
    folder = tmp_path_factory.mktemp("deb")
    run("dpkg-deb", "-x", str(release.file("*.deb")), str(folder))
    return folder


def test_the_same_commit_gives_the_same_files_elsewhere(release: Release, tmp_path: Path) -> None:
    again = build(tmp_path / "some/where/else")
    assert again.sums == release.sums
    run("sha256sum", "--strict", "--check", "SHA256SUMS", cwd=release.folder)
    named = {line.split()[1] for line in release.sums.splitlines()}
    assert named == {path.name for path in release.folder.iterdir()} - {"SHA256SUMS"}


def test_the_version_stands_in_one_place(release: Release, unpacked: Path) -> None:
    version = prl.__version__
    assert release.file("*.tar.gz").name == f"prl-{version}.tar.gz"
    assert release.file("*.whl").name.startswith(f"prl-{version}-cp311-")
    assert run("dpkg-deb", "-f", str(release.file("*.deb")), "Version").strip() == version
    page = run("gzip", "-dc", str(unpacked / "usr/share/man/man1/prlctl.1.gz"))
    assert f'"prl {version}"' in page.splitlines()[0]
    assert f"\n## [{version}]" in (ROOT / "CHANGELOG.md").read_text()
    elsewhere = [
        name
        for name in listed() - {"prl/__init__.py", "CHANGELOG.md"}
        if not name.startswith("tests/") and f'"{version}"'.encode() in (ROOT / name).read_bytes()
    ]
    assert elsewhere == []


def test_the_sdist_is_the_tree(release: Release) -> None:
    with tarfile.open(release.file("*.tar.gz")) as tar:
        names = {entry.name.partition("/")[2] for entry in tar if entry.isfile()}
        owners = {(entry.uid, entry.gid, entry.uname) for entry in tar}
    made = {name for name in names if name.startswith("prl.egg-info/")} | {"PKG-INFO", "setup.cfg"}
    assert names - made == listed()
    assert owners == {(0, 0, "")}


def test_the_wheel_is_the_package_and_what_is_compiled(release: Release) -> None:
    wheel = release.file("*.whl")
    assert sysconfig.get_platform().replace("-", "_") in wheel.name
    names = set(zipfile.ZipFile(wheel).namelist())
    compiled = {
        f"prl/bpf/{Path(name).name.removesuffix('.c')}.o"
        for name in listed()
        if re.fullmatch(r"bpf/[^/]+\.bpf\.c", name)
    }
    compiled |= {
        f"prl/bench/bin/prl-{Path(name).stem}"
        for name in listed()
        if re.fullmatch(r"userspace/bench/[^/]+\.c", name)
    }
    compiled |= {
        f"prl/c/{name}" for name in ("prl_client.h", "libprl_client.so", "libprl_client.a")
    }
    compiled.add("prl/bindings/facts.py")  # generated: not in git
    modules = {name for name in listed() if name.startswith("prl/") and name.endswith(".py")}
    packages = {str(Path(name).parent) for name in modules if name.endswith("/__init__.py")}
    modules = {name for name in modules if str(Path(name).parent) in packages}
    metadata = {name for name in names if ".dist-info/" in name}
    made = {name for name in names if re.fullmatch(r"prl/_core\.[^/]*so", name)}
    assert len(made) == 1
    assert names - metadata - made == compiled | modules | {"prl/py.typed"}


def test_the_package_has_what_the_tree_has(release: Release, unpacked: Path) -> None:
    there = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    wheel = set(zipfile.ZipFile(release.file("*.whl")).namelist())
    (site,) = {name.partition("/prl/__init__.py")[0] for name in there if "prl/__init__.py" in name}
    assert {f"{site}/{name}" for name in wheel if ".dist-info/" not in name} <= there
    documents = {
        f"usr/share/doc/prl/{name.removeprefix('docs/')}"
        for name in listed()
        if "docs/" in name[:5]
    }
    assert documents <= there
    traces = {f"usr/share/prl/{name}" for name in listed() if name.startswith("bpf/trace/")}
    assert traces <= there
    assert {
        "lib/systemd/system/prld.service",
        "usr/include/prl_client.h",
        "usr/lib/ocf/resource.d/prl/service",
        "usr/lib/sysusers.d/prl.conf",
        "usr/lib/tmpfiles.d/prl.conf",
        "usr/share/bash-completion/completions/prlctl",
        "usr/share/fish/vendor_completions.d/prlctl.fish",
        "usr/share/zsh/vendor-completions/_prlctl",
        *(
            f"usr/share/man/{page}.gz"
            for page in ("man1/prlctl.1", "man5/prld.toml.5", "man8/prld.8")
        ),
    } <= there
    for name in there:  # where it was built is not in it
        assert b"/one/build/dist" not in (unpacked / name).read_bytes(), name


@pytest.mark.needs("lintian")
def test_lintian_finds_no_error(release: Release) -> None:
    deb = str(release.file("*.deb"))
    found = run("lintian", "--allow-root", "--fail-on", "error", "--tag-display-limit", "0", deb)
    assert not [line for line in found.splitlines() if line.startswith("E:")]


def test_it_is_installed_from_the_sdist(release: Release, tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", str(tmp_path / "venv"))
    python = str(tmp_path / "venv/bin/python")
    run(python, "-m", "pip", "install", "-q", "--no-input", str(release.file("*.tar.gz")))
    said = run(str(tmp_path / "venv/bin/prlctl"), "--version", cwd=tmp_path)
    assert said == f"prlctl, version {prl.__version__}\n"
    where = run(python, "-c", "import prl._core; print(prl._core.__file__)", cwd=tmp_path)
    assert where.startswith(str(tmp_path / "venv"))
    objects = Path(where.strip()).parent / "bpf"
    assert {path.name for path in objects.iterdir()} == {
        f"{path.name.removesuffix('.c')}.o" for path in (ROOT / "bpf").glob("*.bpf.c")
    }


BASH = """
source "$1"
COMP_WORDS=(prlctl flow l) COMP_CWORD=2
_prlctl_completion prlctl
printf '%s\\n' "${COMPREPLY[@]}"
"""
# What compinit would have defined; click's function hands its answers to one of the last two.
ZSH = """
compdef() { }
_describe() { print -l -- ${(P)3} }
compadd() { print -l -- ${(P)5} }
source $1
words=(prlctl flow l) CURRENT=3
_prlctl_completion
"""
FISH = """
source $argv[1]
complete -C 'prlctl flow l'
"""


@pytest.mark.parametrize(
    ("command", "file"),
    [
        (["bash", "-c", BASH, "bash"], "bash-completion/completions/prlctl"),
        pytest.param(
            ["zsh", "-f", "-c", ZSH, "zsh"],
            "zsh/vendor-completions/_prlctl",
            marks=pytest.mark.needs("zsh"),
        ),
        pytest.param(
            ["fish", "--no-config", "-c", FISH],
            "fish/vendor_completions.d/prlctl.fish",
            marks=pytest.mark.needs("fish"),
        ),
    ],
)
def test_shells_complete(unpacked: Path, command: list[str], file: str) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    script = str(unpacked / "usr/share" / file)
    found = run(*command, script, env=os.environ | {"PATH": path})
    assert re.search(r"^list\b", found, re.MULTILINE), found
    assert "link" not in found
