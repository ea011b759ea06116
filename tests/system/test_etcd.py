"""etcd's members behind TLS that ask for a certificate: what is understood, what is said if not.

Checks L12.
"""

import base64
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPSConnection
from pathlib import Path
from ssl import create_default_context
from typing import Any, TypeVar

import pytest

from prl.config import Arbiter
from prl.daemon.ownership.etcd import Etcd, StoreError
from prl.errors import ConfigError
from prl.lab import stretch
from prl.lab.netns import Namespace, exec_in
from tests.system.support import PATIENCE_S, eventually

pytestmark = [pytest.mark.system, pytest.mark.needs("root", "netns", "etcd")]

MEMBERS = 3
PLACE = "prl-etcd-tls"
ADDRESS = "127.0.0.1"
CLIENT_PORT, PEER_PORT = 2379, 2479
ENDPOINTS = [f"https://{ADDRESS}:{CLIENT_PORT + n}" for n in range(MEMBERS)]
PASSPHRASE = "secret"  # noqa: S105 - of nothing that lasts
T = TypeVar("T")


def openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)


@dataclass
class Files:
    """An authority, and certificates that it has signed."""

    folder: Path

    def make(self) -> None:
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        for name in ("ca", "other"):
            openssl(
                self.folder, "req", "-x509", *curve, "-keyout", f"{name}-key.pem",
                "-out", f"{name}.pem", "-days", "2", "-subj", f"/CN={name}",
            )  # fmt: skip
        for name, ca, usage in (
            ("member", "ca", "serverAuth,clientAuth"),
            ("serves", "ca", "serverAuth"),
            ("node", "ca", "clientAuth"),
            ("stranger", "other", "clientAuth"),
        ):
            extensions = f"subjectAltName=IP:{ADDRESS}\nextendedKeyUsage={usage}\n"
            (self.folder / "extensions").write_text(extensions)
            openssl(
                self.folder, "req", *curve, "-keyout", f"{name}-key.pem",
                "-out", f"{name}.csr", "-subj", f"/CN={name}",
            )  # fmt: skip
            openssl(
                self.folder, "x509", "-req", "-in", f"{name}.csr", "-CA", f"{ca}.pem",
                "-CAkey", f"{ca}-key.pem", "-CAcreateserial", "-out", f"{name}.pem",
                "-days", "2", "-extfile", "extensions",
            )  # fmt: skip

    def of(self, name: str) -> str:
        return str(self.folder / f"{name}.pem")

    def settings(self, who: str = "node", *, ca: str = "ca", **more: Any) -> Arbiter:
        """As ``who``, who trusts ``ca``."""
        if who:
            more |= {"certificate": self.of(who), "private_key": self.of(f"{who}-key")}
        return Arbiter(**({"endpoints": ENDPOINTS, "pair": "p", "ca": self.of(ca)} | more))


class Members:
    """Three members on one host."""

    def __init__(self, files: Files, certificate: str) -> None:
        self._files, self._certificate = files, certificate
        self._place = Namespace(PLACE)
        self._run: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, stack: ExitStack) -> None:
        self._place.create()
        stack.callback(self._place.remove)
        subprocess.run(["ip", "-n", PLACE, "link", "set", "lo", "up"], check=True)
        stack.callback(self.stop)
        urls = [f"http://{ADDRESS}:{PEER_PORT + n}" for n in range(MEMBERS)]
        cluster = ",".join(f"m{n}={url}" for n, url in enumerate(urls))
        of = self._files.of
        for number, url in enumerate(urls):
            argv = [
                *("etcd", "--name", f"m{number}"),
                *("--data-dir", str(self._files.folder / f"{self._certificate}{number}")),
                *("--listen-client-urls", ENDPOINTS[number]),
                *("--advertise-client-urls", ENDPOINTS[number]),
                *("--listen-peer-urls", url, "--initial-advertise-peer-urls", url),
                *("--initial-cluster", cluster, "--initial-cluster-state", "new"),
                *("--cert-file", of(self._certificate), "--client-cert-auth"),
                *("--key-file", of(f"{self._certificate}-key"), "--trusted-ca-file", of("ca")),
                *("--heartbeat-interval", str(100 * stretch.factor())),
                *("--election-timeout", str(1000 * stretch.factor())),
            ]
            with (self._files.folder / f"m{number}.log").open("ab") as log:
                self._run[number] = exec_in(
                    PLACE, argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL
                )

    def stop(self, *numbers: int) -> None:
        for number in numbers or tuple(self._run):
            member = self._run.pop(number)
            member.kill()
            member.wait()

    def call(self, work: Callable[[], T]) -> T:
        return self._place.call(work)

    def why_not(self, settings: Arbiter) -> str:
        """What is said of the first member."""
        store = Etcd(settings)
        with pytest.raises(StoreError) as refused:
            self.call(lambda: store.read(time.monotonic() + PATIENCE_S))
        return str(refused.value)

    def answer(self, settings: Arbiter) -> bool:
        store = Etcd(settings)
        try:
            self.call(lambda: store.read(time.monotonic() + PATIENCE_S))
        except StoreError:
            return False
        return True

    def administer(self, path: str, **body: object) -> None:
        """A call of etcd's that is none of prl's."""
        context = create_default_context(cafile=self._files.of("ca"))
        context.load_cert_chain(self._files.of("node"), self._files.of("node-key"))

        def ask() -> None:
            with closing(HTTPSConnection(ADDRESS, CLIENT_PORT, context=context)) as connection:
                connection.request("POST", f"/v3/auth/{path}", json.dumps(body))
                response = connection.getresponse()
                assert response.status == 200, response.read()

        self.call(ask)


@contextmanager
def members(files: Files, certificate: str = "member") -> Iterator[Members]:
    with ExitStack() as stack:
        made = Members(files, certificate)
        made.start(stack)
        yield made


@pytest.fixture
def files(tmp_path: Path) -> Files:
    made = Files(tmp_path)
    made.make()
    return made


def test_the_record_is_read_and_replaced_with_a_certificate(files: Files) -> None:
    with members(files) as etcd:
        eventually("a majority answers", lambda: etcd.answer(files.settings()))
        store = Etcd(files.settings())

        def soon() -> float:
            return time.monotonic() + PATIENCE_S

        assert etcd.call(lambda: store.read(soon())) == (0, "")
        assert etcd.call(lambda: store.replace(0, "re0", soon()))
        assert not etcd.call(lambda: store.replace(0, "re1", soon()))
        etcd.stop(0)  # the one that was asked
        revision, holder = etcd.call(lambda: store.read(soon()))
        assert (revision > 0, holder) == (True, "re0")
        assert etcd.call(lambda: store.replace(revision, "re1", soon()))
        etcd.stop(1)  # no majority is left: it must not answer with what it has
        with pytest.raises(StoreError):
            etcd.call(lambda: store.read(time.monotonic() + 1.0))


def test_what_is_wrong_with_the_configuration_is_said(files: Files) -> None:
    one = {"endpoints": ENDPOINTS[:1]}
    with members(files) as etcd:
        eventually("a majority answers", lambda: etcd.answer(files.settings()))
        assert "want arbiter.certificate?" in etcd.why_not(files.settings("", **one))
        assert "arbiter.certificate" in etcd.why_not(files.settings("stranger", **one))
        assert "its certificate is not accepted" in etcd.why_not(files.settings(ca="other", **one))
        plain = Arbiter(endpoints=[ENDPOINTS[0].replace("https", "http")], pair="p")
        assert "is it an https endpoint?" in etcd.why_not(plain)
        peer = [f"https://{ADDRESS}:{PEER_PORT}"]
        assert "is it an http endpoint?" in etcd.why_not(files.settings(endpoints=peer))
        nobody = [f"https://{ADDRESS}:1"]
        assert "refused" in etcd.why_not(files.settings(endpoints=nobody))
        root = base64.b64encode(b"").decode()
        etcd.administer("user/add", name="root", password=PASSPHRASE)
        etcd.administer("role/add", name="root", key=root)
        etcd.administer("user/grant", user="root", role="root")
        etcd.administer("enable")
        assert "HTTP status 40" in etcd.why_not(files.settings(**one))  # docs/arbiter.md


def test_a_member_whose_certificate_is_none_of_a_client_s_says_that_it_does_not_reach_itself(
    files: Files,
) -> None:
    """Its JSON gateway is a client of its own (docs/arbiter.md)."""
    with members(files, "serves") as etcd:
        eventually(
            "it is there",
            lambda: "503" in etcd.why_not(files.settings(endpoints=ENDPOINTS[:1])),
        )


def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked_for_it(files: Files) -> None:
    openssl(
        files.folder, "ec", "-aes128", "-passout", f"pass:{PASSPHRASE}",
        "-in", files.of("node-key"), "-out", "locked.pem",
    )  # fmt: skip
    with pytest.raises(ConfigError, match="without a passphrase"):
        Etcd(files.settings(private_key=files.of("locked"), certificate=files.of("node"), who=""))
