"""What Prometheus is told of a front."""

import re
from pathlib import Path

from prometheus_client.openmetrics import exposition

from prl.bgpfront.metrics import COUNTED, Facts

DOCS = Path(__file__).parents[2] / "docs/bgp.md"
OWNED = {
    "peer": "192.0.2.10",
    "role": "owner",
    "state": "relay",
    "because": "",
    "counts": {"takeovers": 2, "daemon_losses": 1, "daemon_dials": 3, "ends": 0},
    "in": {"heard": 100, "fed": 98, "differing": 2, "incomplete": False},
    "out": {"wanted": 7, "told": 5, "differing": 3, "incomplete": False},
}
WAITING = {
    "peer": "2001:db8::1",
    "role": "none",
    "state": "down",
    "because": "waits for the peer",
    "counts": dict.fromkeys(COUNTED, 0),
}
FACTS = Facts({"ready": False, "channel": "up", "moves": 4, "peers": [OWNED, WAITING]})


def test_it_is_what_status_says() -> None:
    text = exposition.generate_latest(FACTS).decode()
    for line in (
        "prl_bgp_ready 0.0",
        "prl_bgp_channel_up 1.0",
        "prl_bgp_moves_total 4.0",
        'prl_bgp_session_ready{peer="192.0.2.10"} 1.0',
        'prl_bgp_session_ready{peer="2001:db8::1"} 0.0',
        'prl_bgp_session_owned{peer="192.0.2.10"} 1.0',
        'prl_bgp_session_state{peer="192.0.2.10",state="relay"} 1.0',
        'prl_bgp_routes{column="heard",peer="192.0.2.10"} 100.0',
        'prl_bgp_routes{column="told",peer="192.0.2.10"} 5.0',
        'prl_bgp_routes_differing{direction="out",peer="192.0.2.10"} 3.0',
        'prl_bgp_takeovers_total{peer="192.0.2.10"} 2.0',
        'prl_bgp_daemon_losses_total{peer="2001:db8::1"} 0.0',
    ):
        assert line in text.splitlines()


def test_the_document_has_every_metric() -> None:
    rows = re.findall(
        r"^\| `(prl_\w+)` \| (\w+) \| ([^|]*) \| (.*) \|$", DOCS.read_text(), re.MULTILINE
    )
    wanted = []
    for family in FACTS.collect():
        labels = sorted({name for sample in family.samples for name in sample.labels})
        told = ", ".join(f"`{name}`" for name in labels)
        suffix = "_total" * (family.type == "counter")
        wanted.append((family.name + suffix, family.type, told, family.documentation))
    assert rows == wanted
