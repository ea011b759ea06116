"""The configuration of prl-bgp is checked where it comes in."""

from ipaddress import IPv4Address
from pathlib import Path

import pytest

from prl.bgpfront.config import PEERS_MAX, Config, Peer, load, parse
from prl.errors import ConfigError

PEER = '[[peer]]\naddress = "192.0.2.1"\nlocal = "192.0.2.100"\n'
GOOD = 'user = "nobody"\n' + PEER


def test_what_is_needed_is_enough() -> None:
    peer = Peer(address=IPv4Address("192.0.2.1"), local=IPv4Address("192.0.2.100"))
    assert parse(GOOD) == Config(user="nobody", peer=[peer])
    assert parse(GOOD).uid() > 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("user = ", "is not TOML"),
        (PEER, "missing required field `user`"),
        ('user = "x"\n', "missing required field `peer`"),
        ('user = "x"\npeer = []\n', "length >= 1"),
        (GOOD + "[[peer]]\n", "missing required field"),
        (GOOD + PEER, "192.0.2.1 is there twice"),
        (GOOD.replace("2.100", "2.1"), "is the peer"),
        (GOOD.replace('192.0.2.1"', 'x"'), "is not an IP address"),
        (GOOD.replace('"192.0.2.1"', "1"), "in quotes"),
        (GOOD.replace('"192.0.2.1"', '"2001:db8::1"'), "IPv6 are not supported yet"),
        (GOOD.replace('"192.0.2.1"', '"224.0.0.1"'), "unicast"),
        ("table = 254\n" + GOOD, "one of the host's own"),
        ("table = 0\n" + GOOD, "table"),
        ("channel_port = 70000\n" + GOOD, "channel_port"),
        ('socket = "relative"\n' + GOOD, "socket"),
        ("routes_max = 0\n" + GOOD, "routes_max"),
        ("daemon_return_s = 0.1\n" + GOOD, "daemon_return_s"),
        ("extra = 1\n" + GOOD, "extra"),
        (GOOD + "md5 = 1\n", "md5"),
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
