"""prlctl init: what it finds, what it asks for, and the two files."""

import json
from collections.abc import Sequence
from ipaddress import ip_address, ip_interface
from pathlib import Path

import pytest

from prl import config
from prl.cli import init as command
from prl.cli import main as program
from prl.config import link_key
from prl.errors import ConfigError, UsageError
from prl.init import Given, Pair, Plan
from prl.init.networks import Address, Interface

LAN = Interface("eth0", 1500, (ip_interface("192.0.2.10/24"), ip_interface("2001:db8::10/64")))
LINK = Interface("eth1", 1500, (ip_interface("198.51.100.10/24"),))
CABLE = Interface("eth1", 9000, (ip_interface("198.51.100.10/30"),))
NAMES = {"re1": ["192.0.2.11", "2001:db8::11", "198.51.100.11"]}


class FakeKernel:
    def __init__(self, *interfaces: Interface) -> None:
        self.found = list(interfaces)
        self.seen: dict[str, list[Address]] = {}
        self.silent: set[Address] = set()
        self.taken: set[Address] = set()

    def close(self) -> None:
        pass

    def interfaces(self) -> list[Interface]:
        return self.found

    def neighbours(self, interface: str) -> list[Address]:
        return self.seen.get(interface, [])

    def way_to(self, address: Address) -> str:
        return next((one.name for one in self.found if one.facing(address)), "")

    def answering(self, _: str, addresses: Sequence[Address]) -> set[Address]:
        service = ip_address("192.0.2.100")
        others = {one for one in addresses if one != service} - self.silent
        return others | (self.taken & set(addresses))


def resolve(name: str) -> list[Address]:
    return [ip_address(text) for text in NAMES.get(name, [])]


def given(**changes: object) -> Given:
    said: dict[str, object] = {"name": "re0", "addresses": (ip_address("192.0.2.100"),)}
    return Given(**(said | changes))  # type: ignore[arg-type]


def files_of(pair: Pair) -> tuple[config.Config, config.Config]:
    return config.parse(pair.file(0)), config.parse(pair.file(1))


def test_a_name_that_resolves_is_enough() -> None:
    plan = Plan(given(other="re1"), FakeKernel(LAN, LINK), resolve)

    own, other = files_of(plan.pair())

    assert (own.node, own.index, other.node, other.index) == ("re0", 0, "re1", 1)
    assert (own.lan.interface, own.link.interface) == ("eth0", "eth1")
    assert (str(own.lan.address), str(own.lan.peer_address)) == ("192.0.2.10", "192.0.2.11")
    assert (str(own.lan.address6), str(own.lan.peer_address6)) == ("2001:db8::10", "2001:db8::11")
    assert (str(own.link.local), str(own.link.remote)) == ("198.51.100.10", "198.51.100.11")
    assert (own.lan.address, own.lan.address6) == (other.lan.peer_address, other.lan.peer_address6)
    assert (own.link.local, own.link.remote) == (other.link.remote, other.link.local)
    assert own.service == other.service
    assert own.owns_first(own.service[0])
    assert own.socket == "/run/prl/prld.sock"
    assert plan.warnings == []
    assert any("eth0: 192.0.2.100 is in its network" in words for words in plan.assumed)


def test_a_cable_of_two_has_one_other_end() -> None:
    said = given(other="b", other_lan=(ip_address("192.0.2.11"),), other_owns=True)
    own, _ = files_of(Plan(said, FakeKernel(LAN, CABLE), resolve).pair())
    assert str(own.link.remote) == "198.51.100.9"
    assert own.service[0].owner == "b"


def test_the_only_neighbour_on_the_link_is_the_other_node() -> None:
    kernel = FakeKernel(LAN, LINK)
    kernel.seen["eth1"] = [ip_address("198.51.100.77"), ip_address("fe80::1")]
    said = given(other="b", other_lan=(ip_address("192.0.2.11"),))
    own, _ = files_of(Plan(said, kernel, resolve).pair())
    assert str(own.link.remote) == "198.51.100.77"


def test_with_one_interface_the_link_goes_over_the_lan() -> None:
    plan = Plan(given(other="re1"), FakeKernel(LAN), resolve)
    own, _ = files_of(plan.pair())
    assert (own.link.interface, str(own.link.remote)) == ("eth0", "192.0.2.11")
    assert "fails with it" in plan.warnings[0]


@pytest.mark.parametrize(
    ("changes", "interfaces", "flag"),
    [
        ({}, (LAN, LINK), "--other"),
        ({"other": "b"}, (LAN, LINK), "--other-lan"),
        ({"other": "b", "other_lan": (ip_address("192.0.2.11"),)}, (LAN, LINK), "--other-link"),
        ({"other": "re1", "addresses": (ip_address("203.0.113.1"),)}, (LAN, LINK), "--lan"),
        (
            {"other": "b", "other_lan": (ip_address("192.0.2.11"),)},
            (LAN, LINK, Interface("eth2", 1500, (ip_interface("203.0.113.9/24"),))),
            "--link",
        ),
    ],
)
def test_what_cannot_be_found_is_asked_for(
    changes: dict[str, object], interfaces: tuple[Interface, ...], flag: str
) -> None:
    with pytest.raises(UsageError, match=rf"\? Say so with {flag}\b"):
        Plan(given(**changes), FakeKernel(*interfaces), resolve).pair()


def test_answers_of_a_person_count_as_options() -> None:
    answers = iter(["b", "192.0.2.11", "198.51.100.11"])
    own, _ = files_of(
        Plan(given(), FakeKernel(LAN, LINK), resolve, lambda *_: next(answers)).pair()
    )
    assert str(own.link.remote) == "198.51.100.11"


def test_what_is_amiss_is_said() -> None:
    kernel = FakeKernel(LAN, Interface("eth1", 1400, LINK.own))
    kernel.silent = {ip_address("198.51.100.11")}
    kernel.taken = {ip_address("192.0.2.100")}
    plan = Plan(given(other="re1"), kernel, resolve)
    plan.pair()
    words = "\n".join(plan.warnings)
    assert "198.51.100.11 does not answer on eth1" in words
    assert "somebody has 192.0.2.100" in words
    assert "MTU of eth1 is 1400" in words


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"other": "re0"}, "both nodes are called re0"),
        ({"other": "re1", "lan": "eth7"}, "--lan eth7: no such interface"),
        ({"other": "b", "other_lan": (ip_address("2001:db8::1"),)}, "--other-lan"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Plan(given(**changes), FakeKernel(LAN, LINK), resolve).pair()


def test_witnesses_are_written_for_both() -> None:
    names = (ip_address("192.0.2.1"), ip_address("2001:db8::1"))
    plan = Plan(given(other="re1", witnesses=names), FakeKernel(LAN, LINK), resolve)
    for one in files_of(plan.pair()):
        assert one.lan.witnesses == list(names)


def test_the_files_are_checked_before_they_are_written() -> None:
    pair = Plan(
        given(other="re1", addresses=(ip_address("192.0.2.11"),)), FakeKernel(LAN, LINK), resolve
    ).pair()
    with pytest.raises(ConfigError, match=r"service\.addresses: 192\.0\.2\.11 is a node's own"):
        pair.file(0)


@pytest.fixture
def _networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "Networks", lambda: FakeKernel(LAN, LINK))
    monkeypatch.setattr(command, "resolve", resolve)


@pytest.mark.usefixtures("_networks")
def test_files_are_written_and_not_replaced_unasked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, theirs = tmp_path / "etc" / "prld.toml", tmp_path / "re1.toml"
    line = ["-j", "init", "--name", "re0", "--other", "re1", "--service", "192.0.2.100"]
    line += ["--config", str(mine), "--peer-config", str(theirs)]

    assert program.main(line) == 0
    facts = json.loads(capsys.readouterr().out)

    assert facts["files"] == [mine.read_text(), theirs.read_text()]
    assert config.load(theirs).node == "re1"
    assert facts["nodes"][1]["address"] == "192.0.2.11"
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        *("etc", "link.key", "prld.toml", "re1.toml")
    ]
    key = Path(facts["link_key"])
    assert key == Path(config.load(mine).link.key) == mine.with_name("link.key")
    assert config.load(theirs).link.key == "/etc/prl/link.key"
    (secret,) = link_key.load(key)

    theirs.unlink()
    assert program.main(line) == 2
    assert "--force replaces it" in capsys.readouterr().err
    assert not theirs.exists()
    mine.write_text("")
    assert program.main([*line, "--force"]) == 0
    out, err = capsys.readouterr()
    assert link_key.load(key) == [secret], "the other node may have it"
    assert secret.hex() not in out + err
    assert config.load(mine).node == "re0"


@pytest.mark.usefixtures("_networks")
def test_one_file_that_cannot_be_written_leaves_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, folder = tmp_path / "prld.toml", tmp_path / "file"
    folder.touch()
    line = ["init", "--name", "re0", "--other", "re1", "--service", "192.0.2.100"]
    line += ["--config", str(mine), "--peer-config"]
    assert program.main([*line, str(folder / "re1.toml")]) == 1
    assert str(folder) in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [folder]
    assert program.main([*line, str(tmp_path / "re1.toml")]) == 0


def test_who_else_may_look_is_said() -> None:
    plan = Plan(given(other="re1", socket_group="prl"), FakeKernel(LAN, LINK), resolve)
    assert [each.socket_group for each in files_of(plan.pair())] == ["prl", "prl"]
    assert "members of group prl may look, on re1, too (socket_group)" in plan.assumed


@pytest.mark.usefixtures("_networks")
def test_the_other_s_file_goes_to_standard_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["init", "--name", "re0", "--other", "re1", "--service", "192.0.2.100"]
    assert program.main([*line, "--config", str(tmp_path / "prld.toml")]) == 0
    out, err = capsys.readouterr()
    assert config.parse(out).node == "re1"
    assert "assumed: peers are on eth0" in err


@pytest.mark.usefixtures("_networks")
def test_without_a_terminal_nobody_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["init", "--config", str(tmp_path / "prld.toml")]
    assert program.main(line) == 2
    assert "Say so with --service" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
