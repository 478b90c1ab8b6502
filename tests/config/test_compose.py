"""Settings put on top of composed files in the quick way are what OmegaConf makes of them."""

from __future__ import annotations

import pytest

from moe_bench.config import compose
from moe_bench.config.compose import Composition, compose_tree
from moe_bench.config.groups import find_groups
from moe_bench.config.overrides import parse
from moe_bench.config.problems import Problem

GROUPS = find_groups(None)


def composed(lines: list[str], problems: list[Problem]) -> Composition | None:
    overrides = [override for line in lines if (override := parse(line)) is not None]
    return compose_tree(overrides, GROUPS, None, problems)


@pytest.mark.parametrize(
    ("lines", "quick"),
    [
        (["seed=3", "capacity.factor=1.5"], True),
        (["router=soft", "router.scale=0.5", "recipe.betas=[0.9,0.95]", "recipe.clip=null"], True),
        (["data.path=/some/where", "probe.sets=[a,b]", "logger.tags=[x]"], True),
        (["data.crop=0.9"], False),  # probe.crop follows it
        (["data.probe=[cifar]", "seed=3"], False),
        (["recipe.steps=${recipe.batch}"], False),
        (["router.options={a: 1}"], False),
        (["router.opt.x=1"], False),
        (["+router.typo=3"], False),
        (["nothing.such=1"], False),
        (["seed.x=1"], False),
    ],
)
def test_the_quick_way_is_the_same_as_the_long_way(
    lines: list[str], quick: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = compose._quickly
    ways: list[bool] = []

    def watched(*args: object) -> object:
        found = real(*args)  # type: ignore[arg-type]
        ways.append(found is not None)
        return found

    problems: list[Problem] = []
    monkeypatch.setattr(compose, "_quickly", watched)
    one = composed(lines, problems)
    monkeypatch.setattr(compose, "_quickly", lambda *_: None)
    others: list[Problem] = []
    assert one == composed(lines, others)
    assert problems == others
    assert ways == [quick]


def test_what_follows_from_another_setting_follows_it() -> None:
    found = composed(["data.crop=0.75"], [])
    assert found is not None
    assert found.tree["probe"]["crop"] == 0.75
