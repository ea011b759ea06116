"""The manual pages have what the commands, the options and the schema have."""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import click
import pytest

from prl import config
from prl.bgpfront import config as bgp_config
from prl.cli.main import cli

SOURCE = Path(__file__).parents[2] / "prl/packaging/deb/man.py"


@pytest.fixture(scope="module")
def man() -> ModuleType:
    spec = importlib.util.spec_from_file_location("man", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def plain(roff: str) -> str:
    return roff.replace("\\-", "-").replace("\\&", "").replace("\\e", "\\")


def every_command(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        with click.Context(command) as context:
            for name in command.list_commands(context):
                found = command.get_command(context, name)
                assert found is not None
                yield from every_command(found, f"{path} {name}")


def test_every_command_and_option_is_in_its_page(man: ModuleType) -> None:
    page = plain(man.prlctl())
    for path, command in every_command(cli, "prlctl"):
        assert re.search(rf"^\.SS {path}\b", page, re.MULTILINE), path
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                assert parameter.opts[0] in page, (path, parameter.opts)


def test_every_key_of_the_configuration_is_in_its_page(man: ModuleType) -> None:
    for page, keys in ((man.prld_toml(), config.schema()), (man.bgp_toml(), bgp_config.keys())):
        for key in keys:
            assert f"\\fB{key.path}\\fR\n{key.description}" in plain(page)


def test_the_daemon_s_options_are_in_its_page(man: ModuleType) -> None:
    page = plain(man.prld())
    assert "--scrub" in page
    assert "default /etc/prl/prld.toml" in page
    page = plain(man.prl_bgp())
    assert "--unwire" in page
    assert "default /etc/prl/bgp.toml" in page


def test_no_line_of_text_is_taken_for_a_request(man: ModuleType) -> None:
    requests = {"TH", "SH", "SS", "PP", "TP"}
    for page in (make() for make in man.PAGES.values()):
        for line in page.splitlines():
            assert not line.startswith("'")
            assert not line.startswith(".") or line[1:3] in requests, line
