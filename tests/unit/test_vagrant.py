import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from prl.config import Timing

VAGRANT = Path(__file__).resolve().parents[2] / "vagrant"


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=VAGRANT,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.needs("ruby")
def test_the_vagrantfile_is_ruby() -> None:
    done = run("ruby", "-c", "Vagrantfile")
    assert done.returncode == 0, done.stderr


def vagrant(scratch: Path, *arguments: str, provider: str) -> subprocess.CompletedProcess[str]:
    """Run vagrant with its own state under ``scratch``."""
    return run(
        *("vagrant", *arguments),
        VAGRANT_HOME=str(scratch / "home"),
        VAGRANT_DOTFILE_PATH=str(scratch / "dot"),
        PRL_PROVIDER=provider,
    )


@pytest.mark.needs("vagrant_libvirt")
def test_vagrant_accepts_the_file(tmp_path: Path) -> None:
    done = vagrant(tmp_path, "validate", provider="libvirt")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.needs("vagrant_libvirt")
def test_it_describes_the_three_machines(tmp_path: Path) -> None:
    done = vagrant(tmp_path, "status", "--machine-readable", provider="libvirt")
    machines = re.findall(r"^\d+,(\w+),metadata,provider,libvirt$", done.stdout, re.MULTILINE)
    assert machines == ["re0", "re1", "peer"], done.stdout + done.stderr


@pytest.mark.needs("vagrant")
def test_the_provider_comes_from_outside(tmp_path: Path) -> None:
    done = vagrant(tmp_path, "validate", provider="nowhere")
    assert done.returncode != 0
    assert "nowhere" in done.stderr


@pytest.mark.parametrize("script", ["provision.sh", "box.sh"])
def test_the_scripts_are_bash(script: str) -> None:
    done = run("bash", "-n", script)
    assert done.returncode == 0, done.stderr
    assert os.access(VAGRANT / script, os.X_OK)


def test_an_emulated_machine_has_ten_times_the_deadlines() -> None:
    """The first table of provision.sh is what it appends to a configuration."""
    script = (VAGRANT / "provision.sh").read_text()
    table = re.search(r"<<'TOML'\n(.*?)^TOML$", script, re.DOTALL | re.MULTILINE)
    assert table is not None
    fields = Timing.__struct_fields__
    assert tomllib.loads(table[1]) == {
        "timing": {name: 10 * getattr(Timing(), name) for name in fields}
    }


def test_every_machine_can_be_provisioned() -> None:
    names = re.findall(r'^  "(\w+)" => ', (VAGRANT / "Vagrantfile").read_text(), re.MULTILINE)
    provisioned = re.findall(r"\b(\w+)\) lan=", (VAGRANT / "provision.sh").read_text())
    assert names == provisioned == ["re0", "re1", "peer"]
