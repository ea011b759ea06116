"""One lab of three virtual machines for all tests of this folder, from the box builder on."""

import subprocess
from collections.abc import Iterator

import pytest

from tests.probes import require
from tests.vm.hall import Hall
from tests.vm.machines import TREE, Lab


@pytest.fixture(scope="session")
def machines() -> Iterator[Lab]:
    """The machines, as `vagrant up` left them."""
    require("root", "vagrant_libvirt")
    subprocess.run(["make", "-C", str(TREE), "deb"], stdin=subprocess.DEVNULL, check=True)
    with Hall() as hall:
        lab = Lab(hall)
        lab.up()
        yield lab
        lab.vagrant("destroy", "--force")
        assert lab.hall.run("virsh", "-q", "list", "--all", "--name").stdout.split() == []


@pytest.fixture
def lab(machines: Lab) -> Lab:
    """The same, both nodes up and safe."""
    machines.settle()
    return machines
