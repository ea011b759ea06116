"""The part of the build that pyproject.toml cannot say: the cffi extension, BPF, the C client."""

import os
import runpy
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

from setuptools import Command, Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
SOURCES = ROOT / "bpf"
OBJECTS = "prl/bpf"
BENCH_SOURCES = ROOT / "userspace/bench"
BENCH_PROGRAMS = "prl/bench/bin"
USERSPACE = ROOT / "userspace"
FACTS = ROOT / "prl/bindings/facts.py"
CLIENT = ROOT / "userspace/client"
CLIENT_OBJECTS = "prl/c"
CLIENT_SONAME, CLIENT_STATIC = "libprl_client.so", "libprl_client.a"
CLIENT_HEADER = "prl_client.h"
SAME_PATHS = f"-ffile-prefix-map={ROOT}=."
"""What is built does not tell where the tree was: a release can be built again, bit by bit."""
CLIENT_CFLAGS = (
    SAME_PATHS,
    *("-std=gnu11", "-O2", "-g", "-fPIC", "-fvisibility=hidden"),
    *("-Wall", "-Wextra", "-Werror"),
)


def bpf_compile_command(source: Path, target: Path) -> list[str]:
    """Return the command that compiles one BPF program; both paths may be relative to ``ROOT``."""
    multiarch = subprocess.run(
        ["gcc", "-print-multiarch"], capture_output=True, text=True, check=True
    ).stdout.strip()
    return [
        *("clang", "-O2", "-g", "-target", "bpf", "-mcpu=v3"),
        *("-std=gnu11", "-Wall", "-Wextra", "-Werror", SAME_PATHS),
        *("-I", str(SOURCES), "-isystem", f"/usr/include/{multiarch}"),
        *("-c", str(source), "-o", str(target)),
    ]


def bench_compile_command(source: Path, target: Path) -> list[str]:
    """Return the command that compiles one program of the bench."""
    return [
        *("gcc", "-std=gnu11", "-O2", "-g", "-Wall", "-Wextra", "-Werror", SAME_PATHS),
        *(str(source), "-o", str(target)),
    ]


def is_stale(target: Path, inputs: list[Path]) -> bool:
    """Return whether ``target`` is missing or older than any of ``inputs``."""
    if not target.exists():
        return True
    made_at = target.stat().st_mtime_ns
    return any(path.stat().st_mtime_ns > made_at for path in inputs)


class BuildFiles(Command):
    """A sub-command of ``build`` (setuptools.command.build.SubCommand) that makes files."""

    objects: ClassVar[str]
    """Where, under the build folder, or in the tree for an editable install."""
    user_options: ClassVar[list[tuple[str, str | None, str]]] = [
        ("inplace", "i", "put the objects into the source tree"),
        ("build-lib=", "b", "folder to build into"),
    ]
    boolean_options: ClassVar[list[str]] = ["inplace"]

    def initialize_options(self) -> None:
        """Set every option to unknown, as setuptools asks."""
        self.inplace = False
        self.build_lib: str | None = None
        self.editable_mode = False  # set by setuptools

    def finalize_options(self) -> None:
        """Take the build folder from ``build``."""
        self.set_undefined_options("build", ("build_lib", "build_lib"))

    @property
    def folder(self) -> Path:
        """Where the objects go."""
        in_tree = self.inplace or self.editable_mode
        return (ROOT if in_tree else Path(str(self.build_lib))) / self.objects

    def get_output_mapping(self) -> dict[str, str]:
        """Return nothing: no output is a copy of a file in the tree."""
        return {}


class BuildFacts(BuildFiles):
    """Write ``prl/bindings/facts.py``: into the tree, from where it is packed like every module."""

    description = "write the facts of the C headers for Python"
    objects = "prl/bindings"

    def run(self) -> None:
        """Write it where any header, table or script is newer, or it is not there."""
        scripts = [USERSPACE / "build_ffi.py", USERSPACE / "facts.py"]
        build_ffi, facts = (runpy.run_path(str(script)) for script in scripts)
        if is_stale(FACTS, [*scripts, *(ROOT / name for name in build_ffi["headers"]())]):
            fresh = FACTS.with_suffix(".tmp")
            fresh.write_text(facts["python_module"](build_ffi["cdef"]()))
            fresh.rename(FACTS)

    def get_outputs(self) -> list[str]:
        """Return nothing of its own: ``build_py`` packs it."""
        return []

    def get_source_files(self) -> list[str]:
        """Return the sources, for the sdist."""
        return ["userspace/build_ffi.py", "userspace/facts.py"]


class BuildEach(BuildFiles):
    """Compile each source of a folder by itself, where what was made of it is older."""

    folder_of_sources: ClassVar[Path]
    pattern: ClassVar[str]
    headers: ClassVar[tuple[str, ...]] = ()
    """What every source may include."""

    @staticmethod
    def name_of(source: Path) -> str:
        """Return what its object is called."""
        raise NotImplementedError

    @staticmethod
    def command(source: Path, target: Path) -> list[str]:
        """Return what compiles it; both paths may be relative to ``ROOT``."""
        raise NotImplementedError

    def targets(self) -> dict[Path, Path]:
        """Map each source to its object."""
        sources = sorted(self.folder_of_sources.glob(self.pattern))
        return {source: self.folder / self.name_of(source) for source in sources}

    def run(self) -> None:
        """Compile what is older than its source or than any header."""
        self.folder.mkdir(parents=True, exist_ok=True)
        common = [path for each in self.headers for path in self.folder_of_sources.glob(each)]
        for source, target in self.targets().items():
            if is_stale(target, [source, *common, Path(__file__)]):
                # Compile beside it, then rename: a failed run leaves no object that looks fresh.
                fresh = target.with_suffix(".tmp")
                command = self.command(source, fresh)
                self.announce(" ".join(command), level=2)
                subprocess.run(command, check=True)
                fresh.rename(target)

    def get_outputs(self) -> list[str]:
        """Return the objects' paths (part of setuptools' protocol)."""
        return [str(path) for path in self.targets().values()]

    def get_source_files(self) -> list[str]:
        """Return the sources, for the sdist."""
        return [str(path.relative_to(ROOT)) for path in self.targets()]


class BuildBpf(BuildEach):
    """Compile every ``bpf/*.bpf.c`` to ``prl/bpf/*.bpf.o``."""

    description = "compile the BPF programs"
    objects = OBJECTS
    folder_of_sources = SOURCES
    pattern = "*.bpf.c"
    headers = ("*.h", "*.def")
    command = staticmethod(bpf_compile_command)

    @staticmethod
    def name_of(source: Path) -> str:
        """Return what its object is called."""
        return f"{source.name.removesuffix('.c')}.o"

    def run(self) -> None:
        """Compile what is stale; drop what has no source."""
        super().run()
        for leftover in set(self.folder.glob("*.bpf.o")) - set(self.targets().values()):
            leftover.unlink()


class BuildClient(BuildFiles):
    """Compile ``userspace/client`` to a shared and a static library, beside their header."""

    description = "compile the C client library"
    objects = CLIENT_OBJECTS

    def run(self) -> None:
        """Make both libraries where any source is newer."""
        self.folder.mkdir(parents=True, exist_ok=True)
        inputs = [*CLIENT.glob("*.[ch]"), Path(__file__)]
        if not any(is_stale(Path(target), inputs) for target in self.get_outputs()):
            return
        shared, static, header = map(Path, self.get_outputs())
        with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
            made = []
            for source in sorted(CLIENT.glob("*.c")):
                made.append(str(Path(scratch, source.with_suffix(".o").name)))
                self._call("gcc", *CLIENT_CFLAGS, "-c", str(source), "-o", made[-1])
            fresh = [str(Path(scratch, path.name)) for path in (shared, static)]
            self._call("gcc", "-shared", f"-Wl,-soname,{CLIENT_SONAME}", *made, "-o", fresh[0])
            self._call("ar", "rcs", fresh[1], *made)
            Path(fresh[0]).rename(shared)
            Path(fresh[1]).rename(static)
        shutil.copyfile(CLIENT / header.name, header)

    def _call(self, *command: str) -> None:
        self.announce(" ".join(command), level=2)
        subprocess.run(command, check=True)

    def get_outputs(self) -> list[str]:
        """Return the paths of libraries and header (part of setuptools' protocol)."""
        return [str(self.folder / name) for name in (CLIENT_SONAME, CLIENT_STATIC, CLIENT_HEADER)]

    def get_source_files(self) -> list[str]:
        """Return the sources, for the sdist."""
        return sorted(str(path.relative_to(ROOT)) for path in CLIENT.glob("*.[ch]"))


class BuildBench(BuildEach):
    """Compile every ``userspace/bench/NAME.c`` to ``prl/bench/bin/prl-NAME``."""

    description = "compile the programs of the bench"
    objects = BENCH_PROGRAMS
    folder_of_sources = BENCH_SOURCES
    pattern = "*.c"
    command = staticmethod(bench_compile_command)

    @staticmethod
    def name_of(source: Path) -> str:
        """Return what the program is called."""
        return f"prl-{source.stem}"


class BuildExt(build_ext):
    """``build_ext`` that compiles an in-tree extension only when its sources changed."""

    def finalize_options(self) -> None:
        """Remember where the result is wanted: setuptools resets ``inplace`` while it builds."""
        super().finalize_options()
        self.wanted_in_tree = bool(self.inplace)

    def build_extensions(self) -> None:
        """Compile as many files at a time as there are processors: setuptools has one way each."""
        in_turn = self.compiler.compile

        def at_once(sources: list[str], **how: Any) -> list[str]:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                made = list(pool.map(lambda source: in_turn([source], **how), sources))
            return [name for names in made for name in names]

        self.compiler.compile = at_once
        super().build_extensions()

    def build_extension(self, ext: Extension) -> None:
        """Compile ``ext``, or take the one in the tree when it is newer than ``ext.depends``."""
        built = Path(self.get_ext_fullpath(ext.name))
        in_tree = ROOT / "prl" / built.name
        wanted_in_tree = self.wanted_in_tree or self.editable_mode
        if wanted_in_tree and not is_stale(in_tree, [ROOT / name for name in ext.depends]):
            built.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(in_tree, built)
        else:
            super().build_extension(ext)


class Build(build):
    """``build``, with what else is made from the C sources first."""

    sub_commands: ClassVar = [
        ("build_facts", None),
        ("build_bpf", None),
        ("build_client", None),
        ("build_bench", None),
        *build.sub_commands,
    ]


if __name__ == "__main__":
    api = ROOT / "userspace/cffi_api.h"
    setup(
        cffi_modules=["userspace/build_ffi.py:ffibuilder"] if api.exists() else [],
        cmdclass={
            "build": Build,
            "build_facts": BuildFacts,
            "build_bpf": BuildBpf,
            "build_client": BuildClient,
            "build_bench": BuildBench,
            "build_ext": BuildExt,
        },
    )
