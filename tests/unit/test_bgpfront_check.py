"""A daemon's configuration, as a front needs it."""

from pathlib import Path

import pytest

from prl.bgpfront.check import Remark, check, compare, read
from prl.bgpfront.config import Config, parse
from prl.cli import main as program
from prl.errors import UsageError

FRR = """\
frr version 8.4.4
hostname re0
!
router bgp 65001
 bgp router-id 192.0.2.100
 bgp bestpath compare-routerid
 neighbor upstream peer-group
 neighbor upstream remote-as 65000
 neighbor upstream update-source 192.0.2.100
 neighbor 192.0.2.10 peer-group upstream
 neighbor 192.0.2.10 password secret
 neighbor 192.0.2.10 timers 3 9
 neighbor 192.0.2.10 ttl-security hops 1
exit
!
router bgp 65001 vrf red
 neighbor 192.0.2.11 remote-as 65000
exit
"""
BIRD = """\
log syslog all;   # as Debian has it
router id 192.0.2.100;
/* protocol bgp gone { neighbor 192.0.2.12 as 1; } */
template bgp peers {
  local 192.0.2.100 as 65001;
  hold time 9;
}
protocol bgp upstream from peers {
  neighbor 192.0.2.10 as 65000;
  direct;
  password "secret";
  ttl security on;
  ipv4 { import all; export where source = RTS_STATIC; };
}
"""
GOOD = {"frr": FRR, "bird": BIRD}
KINDS = pytest.mark.parametrize("kind", GOOD)
BFD = " neighbor upstream bfd\n neighbor upstream remote"
PEER = 'user = "nobody"\n[[peer]]\naddress = "192.0.2.10"\nlocal = "192.0.2.100"\n'


@pytest.fixture
def front(tmp_path: Path) -> Path:
    """Its bgp.toml."""
    key = tmp_path / "key"
    key.touch(mode=0o600)
    key.write_text("secret\n")
    made = tmp_path / "bgp.toml"
    made.write_text(f'{PEER}md5_key = "{key}"\nttl_security_hops = 1\n')
    return made


@pytest.fixture
def config(front: Path) -> Config:
    return parse(front.read_text())


def troubles(config: Config, text: str) -> list[Remark]:
    return [remark for remark in check(config, read(text)) if remark.remedy]


@KINDS
def test_what_is_good(kind: str, config: Config) -> None:
    assert troubles(config, GOOD[kind]) == []
    (neighbor,) = (n for a, n in read(GOOD[kind]).neighbors.items() if a == "192.0.2.10")
    assert (neighbor.hold_s, neighbor.is_secured, neighbor.source) == (9, True, "192.0.2.100")
    assert "secret" not in repr(neighbor)
    assert "192.0.2.11" not in read(GOOD[kind]).neighbors
    assert "192.0.2.12" not in read(GOOD[kind]).neighbors


@pytest.mark.parametrize(
    ("kind", "old", "new", "what", "needed"),
    [
        ("frr", " bgp router-id 192.0.2.100\n", "", "router id", True),
        ("bird", "router id 192.0.2.100;", "", "router id", True),
        ("frr", " bgp bestpath compare-routerid\n", "", "best paths", False),
        ("bird", "direct;", "prefer older;", "best paths", False),
        ("frr", "update-source 192.0.2.100", "update-source lan0", "source", True),
        ("bird", "local 192.0.2.100 as", "local as", "source", True),
        ("frr", "neighbor 192.0.2.10 ", "neighbor 192.0.2.13 ", "peer 192.0.2.10", True),
        ("bird", "neighbor 192.0.2.10 ", "neighbor 192.0.2.13 ", "peer 192.0.2.10", True),
        ("frr", " neighbor upstream remote", BFD, "BFD", False),
        ("bird", "direct;", "bfd { min rx interval 50 ms; };", "BFD", False),
        ("bird", "direct;", "bfd graceful;", "BFD", False),
        ("frr", "password secret", "password other", "MD5 key", True),
        ("frr", " neighbor 192.0.2.10 password secret\n", "", "MD5 key", True),
        ("bird", 'password "secret";', "", "MD5 key", True),
        ("frr", "timers 3 9", "timers 0 0", "hold time", False),
        ("bird", "hold time 9;", "hold time 0;", "hold time", False),
    ],
)
def test_what_is_not(
    kind: str, old: str, new: str, what: str, needed: bool, config: Config
) -> None:
    assert old in GOOD[kind]
    (found,) = troubles(config, GOOD[kind].replace(old, new))
    assert found.what.endswith(what)
    assert found.needed is needed
    assert "secret" not in str(found)


@KINDS
@pytest.mark.parametrize("is_passive", [True, False])
def test_who_connects_is_told(kind: str, is_passive: bool, config: Config) -> None:
    """The front does, to a daemon that is passive: that is no fault of it."""
    old, new = {"frr": (" timers 3 9", " passive"), "bird": ("direct;", "passive;")}[kind]
    text = GOOD[kind].replace(old, new) if is_passive else GOOD[kind]
    assert troubles(config, text) == []
    (found,) = (one for one in check(config, read(text)) if one.what.endswith("connects"))
    assert found.found.startswith("the front" if is_passive else "the daemon")


@KINDS
@pytest.mark.parametrize("word", ["passive off", "bfd no"])
def test_what_is_turned_off_is_off(kind: str, word: str, config: Config) -> None:
    if kind == "bird":
        assert troubles(config, BIRD.replace("direct;", f"{word};")) == []
    else:
        off = f" no neighbor 192.0.2.10 {word.split(maxsplit=1)[0]}\nexit\n"
        assert troubles(config, FRR.replace("exit\n", off, 1)) == []


def test_keys_and_hops_that_the_front_does_not_know(config: Config) -> None:
    found = [(one.what.rpartition(": ")[2], one.found) for one in troubles(parse(PEER), FRR)]
    assert found == [
        ("MD5 key", "only in the daemon's configuration"),
        ("TTL security", "of the daemon alone"),
    ]
    Path(config.peer[0].md5_key).unlink()
    (key,) = troubles(config, FRR)
    assert key.found == "cannot be read"


def test_two_nodes_are_compared_and_no_key_is_shown() -> None:
    other = FRR.replace("hostname re0", "hostname re1").replace("password secret", "password s2")
    (same,) = compare(FRR, other)
    assert (same.found, same.remedy) == ("are configured alike", "")
    more = "".join(f" more {n}\n" for n in range(30))
    found = list(compare(FRR, other.replace("timers 3 9", "timers 1 3") + more))
    assert [one.found for one in found if one.what == "only in the first file"] == [
        "neighbor 192.0.2.10 timers 3 9"
    ]
    assert found[-1].found == "11 more lines"
    assert "secret" not in str(found)


def test_what_is_no_bgp_daemons_is_refused() -> None:
    with pytest.raises(UsageError, match="neither FRR's `router bgp` nor BIRD's"):
        read("hostname re0\n")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], front: Path) -> None:
    first, second = tmp_path / "one", tmp_path / "two"
    first.write_text(FRR)
    second.write_text(FRR)

    def run(*files: Path) -> tuple[int, str, str]:
        code = program.main(["bgp", "check", "--config", str(front), *map(str, files)])
        return code, *capsys.readouterr()

    assert run(first, second)[:1] == (0,)
    second.write_text(FRR.replace(" bgp bestpath compare-routerid\n", ""))
    code, out, _ = run(first, second)
    assert code == 3
    assert "write `bgp bestpath compare-routerid`" in out
    second.write_text(FRR.replace(" bgp router-id 192.0.2.100\n", ""))
    assert run(second)[0] == 1
    assert run(first, second, first)[0] == 2
    code, _, err = run(tmp_path / "none")
    assert code == 2
    assert "cannot be read" in err
