"""What QEMU boots: the kernel without its compression, and an initramfs that finds the root."""

import gzip
import lzma
import re
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

INIT = Path(__file__).with_name("init.sh")
ROOT_MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")
"""What mounts a 9p root under an overlay; Debian's kernels have all of it as modules."""
APPLETS = ("cat", "insmod", "ln", "mkdir", "mount", "sh", "switch_root", "umount")
_ELF = b"\x7fELF"


def uncompressed(vmlinuz: bytes) -> bytes:
    """The kernel inside a boot image: an emulator takes long to unpack it at each boot.

    Raises:
        ValueError: there is none, or its compression is not known.
    """
    unpackers: dict[bytes, Callable[[bytes], bytes]] = {
        b"\xfd7zXZ\0": lambda data: lzma.LZMADecompressor().decompress(data),
        b"\x1f\x8b\x08": lambda data: zlib.decompressobj(31).decompress(data),
        b"\x28\xb5\x2f\xfd": _zstd,
    }
    for magic, unpack in unpackers.items():
        for found in re.finditer(re.escape(magic), vmlinuz):
            try:
                kernel = unpack(vmlinuz[found.start() :])
            except (lzma.LZMAError, zlib.error):
                continue
            if kernel.startswith(_ELF):
                return kernel
    raise ValueError("the boot image has no kernel in it that was packed by xz, gzip or zstd")


def initramfs(modules: Path) -> bytes:
    """An archive of busybox, init.sh and the modules that they load, in the order of loading."""
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        for name in ("bin", "modules", "dev", "proc", "sys", "low", "up", "new"):
            (top / name).mkdir()
        shutil.copy2("/bin/busybox", top / "bin/busybox")
        for applet in APPLETS:
            (top / "bin" / applet).symlink_to("busybox")
        shutil.copy2(INIT, top / "init")
        (top / "init").chmod(0o755)
        order = load_order(modules, ROOT_MODULES)
        for number, module in enumerate(order):
            (top / f"modules/{number:02}.ko").write_bytes(_module(modules / module))
        names = "\n".join(str(p.relative_to(top)) for p in [top, *sorted(top.rglob("*"))])
        archive = subprocess.run(
            ["busybox", "cpio", "-o", "-H", "newc"],
            cwd=top,
            input=names.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=True,
        ).stdout
    return gzip.compress(archive, compresslevel=1)


def load_order(modules: Path, names: tuple[str, ...]) -> list[str]:
    """The files of ``names`` and of all that they need, what is needed first.

    A name that the kernel has built in is none of them.
    """
    needs: dict[str, list[str]] = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        file, _, rest = line.partition(":")
        needs[file] = rest.split()
    by_name = {Path(file).name.split(".")[0].replace("-", "_"): file for file in needs}
    order: list[str] = []
    for name in names:
        if file := by_name.get(name):
            # modules.dep names all that a module needs, what is needed first at the end.
            order += [one for one in [*reversed(needs[file]), file] if one not in order]
    return order


def _module(path: Path) -> bytes:
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data


def _zstd(data: bytes) -> bytes:
    # What follows the kernel in the image is no part of it: zstd says so, and exits with 1.
    return subprocess.run(
        ["zstd", "-dcq"], input=data, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False
    ).stdout
