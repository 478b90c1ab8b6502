"""What a machine lacks is said at once, by name, before anything heavy is loaded or written."""

from __future__ import annotations

from pathlib import Path

import pytest

from moe_bench import config
from moe_bench.config.here import refuse_what_is_missing
from moe_bench.config.plugins import OwnCode, module_is_there
from moe_bench.errors import ConfigError, DataError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check(*typed: str) -> None:
    refuse_what_is_missing(config.load(typed))


def test_a_mistyped_folder_is_met_with_the_one_beside_it(here: Path) -> None:
    (here / "my-shards").mkdir()
    check("data=shards", "data.path=my-shards", "probe.sets=[my-shards,digits]")
    with pytest.raises(DataError, match=r"data.path: .* 'my-shrads' does not exist; did you mean 'my-shards'\?"):
        check("data=shards", "data.path=my-shrads")
    with pytest.raises(DataError, match=r"probe.sets: .* 'birds' does not exist. Looked for at /.*/birds"):
        check("probe.sets=[digits,birds]")


@pytest.mark.parametrize("typed", ["router.impl=nowhere_at_all:Mine", "router.impl=json.nowhere:Mine"])
def test_code_of_ones_own_that_is_not_there_is_named(here: Path, typed: str) -> None:
    with pytest.raises(ConfigError, match=f"{typed}: there is no module .*, neither installed nor in {here}"):
        check(typed)


def test_a_module_is_found_in_the_current_directory_and_not_imported(here: Path) -> None:
    (here / "own_package").mkdir()
    (here / "own_package" / "__init__.py").write_text("raise SystemExit")
    (here / "own_package" / "gates.py").write_text("raise SystemExit")
    check("router.affinity=own_package.gates:cosine", "router.name=cosine_ec")
    assert module_is_there(OwnCode("", "own_package:x"))
    assert not module_is_there(OwnCode("", "own_package.gaits:x"))
    assert not module_is_there(OwnCode("", "own_package.gates.deeper:x"))


def test_installed_and_running_modules_are_found() -> None:
    assert module_is_there(OwnCode("", "json.decoder:JSONDecoder"))
    assert module_is_there(OwnCode("", f"{__name__}:check"))
    assert module_is_there(OwnCode("", "__main__:x"))
