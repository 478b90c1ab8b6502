"""What the README tells a reader to type works as typed, made tiny where it would train for long."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from moe_bench import cli
from moe_bench.launch import pace
from moe_bench.routing import Capacity

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
COMMANDS = [shlex.split(line, comments=True) for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]
TRAINING = [words[1:] for words in COMMANDS if words and words[0] == "moe-bench" and "=" in " ".join(words[:3])]
TINY = [
    "logger=none", "recipe.steps=2", "recipe.batch=16", "recipe.warmup=0", "recipe.eval_every=0", "runtime.workers=0",
    "recipe.checkpoint_every=0", "probe.draws=1", "model.image_size=32", "model.patch=16", "model.width=16",
    "model.depth=2", "model.heads=2", "model.mlp=32", "model.experts=4", "model.moe_blocks=[1]",
]  # fmt: skip


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A reader's folder: photographs by class, and the router of the README in a file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOE_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(pace, "BUDGET_S", 0.0)  # no sweep is timed: that has tests of its own
    random = np.random.default_rng(0)
    for label in ("cats", "dogs"):
        (tmp_path / "PHOTOS" / label).mkdir(parents=True)
        for number in range(40):
            pixels = random.integers(0, 256, (40, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "PHOTOS" / label / f"{number}.jpg")
    (own,) = (text for kind, text in BLOCKS if kind == "python" and "class ByPlace" in text)
    (tmp_path / "my_router.py").write_text(own)
    (affinity,) = (text for kind, text in BLOCKS if kind == "python" and "def centred" in text)
    (tmp_path / "my_affinity.py").write_text(affinity)
    return tmp_path


def type_in(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["moe-bench", *words])
    return cli.main()


def test_every_command_that_prepares_trains_or_reports_runs(reader: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the README's order, in one folder; a sweep is shortened to one cell, whose process is tested with sweeps."""
    assert len(TRAINING) > 8
    for words in COMMANDS:
        if not words or words[0] != "moe-bench":
            continue
        typed = [
            word.split(",")[0] if word.startswith(("router=", "capacity=", "seed=")) else word for word in words[1:]
        ]
        typed = [word for word in typed if word != "-m"]
        tiny = TINY if words[1:] in TRAINING and "--cfg" not in words else []
        # The reader's data come before the sections that need them only in a reader's life, not on the page.
        assert type_in([*typed, *tiny], monkeypatch) == 0, f"{shlex.join(words)} failed"
    for name in ("by_place", "centred_tc"):
        assert any((reader / "runs").glob(f"{name}-*/summary.json"))


def test_the_router_sends_a_place_of_every_image_to_the_same_expert(reader: Path) -> None:
    own: dict[str, Any] = {}
    exec((reader / "my_router.py").read_text(), own)
    router = own["ByPlace"](4, 2, capacity=Capacity(1.0), tokens=4)
    dispatch, _ = router(torch.zeros(2, 12, 4)).tensors()  # groups of three images
    assert dispatch.sum(-1).argmax(-1).tolist() == 2 * [3 * [0, 0, 1, 1]]


def test_the_make_targets_exist() -> None:
    targets = {words[1] for words in COMMANDS if words and words[0] == "make"} | set(
        re.findall(r"`make ([\w-]+)`", README)
    )
    assert {"run", "test", "test-all", "lint", "help"} <= targets
    for target in targets:
        subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)


def test_the_notebook_example_runs() -> None:
    (example,) = (text for kind, text in BLOCKS if kind == "python" and "MoE(" in text)
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, check=True)
    assert 0 <= float(re.search(r"tensor\(([\d.]+)\)", done.stdout)[1]) < 1  # type: ignore[index]


def test_every_router_and_exit_code_is_explained() -> None:
    routers = {path.stem for path in (ROOT / "conf" / "router").glob("*.yaml")}
    assert routers <= set(re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE))
    assert {str(code) for code in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 130, 143)} <= set(re.findall(r"\| (\d+) \|", README))
