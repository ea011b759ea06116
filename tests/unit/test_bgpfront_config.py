"""The configuration of prl-bgp is checked where it comes in."""

import re
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from prl.bgpfront.config import PEERS_MAX, Config, Peer, errors, keys, load, parse
from prl.bgpfront.session import ABSORBED
from prl.errors import ConfigError

DOCS = Path(__file__).parents[2] / "docs/bgp.md"
PEER = '[[peer]]\naddress = "192.0.2.1"\nlocal = "192.0.2.100"\n'
GOOD = 'user = "nobody"\n' + PEER


def test_what_is_needed_is_enough() -> None:
    peer = Peer(address=IPv4Address("192.0.2.1"), local=IPv4Address("192.0.2.100"))
    assert parse(GOOD) == Config(user="nobody", peer=[peer])
    assert parse(GOOD).uid() > 0
    assert errors(parse(GOOD)) == ABSORBED
    assert errors(parse('absorb = ["6/2", "4/0"]\n' + GOOD)) == {(6, 2), (4, 0)}
    assert errors(parse("absorb = []\n" + GOOD)) == frozenset()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("user = ", "is not TOML"),
        (PEER, "user: is missing; give string: the user"),
        ('user = "x"\n', "peer: is missing"),
        ('user = "x"\npeer = []\n', "length >= 1"),
        (GOOD + "[[peer]]\n", "peer[1].address: is missing; give IPv4 or IPv6 address"),
        (GOOD + PEER, "192.0.2.1 is there twice"),
        (GOOD.replace("2.100", "2.1"), "is the peer"),
        (GOOD.replace('192.0.2.1"', 'x"'), "is not an IP address"),
        (GOOD.replace('"192.0.2.1"', "1"), "in quotes"),
        (GOOD.replace('"192.0.2.1"', '"2001:db8::1"'), "of another IP version"),
        (GOOD.replace("192.0.2.100", "2001:db8::2").replace("192.0.2.1", "fe80::1"), "link-local"),
        (GOOD.replace('"192.0.2.1"', '"127.0.0.1"'), "is this host"),
        (GOOD.replace('"192.0.2.1"', '"224.0.0.1"'), "unicast"),
        ("table = 254\n" + GOOD, "one of the host's own"),
        ("table = 0\n" + GOOD, "table"),
        ("channel_port = 70000\n" + GOOD, "channel_port"),
        ('socket = "relative"\n' + GOOD, "socket"),
        ('absorb = ["6"]\n' + GOOD, "absorb"),
        ("absorb = [6]\n" + GOOD, "absorb"),
        ("routes_max = 0\n" + GOOD, "routes_max"),
        ("daemon_return_s = 0.1\n" + GOOD, "daemon_return_s"),
        ("extra = 1\n" + GOOD, "extra"),
        (GOOD + "md5 = 1\n", "md5: no such key; remove it, or use one of: address, local"),
        (GOOD + 'md5_key = "here"\n', "md5_key"),
        (GOOD + "ttl_security_hops = 255\n", "ttl_security_hops"),
    ],
)
def test_what_is_wrong_is_named(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_too_many_peers() -> None:
    peers = "".join(
        PEER.replace('2.1"', f'{n >> 8}.{n & 255}"') for n in range(300, 301 + PEERS_MAX)
    )
    with pytest.raises(ConfigError):
        parse('user = "nobody"\n' + peers)


def test_the_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bgp.toml"
    with pytest.raises(ConfigError, match="cannot be read"):
        load(path)
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(path)
    path.write_text("user = 1\n")
    with pytest.raises(ConfigError, match=f"^{path}: "):
        load(path)
    path.write_text(GOOD)
    assert load(path) == parse(GOOD)


@pytest.mark.parametrize(("user", "words"), [("root", "everybody"), ("no such user", "no user")])
def test_the_daemons_user(user: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse(GOOD.replace("nobody", user)).uid()


def test_a_key_is_read_where_nobody_else_can(tmp_path: Path) -> None:
    file = tmp_path / "key"
    peer = parse(GOOD + f'md5_key = "{file}"\n').peer[0]
    with pytest.raises(ConfigError, match=r"No such file.*write the peer's key there"):
        peer.key()
    file.write_text("secret\n")
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="others than its owner"):
        peer.key()
    file.chmod(0o600)
    assert peer.key() == b"secret"
    for wrong in ("\n", "x" * 81):
        file.write_text(wrong)
        with pytest.raises(ConfigError, match="1 to 80"):
            peer.key()
    assert parse(GOOD).peer[0].key() == b""


def test_the_documentation_is_the_schema() -> None:
    rows = re.findall(
        r"^\| `(?!prl_)([^`]+)` \| (.*?) \| (.*?) \| (.*?) \|$", DOCS.read_text(), re.MULTILINE
    )
    assert rows == [(key.path, key.kind, key.default, key.description) for key in keys()]


def test_the_example_in_the_documentation_is_good() -> None:
    for example in re.findall(r"```toml\n(.*?)```", DOCS.read_text(), re.DOTALL):
        assert parse(example)
