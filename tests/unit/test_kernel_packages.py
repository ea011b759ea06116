"""What tests/kernels takes from Debian's packages, without a mirror and without QEMU."""

import gzip
import lzma

import pytest

from tests.kernels import clock, debian, image
from tests.kernels.debian import KernelError, Package

OFFERED = [
    Package("6.12.117-1", ()),
    Package("6.1.9-1", ()),
    Package("6.1.192-2", ()),
    Package("7.3.4-1~bpo13+1", ()),
]


@pytest.mark.parametrize(
    ("name", "version"),
    [("6.1", "6.1.192-2"), ("6.12", "6.12.117-1"), (debian.NEWEST, "7.3.4-1~bpo13+1")],
)
def test_a_series_means_its_highest_version(name, version) -> None:
    assert debian.newest(name, OFFERED).version == version


def test_a_series_that_is_not_offered_is_refused_with_what_is() -> None:
    with pytest.raises(KernelError, match=r"no kernel 5\.10; it has 6\.1\.192-2, 6\.1\.9-1"):
        debian.newest("5.10", OFFERED)


@pytest.mark.parametrize("pack", [lzma.compress, gzip.compress])
def test_the_kernel_is_found_in_its_boot_image(pack) -> None:
    kernel = b"\x7fELF" + bytes(1000)
    decoy = b"\xfd7zXZ\0 is no archive "
    assert image.uncompressed(b"MZ" + decoy + pack(kernel) + b"trailer") == kernel


def test_a_boot_image_without_a_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="no kernel in it"):
        image.uncompressed(b"MZ" + lzma.compress(b"something else"))


def test_modules_are_loaded_after_what_they_need(tmp_path) -> None:
    (tmp_path / "modules.dep").write_text(
        "kernel/fs/9p/9p.ko.xz: kernel/fs/netfs.ko.xz kernel/net/9p/9pnet.ko.xz\n"
        "kernel/net/9p/9pnet.ko.xz:\n"
        "kernel/fs/netfs.ko.xz:\n"
        "kernel/net/9p/9pnet-virtio.ko.xz: kernel/net/9p/9pnet.ko.xz\n"
    )
    order = image.load_order(tmp_path, ("built_in", "9pnet_virtio", "9p"))
    assert [name.rpartition("/")[2] for name in order] == [
        "9pnet.ko.xz",
        "9pnet-virtio.ko.xz",
        "netfs.ko.xz",
        "9p.ko.xz",
    ]


@pytest.mark.needs("qemu")
def test_the_guest_is_told_how_fast_its_counter_runs() -> None:
    measured = [clock.tsc_khz() for _ in range(2)]
    assert measured[0] > 100_000
    assert measured[1] == pytest.approx(measured[0], rel=0.001)
