"""prlctl support-bundle: what is in it, what must not be, and its bounds."""

import json
import os
import socket
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from prl import config
from prl.cli import main as program
from prl.support import bundle, parts
from prl.support.bundle import MANIFEST, Bundle

SECRETS = (
    "hunter2-of-the-fence",
    'quo"ted-secret',
    "comment-secret",
    "unknown-secret",
    "0badcafe-",
)
CONFIG = f"""
node = "re0" # {SECRETS[2]}
instance = "re0"
[lan]
interface = "lan0"
[[service]]
name = "lab"
addresses = ["192.0.2.100"]
[ownership]
fence_command = ["/usr/sbin/fence_it", "--password={SECRETS[0]}", '{SECRETS[1]}']
[later]
token = "{SECRETS[3]}"
"""

PRLCTL = parts._prlctl
Plant = Callable[[str, str], None]


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plant:
    """Makes a program; no other is to be found, but for a shell and what it needs."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for needed in ("cat", "sleep", "yes"):
        (folder / needed).symlink_to(f"/usr/bin/{needed}")
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(bundle, "_ROOTS_PATH", "")
    monkeypatch.setattr(parts, "_prlctl", lambda *_: ("cat", os.devnull))

    def make(name: str, script: str) -> None:
        path = folder / name
        path.unlink(missing_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    return make


@pytest.fixture
def with_prlctl(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prlctl is itself, too: it takes seconds on a busy machine."""
    monkeypatch.setattr(parts, "_prlctl", PRLCTL)
    plant("nft", "echo table inet filter")


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    path = tmp_path / "prld.toml"
    path.write_text(CONFIG)
    return path


def contents(path: Path) -> dict[str, bytes]:
    """The parts by their names, without the folder that they are in."""
    found = {}
    with tarfile.open(path) as tar:
        for entry in tar:
            file = tar.extractfile(entry)
            assert file is not None
            found[entry.name.partition("/")[2]] = file.read()
    return found


def troubles(found: dict[str, bytes]) -> dict[str, str]:
    return {one["name"]: one["trouble"] for one in json.loads(found[MANIFEST])["parts"]}


@pytest.mark.usefixtures("with_prlctl")
def test_without_prld_it_has_all_the_rest(
    tmp_path: Path, configuration: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "b.tar.gz"
    argv = ["--socket", str(tmp_path / "none"), "-j", "support-bundle", str(target)]
    assert program.main([*argv, "--config", str(configuration)]) == 0
    facts = json.loads(capsys.readouterr().out)
    found = contents(target)
    assert facts["file"] == str(target)
    assert b"no prld answers" in found["prld/status.json"]
    assert troubles(found)["prld/status.json"] == "exit status 4"
    assert troubles(found)["net/link.txt"].startswith("not run: ")
    assert found["firewall/nftables.txt"] == b"table inet filter\n"
    assert json.loads(found["doctor.json"])["checks"]
    assert b"prl==" in found["versions/python.txt"]
    assert target.stat().st_mode & 0o777 == 0o600
    assert {part["name"] for part in facts["parts"]} == set(found) - {MANIFEST}


def test_it_has_the_front_where_there_is_one(tmp_path: Path) -> None:
    front = tmp_path / "bgp.toml"
    names = {part.name for part in parts.of_host(tmp_path / "prld.toml", [], front)}
    assert not any(name.startswith("front/") for name in names)
    front.write_text("")
    found = {part.name: part.argv for part in parts.of_host(tmp_path / "prld.toml", [], front)}
    assert found["front/status.json"][-2:] == ("bgp", "status")
    assert found["front/bgp.toml"] == ("cat", str(front))
    assert "prl-bgp.service" in found["front/log.txt"]


def test_a_file_that_is_there_is_left_alone(
    tmp_path: Path, configuration: Path, plant: Plant, capsys: pytest.CaptureFixture[str]
) -> None:
    plant("nft", "echo")
    target = tmp_path / "b.tar.gz"
    target.write_text("mine")
    argv = ["support-bundle", str(target), "--config", str(configuration)]
    assert program.main(argv) == 1
    assert "File exists" in capsys.readouterr().err
    assert target.read_text() == "mine"


def test_secrets_are_not_in_it_wherever_they_turn_up(
    tmp_path: Path, configuration: Path, plant: Plant
) -> None:
    plant("nft", f"echo 'comment {SECRETS[0]}'; echo '{json.dumps(SECRETS[1])}' >&2; exit 1")
    plant("ip", f"echo {SECRETS[3]}")
    plant(
        "sysctl",
        f"echo 'net.ipv4.tcp_fastopen_key = {SECRETS[4]}1'; echo 'net.ipv4.tcp_sack = 1'; "
        f"echo 'net.ipv6.conf.lan0.stable_secret = {SECRETS[4]}2'",
    )
    theirs = {"name": "theirs", "map_ids": [1]}
    ours = {"name": "prl_classify", "map_ids": [2]}
    plant("bpftool", f"echo '{json.dumps([theirs, ours])}'")
    target = tmp_path / "b.tar.gz"
    Bundle(tmp_path / "none", configuration).write(target)
    found = contents(target)
    for name, content in found.items():
        for secret in SECRETS:
            assert secret.encode() not in content, name
            assert json.dumps(secret)[1:-1].encode() not in content, name
    assert json.loads(found["config.json"])["ownership"] == [
        {"fence_command": ["/usr/sbin/fence_it", "(removed)", "(removed)"]}
    ]
    assert json.loads(found["config.json"])["later"] == "(removed)"
    assert json.loads(found["config.json"])["service"][0]["addresses"] == ["192.0.2.100"]
    assert b"comment (removed)" in found["firewall/nftables.txt"]
    assert b"tcp_sack = 1" in found["host/sysctl.txt"]
    assert json.loads(found["bpf/programs.json"]) == [ours]


def test_a_configuration_that_is_no_toml_is_not_quoted(tmp_path: Path, plant: Plant) -> None:
    plant("nft", "echo")
    path = tmp_path / "prld.toml"
    path.write_text(f'[ownership]\nfence_command = ["/x", "{SECRETS[0]}]\n')
    target = tmp_path / "b.tar.gz"
    Bundle(tmp_path / "none", path).write(target)
    found = contents(target)
    assert "is not TOML" in troubles(found)["config.json"]
    assert all(SECRETS[0].encode() not in content for content in found.values())


def test_a_program_that_hangs_and_one_without_end_are_cut_short(
    tmp_path: Path, configuration: Path, plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant("nft", "echo first; sleep 1000 & sleep 1000")
    plant("tc", "yes 0123456789")
    monkeypatch.setattr(bundle, "PART_BYTES_MAX", 1000)
    monkeypatch.setattr(parts, "INTERFACES_MAX", 0)
    made = Bundle(tmp_path / "none", configuration, part_s=0.5)
    made.write(tmp_path / "b.tar.gz")
    found = contents(tmp_path / "b.tar.gz")
    assert found["firewall/nftables.txt"] == b"first\n"
    assert troubles(found)["firewall/nftables.txt"] == "killed after 0.5 s"
    qdisc = found["net/qdisc.txt"]
    assert 0 < len(qdisc) <= 1000
    assert set(qdisc.splitlines()[:-1]) == {b"0123456789"}
    assert "bytes are left out" in troubles(found)["net/qdisc.txt"]


def test_all_is_bounded_in_size_and_time(
    tmp_path: Path, configuration: Path, plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant("nft", "yes 0123456789")
    none = Bundle(tmp_path / "none", configuration, bundle_s=0.0)
    none.write(tmp_path / "none.tar.gz")
    found = contents(tmp_path / "none.tar.gz")
    assert troubles(found)["firewall/nftables.txt"] == "left out: the bundle took too long"
    assert json.loads(found["config.json"])["node"] == "re0"

    monkeypatch.setattr(bundle, "BUNDLE_BYTES_MAX", 100)
    Bundle(tmp_path / "none", configuration, part_s=0.5).write(tmp_path / "full.tar.gz")
    found = contents(tmp_path / "full.tar.gz")
    assert any("bytes are left out" in why for why in troubles(found).values())
    assert troubles(found)["log/kernel.txt"] == "left out: the bundle is full"
    assert sum(len(content) for name, content in found.items() if "/" in name) <= 100


@pytest.fixture
def deaf(tmp_path: Path) -> Iterator[Path]:
    """A prld that never answers."""
    path = tmp_path / "prld.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen()
        yield path


@pytest.mark.usefixtures("with_prlctl")
def test_a_prld_that_hangs_is_asked_once(deaf: Path, tmp_path: Path, configuration: Path) -> None:
    Bundle(deaf, configuration, part_s=3.0).write(tmp_path / "b.tar.gz")
    found = contents(tmp_path / "b.tar.gz")
    assert troubles(found)["prld/status.json"] == "killed after 3 s"
    assert troubles(found)["prld/events.json"] == "left out: prld does not answer"
    assert found["firewall/nftables.txt"] == b"table inet filter\n"


def test_every_key_that_could_hold_a_secret_is_marked() -> None:
    """A command's arguments, and whatever is called a key or the like."""
    for key in config.schema():
        is_command = key.kind == "list of strings" and key.path != "arbiter.endpoints"
        may_hold = is_command or any(
            word in key.path for word in ("secret", "password", "token", "passphrase")
        )
        assert key.secret == may_hold, f"{key.path}: is it a secret? prl.config.SECRET marks it"
