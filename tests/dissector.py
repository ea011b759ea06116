"""tshark with docs/wireshark/prl.lua, and captures that no network was needed for."""

import struct
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from prl.lab.topology import LINK_PORT

DISSECTOR = Path(__file__).resolve().parents[1] / "docs/wireshark/prl.lua"
TSHARK_TIMEOUT_S = 60
PCAP_MAGIC, LINKTYPE_ETHERNET = 0xA1B2C3D4, 1
CLIENT_PORT = 40000


def tshark(pcap: Path, *arguments: str) -> list[str]:
    """The lines that tshark prints about a capture."""
    command = ["tshark", "-X", f"lua_script:{DISSECTOR}", "-n", "-r", str(pcap), *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=TSHARK_TIMEOUT_S
    )
    assert done.returncode == 0, done.stderr
    assert "Lua" not in done.stderr, done.stderr
    return done.stdout.splitlines()


def fields(pcap: Path, names: Sequence[str], expression: str = "prl") -> list[list[list[str]]]:
    """Per packet and field all its values."""
    options = [word for name in names for word in ("-e", name)]
    lines = tshark(
        pcap, "-Y", expression, "-T", "fields", *options, "-E", "separator=/t", "-E", "aggregator=;"
    )
    return [
        [value.split(";") if value else [] for value in line.split("\t")] for line in lines if line
    ]


def write_pcap(pcap: Path, segments: Iterable[bytes]) -> None:
    """Capture of one direction of a connection that carries ``segments``, one a packet."""
    with pcap.open("wb") as file:
        file.write(struct.pack("=IHHiIII", PCAP_MAGIC, 2, 4, 0, 0, 65535, LINKTYPE_ETHERNET))
        seq = 1000
        for number, segment in enumerate(segments):
            ip = struct.pack(">BBHHHBBH", 0x45, 0, 40 + len(segment), number, 0, 64, 6, 0)
            tcp = struct.pack(">HHIIBBHHH", CLIENT_PORT, LINK_PORT, seq, 1, 5 << 4, 0x10, 500, 0, 0)
            addresses = bytes([198, 51, 100, 10, 198, 51, 100, 11])
            frame = bytes(12) + b"\x08\0" + ip + addresses + tcp + segment
            file.write(struct.pack("=IIII", number, 0, len(frame), len(frame)) + frame)
            seq += len(segment)
