"""prl.config: the schema, its messages, and its documentation."""

import re
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from prl import config
from prl.doctor import Verdict
from prl.doctor import configuration as doctor_configuration
from prl.errors import ConfigError

DOCS = Path(__file__).parents[2] / "docs/configuration.md"
GOOD = """
node = "re0"
instance = "prl-re0"
index = 0
socket = "/run/prl/prl/re0.sock"
mode = "native"
[lan]
interface = "lan0"
address = "192.0.2.10"
peer_address = "192.0.2.11"
address6 = "2001:db8:0:1::10"
peer_address6 = "2001:db8:0:1::11"
[link]
interface = "link0"
local = "198.51.100.10"
remote = "198.51.100.11"
[[service]]
name = "lab"
addresses = ["192.0.2.100", "2001:db8:0:1::100"]
owner = "re0"
"""
MIRROR_ON_LAN = 'mode = "mirror"\n[lan]\ninterface = "link0"'


def error_of(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        config.parse(text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_good_file_is_understood_with_its_defaults() -> None:
    found = config.parse(GOOD)

    assert found.service[0].addresses == [
        IPv4Address("192.0.2.100"),
        IPv6Address("2001:db8:0:1::100"),
    ]
    assert (found.flows_max, found.policy, found.link.port) == (16384, "continue", 7077)
    assert (found.timing.lease_ms, found.timing.hold_ms, found.timing.setup_ms) == (20, 400, 100)
    assert found.owns_first(found.service[0])


@pytest.mark.parametrize(
    ("old", "new", "key", "what"),
    [
        ('node = "re0"', "", "node", "is missing"),
        ("index = 0", "index = 2", "index", "<= 1"),
        ('"lan0"', '"lan0"\nwitnesses = ["192.0.2.11"]', "lan.witnesses", "the pair's own"),
        ('"lan0"', '"lan0"\nwitnesses = ["192.0.2.100"]', "lan.witnesses", "the pair's own"),
        ('"lan0"', '"lan0"\nwitnesses = ["192.0.2.1", "192.0.2.1"]', "lan.witnesses", "twice"),
        ('"lan0"', '"lan0"\nwitnesses = ["::1", "::2", "::3", "::4", "::5"]', "lan.witnesses", "5"),
        ("index = 0", 'index = "0"', "index", "Expected `int`"),
        ("index = 0", "index = 0\nfoo = 1", "foo", "no such key"),
        ('"lan0"', '"lan0"\nfoo = 1', "lan.foo", "no such key"),
        ('"lan0"', '"a name that is too long"', "lan.interface", "give string"),
        ('"192.0.2.10"', '"192.0.2.300"', "lan.address", "not an IP address"),
        ('"192.0.2.10"', '"2001:db8::1"', "lan.address", "IP version"),
        ('"192.0.2.10"', "1", "lan.address", "in quotes"),
        ('"192.0.2.100"', '"224.0.0.1"', "service[0].addresses[0]", "unicast"),
        ('"native"', '"fast"', "mode", '"native" or "generic"'),
        ('"native"', '"mirror"\nnack = "retry"', "nack", "mirror"),
        ('mode = "native"\n[lan]\ninterface = "lan0"', MIRROR_ON_LAN, "mode", "of the pair's own"),
        ('"/run/prl/prl/re0.sock"', '"re0.sock"', "socket", "path of the control socket"),
        ('"192.0.2.11"', '"192.0.2.10"', "lan.peer_address", "this node's own"),
        ('"192.0.2.100", "2001', '"192.0.2.10", "2001', "service.addresses", "own address"),
        ('"198.51.100.11"', '"2001:db8::1"', "link.remote", "IP version"),
        ("[link]", "[link", "is not TOML", "line"),
        ("[link]", "[timing]\nlease_ms = 60\n[link]", "timing.suspect_ms", "twice"),
        ("[link]", "[timing]\nhold_ms = 300\n[link]", "timing.hold_ms", "two nodes"),
        ("[link]", "[timing]\nlease_ms = 0\n[link]", "timing.lease_ms", ">= 1"),
        ("[link]", '[datapath]\npolling = "hard"\n[link]', "datapath.polling", '"adaptive"'),
        ("[[service]]", "[service]", "service", "array"),
    ],
)
def test_an_error_names_the_key_and_the_remedy(old: str, new: str, key: str, what: str) -> None:
    assert old in GOOD

    message = error_of(GOOD.replace(old, new, 1))

    assert message.startswith(key)
    assert what in message
    assert ";" in message or ": must" in message or "correct" in message


@pytest.mark.parametrize(
    ("timing", "probe_ms"),
    [
        ("", 10),
        ("suspect_ms = 30\nlease_ms = 10", 0),
        ("suspect_ms = 400\ntakeover_ms = 900\nhold_ms = 1000", 0),
        ("suspect_ms = 400\ntakeover_ms = 900\nhold_ms = 1000\nhung_ms = 500", 10),
        ("dead_ms = 20", 0),
    ],
)
def test_a_pair_whose_timing_leaves_no_room_for_probes_has_none(timing: str, probe_ms: int) -> None:
    """Unless they are asked for; it was set up when there were none by default."""
    text = GOOD.replace("[link]", f"[timing]\n{timing}\n[link]", 1)
    assert config.parse(text).timing.probe_ms == probe_ms
    if not probe_ms:
        assert "must be greater than" in error_of(text.replace("[timing]", "[timing]\nprobe_ms=10"))


def test_addresses_and_names_are_used_once() -> None:
    again = GOOD + '[[service]]\nname = "lab"\naddresses = ["192.0.2.101"]\nowner = "re0"\n'
    assert "service.name: 'lab' is used twice" in error_of(again)
    other = GOOD + '[[service]]\nname = "two"\naddresses = ["192.0.2.100"]\nowner = "re0"\n'
    assert "192.0.2.100 is used twice" in error_of(other)


ROUTING = """
[[routing]]
name = "blue"
interface = "lan1"
[[service]]
name = "two"
addresses = ["192.0.2.100", "192.0.2.10"]
owner = "re1"
instance = "blue"
"""


def test_connections_wait_by_service_also_where_its_address_is_in_two_instances() -> None:
    birth = "birth_ms = 100\n"
    assert config.parse(GOOD + birth).service[0].birth_ms == 100
    found = config.parse(GOOD + birth + ROUTING + "birth_ms = 70\n").service
    assert [service.birth_ms for service in found] == [100, 70]


def test_routing_instances_may_have_the_same_addresses() -> None:
    found = config.parse(GOOD + ROUTING)
    assert found.lifs == {"": 0, "blue": 1}
    assert found.interfaces == ["lan0", "lan1"]
    assert found.service[0].addresses[0] == found.service[1].addresses[0]


@pytest.mark.parametrize(
    ("old", "new", "key", "what"),
    [
        ('instance = "blue"', 'instance = "red"', "service.instance", "no [[routing]]"),
        ('instance = "blue"', "", "service.addresses", "used twice"),
        ('"lan1"', '"lan0"', "routing.interface", "used twice"),
        ("[[service]]", '[[routing]]\nname="blue"\ninterface="x"\n[[service]]', "routing.name", ""),
        ('name = "blue"', "", "routing[0].name", "missing"),
    ],
)
def test_routing_instances_are_checked(old: str, new: str, key: str, what: str) -> None:
    message = error_of(GOOD + ROUTING.replace(old, new))
    assert message.startswith(key)
    assert what in message


def test_a_message_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "prld.toml"
    with pytest.raises(ConfigError, match=rf"{path}: cannot be read: .*--config"):
        config.load(path)
    path.write_text("index = 3")
    with pytest.raises(ConfigError, match=rf"{path}: index: "):
        config.load(path)
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="UTF-8"):
        config.load(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        config.load(tmp_path)


def test_a_key_that_goes_is_warned_of_and_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("policy", "timing.retry_ms", "service.instance", "lan.heartbeat_port"):
        going = config.Deprecation("0.2.0", f"write {key}2 instead")
        monkeypatch.setitem(config.DEPRECATED, key, going)
    path = tmp_path / "prld.toml"
    path.write_text(f'policy = "stop"\n{GOOD}instance = ""\n[timing]\nretry_ms = 30\n')
    found = config.load(path)
    assert (found.policy, found.timing.retry_ms) == ("stop", 30)
    said = config.deprecations(path)
    assert [words.split(": ")[1] for words in said] == [
        "policy",
        "timing.retry_ms",
        "service.instance",
    ]
    assert said[0].endswith(
        "deprecated since 0.2.0, and gone in the next version; write policy2 instead"
    )
    _, finding = doctor_configuration.load(path)
    assert (finding.verdict, finding.found) == (Verdict.NOTE, "; ".join(said))


def test_a_key_that_has_gone_is_refused_with_what_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = config.Deprecation("0.2.0", "give timing.hold_ms")
    monkeypatch.setitem(config.DEPRECATED, "timing.patience_ms", gone)
    said = error_of(GOOD + "[timing]\npatience_ms = 3\n")
    assert (
        said == "timing.patience_ms: no such key any more, as told since 0.2.0; give timing.hold_ms"
    )


def test_what_is_deprecated_was_so_in_a_version_that_there_is() -> None:
    changes = (DOCS.parents[1] / "CHANGELOG.md").read_text()
    for since, remedy in config.DEPRECATED.values():
        assert f"\n## [{since}]" in changes
        assert remedy


def test_the_documentation_is_the_schema() -> None:
    rows = re.findall(
        r"^\| `([^`]+)` \| (.*?) \| (.*?) \| (.*?) \|$", DOCS.read_text(), re.MULTILINE
    )

    assert rows == [(key.path, key.kind, key.default, key.description) for key in config.schema()]


def test_the_example_in_the_documentation_is_good() -> None:
    example, more = re.findall(r"```toml\n(.*?)```", DOCS.read_text(), re.DOTALL)

    assert config.parse(example).node == "re0"
    assert config.parse(example + more).interfaces == ["lan0", "lan1"]
