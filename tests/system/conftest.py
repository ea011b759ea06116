"""A lab for each test that asks for one."""

from collections.abc import Iterator

import pytest

from prl.lab import Lab
from tests.system.serving import lab_name


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    made = Lab(lab_name(request.node.originalname.removeprefix("test_")))
    made.up()
    try:
        yield made
    finally:
        made.down()
