"""The pair key (R27): its owner's alone, refused when others can read it, changed by two."""

from pathlib import Path

import pytest

from prl.bindings.native import lib
from prl.cli import main as program
from prl.config import link_key
from prl.errors import ConfigError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "etc" / "link.key"


def error_of(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        link_key.load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_it_is_its_owner_s_alone_and_of_openssl_s_size(path: Path) -> None:
    assert link_key.add(path) == link_key.load(path)
    assert path.stat().st_mode & 0o7777 == 0o600
    assert (link_key.KEY_BYTES, link_key.KEYS_MAX) == (lib.PRL_TLS_KEY_BYTES, lib.PRL_TLS_KEYS_MAX)
    assert list(path.parent.iterdir()) == [path]


def test_a_second_one_is_added_behind_the_first_and_no_third(path: Path) -> None:
    (first,) = link_key.add(path)
    second = link_key.add(path)[1]
    assert link_key.load(path) == [first, second]
    assert path.stat().st_mode & 0o7777 == 0o600
    with pytest.raises(ConfigError, match=r"has 2 keys already; .* remove the first line on both"):
        link_key.add(path)
    path.write_text(path.read_text().partition("\n")[2])  # the last step of a change
    assert link_key.load(path) == [second]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660])
def test_one_that_others_can_read_or_write_is_refused(path: Path, mode: int) -> None:
    link_key.add(path)
    path.chmod(mode)
    assert "others than its owner may read or write it" in error_of(path)
    assert "chmod 600" in error_of(path)


@pytest.mark.parametrize("text", ["", "\n", "00" * 31, "00" * 33, "xy" * 32, f"{'00' * 32}\n" * 3])
def test_what_is_no_key_is_refused(path: Path, text: str) -> None:
    path.parent.mkdir()
    path.touch(mode=0o600)
    path.write_text(text)
    assert "64 hexadecimal digits" in error_of(path)


def test_one_that_is_missing_is_refused_with_what_to_do(path: Path) -> None:
    assert "prlctl link new-key" in error_of(path)
    path.mkdir(parents=True)
    assert "regular file" in error_of(path)


def test_the_command_makes_what_the_configuration_names(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "prld.toml"
    config.write_text(
        'node = "re0"\ninstance = "re0"\nindex = 0\n'
        '[lan]\ninterface = "a"\naddress = "192.0.2.10"\npeer_address = "192.0.2.11"\n'
        '[link]\ninterface = "b"\nlocal = "198.51.100.10"\nremote = "198.51.100.11"\n'
        f'key = "{path}"\n'
        '[[service]]\nname = "s"\naddresses = ["192.0.2.100"]\nowner = "re0"\n'
    )
    line = ["link", "new-key", "--config", str(config)]
    assert program.main(line) == 0
    (key,) = link_key.load(path)
    out, err = capsys.readouterr()
    assert f"{path}: 1 of at most 2 keys; copy it to the other node" in out
    assert key.hex() not in out + err
    assert program.main(line) == 0
    assert program.main(line) == 2
    assert "has 2 keys already" in capsys.readouterr().err
