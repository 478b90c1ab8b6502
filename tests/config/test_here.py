"""What a machine lacks is said at once, by name, before anything heavy is loaded or written."""

from __future__ import annotations

from pathlib import Path

import pytest

from moe_bench import config
from moe_bench.config.here import meant_run, refuse_what_is_missing
from moe_bench.config.plugins import OwnCode, module_is_there
from moe_bench.errors import ConfigError, DataError
from moe_bench.training.trained import run_config


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


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("soft-tiny-c1-digits-s0-1a2b3c4d", "runs/soft-tiny-c1-digits-s0-1a2b3c4d"),
        ("runs/soft-tiny", "runs/soft-tiny-c1-digits-s0-1a2b3c4d"),
        ("runs/soft-mini-c1-digits-s0-1a2b3c4d", "runs/soft-tiny-c1-digits-s0-1a2b3c4d"),
        ("elsewhere/dense", "elsewhere/dense-tiny-c1-digits-s0-5e6f7a8b"),
    ],
)
def test_a_mistyped_run_is_met_with_the_one_meant(here: Path, typed: str, meant: str) -> None:
    for name in ("runs/soft-tiny-c1-digits-s0-1a2b3c4d", "elsewhere/dense-tiny-c1-digits-s0-5e6f7a8b"):
        (here / name).mkdir(parents=True)
        (here / name / "run.json").touch()
    with pytest.raises(ConfigError, match=rf"there is no folder {typed}; did you mean {meant}\?"):
        run_config(Path(typed))
    with pytest.raises(ConfigError, match=rf"no such file or folder. Looked for at .*; did you mean {meant}\?"):
        config.load([f"init.run={typed}"])


def test_no_run_is_offered_that_is_not_like_the_one_typed(here: Path) -> None:
    (here / "runs" / "report").mkdir(parents=True)  # without a run.json
    assert meant_run(Path("report")) == ". `moe-bench ls` shows the runs"


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
