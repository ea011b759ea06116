import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from prl.lab.netns import Namespace

pytestmark = pytest.mark.needs("root", "netns")

CONFIGURATION = """
node = "re0"
instance = "re0"
index = 0
[lan]
interface = "to-the-peers"
address = "192.0.2.10"
peer_address = "192.0.2.11"
[link]
interface = "no-such-one"
local = "198.51.100.10"
remote = "198.51.100.11"
[[service]]
name = "main"
addresses = ["192.0.2.100"]
owner = "re0"
[[routing]]
name = "blue"
interface = "eth2"
"""
NAMES = """
import json, sys
from pathlib import Path
from prl import config
found = config.load(Path(sys.argv[1]))
print(json.dumps([*found.interfaces, found.link.interface]))
"""


@pytest.fixture
def place() -> Iterator[Namespace]:
    with ExitStack() as stack:
        place = Namespace(f"prl-names-{os.getpid()}")
        place.create()
        stack.callback(place.remove)
        for words in (
            "add eth1 type veth peer name eth2",
            "property add dev eth1 altname to-the-peers",
        ):
            subprocess.run(["ip", "-n", place.name, "link", *words.split()], check=True)
        yield place


def test_an_alternative_name_stands_for_the_interfaces(place: Namespace, tmp_path: Path) -> None:
    file = tmp_path / "prld.toml"
    file.write_text(CONFIGURATION)
    argv = ["ip", "netns", "exec", place.name, sys.executable, "-c", NAMES, str(file)]
    done = subprocess.run(argv, stdout=subprocess.PIPE, check=True, text=True)
    assert json.loads(done.stdout) == ["eth1", "eth2", "no-such-one"]
