"""docs/wireshark/prl.lua on the captured link of a live session (R16)."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from prl.lab import Lab
from tests.dissector import fields, tshark
from tests.link_capture import capturing, converse, start, streams
from tests.system.serving import Client, lab_name, serving
from tests.version_peer import messages

pytestmark = pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops", "socat", "tshark")

BULK = bytes(range(256)) * 4096


def test_every_message_of_a_live_link_is_decoded(tmp_path: Path) -> None:
    pcap = tmp_path / "link.pcap"
    lab = Lab(lab_name("dissector"))
    lab.up(start_prld=False, plain_link=True)
    try:
        with capturing(lab, pcap):
            start(lab)
            converse(lab)
            with serving(lab, ["cat"], nodes=("re0", "re1")) as serves, Client(lab) as client:
                client.send(b"first")
                serves["re0"].await_log(": protected")
                with ThreadPoolExecutor() as beside:  # an echo is read while it is sent
                    rest = beside.submit(client.receive)
                    client.send(BULK)
                    client.hang_up()
                    assert rest.result() == b"first" + BULK
    finally:
        lab.down()
    assert tshark(pcap, "-Y", "prl.malformed || _ws.malformed || _ws.lua.error || prl.later") == []
    sent = streams(pcap.read_bytes())
    names = ["prl.type", "prl.length", "prl.handle", "prl.seq"]
    for side, port in enumerate(("tcp.dstport == 7077", "tcp.srcport == 7077")):
        shown = [
            tuple(int(value, 0) for value in message)
            for packet in fields(pcap, names, f"prl && {port}")
            for message in zip(*packet, strict=True)
        ]
        assert shown == messages(sent[side])
    assert fields(pcap, ["prl.node_name"], "prl.node_name") == [[["re0"]], [["re1"]]]
    assert tshark(pcap, "-Y", "prl && tcp.segment.count > 1"), "no message in several segments"
