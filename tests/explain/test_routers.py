"""The verb ``explain``: pictures of all routers on the same tokens, and numbers that are the routings' own."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from PIL import Image

from moe_bench import cli as program
from moe_bench.config.schema import CapacityConfig, DenseRouterConfig, ModelConfig, RouterConfig, SoftRouterConfig
from moe_bench.data.index import open_split
from moe_bench.data.sources import split_of
from moe_bench.errors import CheckpointError, ConfigError
from moe_bench.explain import routers
from moe_bench.explain.routed import route
from moe_bench.explain.scene import IMAGE_SIZE, PATCH, constructed, read_pictures, trained
from moe_bench.model import from_config
from moe_bench.routing import PRESETS, Capacity
from tests.data.shards import write_shards

SMALL = ["--pictures", "3", "--experts", "4"]
QUICK = ["debug=fast", "runtime.workers=0", "model.width=32", "model.depth=2", "model.mlp=64", "model.moe_blocks=[1]"]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    write_shards(tmp_path / "birds", [5], split="val")
    return tmp_path / "birds"


def told(text: str) -> dict[str, list[tuple[int, int]]]:
    """Router → the pairs "n of m" of its line."""
    lines = {line.split()[0]: line for line in text.splitlines() if line.split()[:1] and line.split()[0] in PRESETS}
    return {name: [(int(n), int(m)) for n, m in re.findall(r"(\d+) of (\d+)", line)] for name, line in lines.items()}


@pytest.mark.parametrize("capacity", [1.0, 2.0, 0.5])
def test_the_numbers_told_are_those_of_the_routings(shards: Path, capacity: float) -> None:
    pictures = read_pictures(open_split(split_of(shards, "val")), 3, IMAGE_SIZE)
    scene = constructed(pictures, PATCH, 4, "birds")
    several = [route(scene, name, Capacity(capacity)) for name in PRESETS]
    lines = told(routers.table(scene, capacity, several))
    assert lines.keys() == PRESETS.keys()
    for routed in several:
        if routed.soft:
            assert lines["soft"] == [(48 * capacity, 48 * capacity), (0, 48)]
            continue
        stats = {name: float(value) for name, value in routed.routing.stats().items()}
        assert stats.pop("combine_mass") == pytest.approx(float(routed.combine.sum(-1).mean()))
        names = [name for name in ("fill", "dropped_wishes", "uncovered") if name in stats]
        assert [n / m for n, m in lines[routed.name]] == pytest.approx([stats[name] for name in names])
        assert lines[routed.name][0][1] == 48 * capacity


@pytest.mark.parametrize("form", ["png", "svg"])
def test_there_is_a_picture_of_every_router_and_one_of_all(
    shards: Path, tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert routers.run(["routers", "--images", str(shards), *SMALL, "--out", str(out), "--format", form]) == 0
    assert {path.name for path in out.iterdir()} == {f"{name}.{form}" for name in (*PRESETS, "all")}
    assert told(capsys.readouterr().out).keys() == PRESETS.keys()
    for path in out.iterdir():
        if form == "png":
            Image.open(path).verify()
        else:
            assert path.read_text().rstrip().endswith("</svg>")


def test_a_run_gives_its_gate_its_pictures_and_its_capacity(
    tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["moe-bench", "router=softmax_tc", "capacity=2", *QUICK])
    assert program.main() == 0
    (folder,) = Path("runs").glob("softmax_tc-*")
    capsys.readouterr()
    assert program.dispatch(["explain", "routers", "--run", str(folder), "--pictures", "2"]) == 0
    text = capsys.readouterr().out
    assert f"gate of block 1 of {folder.name}" in text
    assert "2 pictures of digits: 32 tokens, 8 experts, capacity 2" in text
    words = ["routers", "--run", str(folder), "--images", str(shards), "--pictures", "5", "--capacity", "1"]
    scene, factor = routers._from_run(routers._parser().parse_args(words))
    assert routers.table(scene, factor, []).startswith("5 pictures of birds: 80 tokens, 8 experts, capacity 1\n")
    with pytest.raises(ConfigError, match="--experts 4"):
        program.dispatch(["explain", "routers", "--run", str(folder), "--experts", "4"])


@pytest.mark.parametrize("router", [SoftRouterConfig(), DenseRouterConfig()])
def test_a_run_without_a_gate_is_told_so(router: RouterConfig) -> None:
    model = ModelConfig(image_size=8, patch=4, width=16, depth=2, heads=2, mlp=16, experts=2, moe_blocks=[1])
    vit = from_config(model, router, CapacityConfig(), 3)
    with pytest.raises(ConfigError, match="no gate to show"):
        trained(vit, None, 4, "birds", "runs/some")  # type: ignore[arg-type]  # refused before pictures are looked at


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--pictures", "9"], "there are 5 to choose from"),
        (["--pictures", "0"], "give 1 to 5"),
        (["--experts", "99"], "there are only 64 tokens"),
        (["--experts", "40"], "rounds to 0 slots per expert"),
        (["--capacity", "20"], "a token cannot choose k=20 of 8 experts"),
    ],
)
def test_what_cannot_be_shown_is_refused_with_the_numbers(
    shards: Path, words: list[str], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said):
        routers.run(["routers", "--images", str(shards), *words, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_is_named_and_the_table_is_not_lost(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="--out FOLDER"):
        routers.run(["routers", "--images", str(shards), *SMALL, "--out", str(tmp_path / "file")])
    assert "slots filled" in capsys.readouterr().out
