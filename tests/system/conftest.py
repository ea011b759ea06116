"""A lab for each test that asks for one."""

from collections.abc import Iterator

import pytest

from prl.lab import Lab
from tests.system import support
from tests.system.serving import lab_name


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    made = Lab(lab_name(request.node.originalname.removeprefix("test_")))
    made.up(support.MODE)
    try:
        yield made
    finally:
        made.down()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[pytest.TestReport]:
    """Show with a failure what both prlds have logged: the lab is gone when somebody looks."""
    report: pytest.TestReport = yield
    if report.failed and isinstance(item, pytest.Function):
        for lab in item.funcargs.values():
            if isinstance(lab, Lab):
                report.sections.append((f"logs of lab {lab.name}", support.log_tails(lab)))
    return report
