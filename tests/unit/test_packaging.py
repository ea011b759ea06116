"""What the build makes, and what it packs (R25)."""

import importlib.util
import os
import re
import subprocess
import sysconfig
import tomllib
from importlib.metadata import distributions
from pathlib import Path
from types import ModuleType

import pytest
from setuptools import Distribution

ROOT = Path(__file__).resolve().parents[2]
BPF_PROGRAMS = sorted(path.name.removesuffix(".c") for path in (ROOT / "bpf").glob("*.bpf.c"))


def load(path: str) -> ModuleType:
    """Import a script of the build."""
    spec = importlib.util.spec_from_file_location(Path(path).stem + "_under_test", ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(name="build_ffi", scope="module")
def _build_ffi() -> ModuleType:
    return load("userspace/build_ffi.py")


def write_tree(root: Path, header: str) -> None:
    """Lay out the two include folders with ``header`` as the interface."""
    (root / "bpf").mkdir()
    (root / "userspace").mkdir()
    (root / "userspace/cffi_api.h").write_text(header)


def test_the_wheel_gets_every_bpf_object(tmp_path: Path) -> None:
    setup = load("setup.py")
    command = setup.BuildBpf(Distribution())
    command.build_lib = str(tmp_path)
    command.ensure_finalized()
    assert command.get_outputs() == [str(tmp_path / f"prl/bpf/{name}.o") for name in BPF_PROGRAMS]
    order = [name for name, _ in setup.Build.sub_commands]
    assert "build_bpf" in order
    assert order.index("build_facts") < order.index("build_py"), "it would not be packed"


def test_bpf_objects_follow_their_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = load("setup.py")
    programs = tmp_path / "src"
    programs.mkdir()
    (programs / "common.h").write_text("#define ANSWER 42\n")
    (programs / "one.bpf.c").write_text('#include "common.h"\nint one(void) { return ANSWER; }\n')
    monkeypatch.setattr(setup.BuildBpf, "folder_of_sources", programs)
    command = setup.BuildBpf(Distribution())
    command.build_lib = str(tmp_path / "lib")
    command.ensure_finalized()
    target = tmp_path / "lib/prl/bpf/one.bpf.o"

    command.run()
    first = target.stat()
    leftover = target.with_name("gone.bpf.o")
    leftover.touch()
    command.run()
    assert target.stat().st_ino == first.st_ino, "compiled again although nothing had changed"
    assert not leftover.exists()

    (programs / "common.h").write_text("#define ANSWER 43\n")
    command.run()
    assert target.stat().st_ino != first.st_ino, "a changed header did not compile it again"


def test_a_bpf_program_that_does_not_compile_leaves_no_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    setup = load("setup.py")
    (tmp_path / "bad.bpf.c").write_text("int bad(void) { return; }\n")
    monkeypatch.setattr(setup.BuildBpf, "folder_of_sources", tmp_path)
    command = setup.BuildBpf(Distribution())
    command.build_lib = str(tmp_path / "lib")
    command.ensure_finalized()
    with pytest.raises(subprocess.CalledProcessError):
        command.run()
    assert not (tmp_path / "lib/prl/bpf/bad.bpf.o").exists()
    assert "bad.bpf.c" in capfd.readouterr().err


def test_cdef_of_attributes_and_macros(build_ffi: ModuleType, tmp_path: Path) -> None:
    write_tree(
        tmp_path,
        """
        #ifndef PRL_CFFI
        #include <stdint.h>
        static inline int hidden(void) { return 1; }
        _Static_assert(sizeof(int) == 4, "int");
        #endif
        #define PRL_SIZE 64u
        #define PRL_HALF (PRL_SIZE / 2)
        #define PRL_NAME "text"
        #define PRL_CALL(x) (x)
        #define PRL_LOOP_A PRL_LOOP_B
        #define PRL_LOOP_B PRL_LOOP_A
        #define OTHER 1
        enum prl_kind { PRL_KIND_A = 1, PRL_KIND_B };
        struct prl_head { __u8 kind; __be32 len; } __attribute__((packed));
        struct prl_ring { __u64 at[PRL_HALF] __attribute__((aligned(64))); struct { int x; } in; };
        struct prl_plain { __u8 a; };
        int prl_log(const char *fmt, ...) __attribute__((format(printf, 1, 2), nonnull(1)));
        """,
    )
    text = build_ffi.cdef(root=tmp_path)
    assert "__attribute__" not in text
    assert "hidden" not in text
    carried = re.findall(r"#define (\w+) \.\.\.", text)
    assert carried == ["PRL_SIZE", "PRL_HALF"]
    assert re.search(r"prl_head \{[^}]*\.\.\.; \}", text)
    assert re.search(r"prl_plain \{ __u8 a; \}", text)
    assert build_ffi.ffibuilder(tmp_path) is not None, "cffi does not understand it"


def test_a_header_that_does_not_preprocess_is_named(build_ffi: ModuleType, tmp_path: Path) -> None:
    write_tree(tmp_path, '#include "nowhere.h"\n')
    with pytest.raises(RuntimeError, match=r"cffi_api\.h.*\n.*nowhere\.h"):
        build_ffi.cdef(root=tmp_path)


def test_every_c_file_is_linked(build_ffi: ModuleType) -> None:
    listed = build_ffi.sources()
    assert listed == sorted(listed)
    elsewhere = {ROOT / "userspace/client", ROOT / "userspace/bench"}  # libraries and programs
    found = {path for path in (ROOT / "userspace").rglob("*.c") if path.parent not in elsewhere}
    assert {ROOT / name for name in listed} == found


def test_metadata_and_scripts() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    # Of the environment: a wheel that was once built leaves its own description in the tree.
    (found,) = distributions(name="prl", path=[sysconfig.get_path("purelib")])
    installed = {entry.name: entry.value for entry in found.entry_points}
    for name, target in project["scripts"].items():
        assert installed[name] == target
    assert not [need for need in project["dependencies"] if need.startswith(("bcc", "bpfcc"))]
    for file in project["license-files"]:
        assert (ROOT / file).is_file()


@pytest.mark.needs("git")
def test_what_the_build_makes_is_ignored_by_git() -> None:
    made = [
        "prl/_core.abi3.so",
        "prl/bpf/classify.bpf.o",
        "prl/c/libprl_client.a",
        "prl/bindings/facts.py",
        ".venv/bin/python",
        "build/lib/x",
    ]
    done = subprocess.run(
        ["git", "check-ignore", "--no-index", *made],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == made


FAKES = {
    "dpkg-query": "",
    "id": "echo 0",
    "apt-get": 'cat "$POLICY"; [ -z "${KILLED:-}" ] || kill -KILL $PPID',
}


def install(policy: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run the Makefile's rule for Debian packages; apt-get prints the policy that it finds."""
    programs = policy.parent / "bin"
    programs.mkdir(exist_ok=True)
    for name, body in FAKES.items():
        (programs / name).write_text(f"#!/bin/sh\n{body}\n")
        (programs / name).chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    path = f"{programs}{os.pathsep}{kept['PATH']}"
    return subprocess.run(
        ["make", "-s", "apt-run", f"POLICY={policy}"],
        cwd=ROOT,
        env={**kept, "PATH": path, "POLICY": str(policy), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("before", ["#!/bin/sh\nexit 0\n", None])
def test_no_service_starts_while_apt_runs_and_the_policy_of_before_comes_back(
    before: str | None, tmp_path: Path
) -> None:
    policy = tmp_path / "policy-rc.d"
    if before is not None:
        policy.write_text(before)

    killed = install(policy, KILLED="yes")
    assert killed.returncode != 0
    assert "exit 101" in policy.read_text()

    done = install(policy)
    assert (done.returncode, "exit 101" in done.stdout) == (0, True), done.stderr
    there = {path.name: path.read_text() for path in tmp_path.glob("policy*")}
    assert there == ({} if before is None else {policy.name: before})
