"""What the nodes serve and what the peer does with it: stock programs, started by systemd."""

import hashlib
import subprocess
from dataclasses import dataclass

from tests.vm.machines import SERVICE, Lab, Machine, MachineError

DIGEST_PORT, PAGE_PORT, ECHO_PORT = 7000, 8080, 7007
PARTS, PART_NUMBERS = 3, 500_000
NUMBERS = PARTS * PART_NUMBERS
"""How far the numbers go: 11 MB, half a minute through an emulated pair."""
BEGUN_BYTES = 1_000_000  # less than the first part
SECOND_PART_BYTES = 4_000_000  # amid the second
TRANSFER_TIMEOUT_S = 600.0
HOLD_TIME_S = 30
_BGP_LINE = (
    f"-m prl.bgp.speaker --local {SERVICE} --asn 65001 --peer 192.0.2.1 --peer-asn 65000"
    f" --hold-time {HOLD_TIME_S} --announce 198.18.240.0/24"
)
_NUMBERS = f"""\
#!/bin/sh
# As `seq {NUMBERS}`, but each part after the first waits for the word of the test.
part=0
while [ $part -lt {PARTS} ]; do
    until [ $part -le "$(cat /run/numbers 2>/dev/null || echo 0)" ]; do sleep 1; done
    seq $((part * {PART_NUMBERS} + 1)) $(((part + 1) * {PART_NUMBERS}))
    part=$((part + 1))
done"""
_PAGE = "#!/bin/sh\nprintf 'HTTP/1.0 200 OK\\r\\n\\r\\n'\nexec numbers"
_FRR = f"""\
router bgp 65000
 no bgp ebgp-requires-policy
 no bgp network import-check
 neighbor {SERVICE} remote-as 65001
 neighbor {SERVICE} timers {HOLD_TIME_S // 3} {HOLD_TIME_S}
 neighbor {SERVICE} timers connect 2
 address-family ipv4 unicast
  network 198.18.0.0/24
  network 198.18.1.0/24
"""


def install(lab: Lab) -> None:
    """Start the applications on both nodes, now and at each boot, and FRR on the peer."""
    for machine in (*lab.nodes, lab.peer):
        machine.write("/usr/local/bin/numbers", _NUMBERS, mode="755")
    for node in lab.nodes:
        python = node.run('head -n 1 "$(readlink -f "$(command -v prlctl)")" | sed \'s/^#!//\'')
        node.write("/usr/local/bin/page", _PAGE, mode="755")
        serve = f"/usr/bin/prlctl serve --listen {SERVICE}"
        for name, command in {
            "digest": f"{serve}:{DIGEST_PORT} -- sha256sum",
            "page": f"{serve}:{PAGE_PORT} -- /usr/local/bin/page",
            "echo": f"{serve}:{ECHO_PORT} -- cat",
            "bgp": f"{python} {_BGP_LINE}",
        }.items():
            node.write(
                f"/etc/systemd/system/{name}.service",
                "[Unit]\nAfter=prld.service\nStartLimitIntervalSec=0\n"
                f"[Service]\nExecStart={command}\nRestart=always\nRestartSec=1\n"
                "[Install]\nWantedBy=multi-user.target",
            )
        node.run("systemctl enable -q --now digest page echo bgp")
    lab.peer.write("/etc/frr/frr.conf", _FRR)
    lab.peer.run("sed -i s/^bgpd=no/bgpd=yes/ /etc/frr/daemons; systemctl enable -q --now frr")


def numbers_sha256() -> str:
    """The digest of what `seq` says."""
    digest = hashlib.sha256()
    for start in range(1, NUMBERS + 1, 100_000):
        block = range(start, min(start + 100_000, NUMBERS + 1))
        digest.update("".join(f"{number}\n" for number in block).encode())
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Transfer:
    """Bulk under way between the peer and the service; it does not end before the test wants it."""

    lab: Lab
    port: int
    process: "subprocess.Popen[str]"

    def goes_on(self) -> bool:
        """Whether it has not ended yet, well or badly."""
        return self.process.poll() is None

    def await_protected(self, owner: Machine) -> None:
        """Return when ``owner`` has a shadow of it on the other node."""
        owner.until(f"prlctl flow list | grep -E ' active +{SERVICE}:{self.port} '")

    def let_go(self, parts: int) -> None:
        """Let so many more parts follow the first one."""
        _allow(self.lab, parts)

    def digest(self) -> str:
        """Let it go to its end, and wait for that. Raises MachineError when it failed."""
        self.let_go(PARTS - 1)
        said, _ = self.process.communicate(timeout=TRANSFER_TIMEOUT_S)
        if self.process.returncode:
            raise MachineError(f"the transfer failed: {self.process.returncode}\n{said}")
        return said.split()[0]


def _allow(lab: Lab, parts: int) -> None:
    """Whoever says numbers may say so many parts after the first."""
    for machine in (*lab.nodes, lab.peer):
        if machine.is_on():
            machine.run(f"echo {parts} >/run/numbers.new; mv /run/numbers.new /run/numbers")


def upload(lab: Lab) -> Transfer:
    """From the peer to `sha256sum` on the owner; returns when a part of it was acknowledged."""
    target = f"TCP:{SERVICE}:{DIGEST_PORT},shut-down"
    lab.peer.until(f"! ss -tnH dst {SERVICE}:{DIGEST_PORT} | grep .")
    _allow(lab, 0)
    process = lab.peer.start(f"numbers | socat -t 600 - {target}")
    await_uploaded(lab, BEGUN_BYTES)
    return Transfer(lab, DIGEST_PORT, process)


def await_uploaded(lab: Lab, amount_bytes: int) -> None:
    """Return when so much of the upload was acknowledged."""
    socket = f"ss -tnHi dst {SERVICE}:{DIGEST_PORT}"
    acked = f"{socket} | grep -o bytes_acked:.* | tr -c 0-9 ' '"
    lab.peer.until(f"set -- $({acked}); [ $1 -gt {amount_bytes} ]")


def download(lab: Lab) -> Transfer:
    """A page by curl; returns when a part of it has come."""
    lab.peer.run("rm -f /tmp/page")
    _allow(lab, 0)
    get = f"curl -sS -o /tmp/page http://{SERVICE}:{PAGE_PORT}/"
    process = lab.peer.start(f"{get} && sha256sum /tmp/page")
    lab.peer.until(f"[ $(stat -c %s /tmp/page) -gt {BEGUN_BYTES} ]")
    return Transfer(lab, PAGE_PORT, process)
