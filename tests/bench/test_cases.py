from __future__ import annotations

import pytest

from moe_bench.bench.cases import ROUTERS, Case, make_cases, numbers, size, whole, words
from moe_bench.errors import ConfigError
from moe_bench.routing import PRESETS

SIZE = (768, 3072, 32)


def test_the_routers_are_those_there_are() -> None:
    """Written down a second time, so that the command line needs no torch."""
    assert set(ROUTERS) == set(PRESETS)


def test_experts_work_on_the_rows_that_the_paper_gives_them() -> None:
    case = Case(*SIZE, images=32, tokens=196, group_images=8, capacity=1.0, dtype="float32")
    assert case.rows("softmax_ec") == 4 * 49
    assert case.rows("soft") == 32 * 6  # 6.125 slots of an image, rounded
    assert case.flops(case.rows("softmax_ec")) == 4 * 768 * 3072 * 32 * 196
    assert case.dense_rows * 32 == 32 * 196


def test_the_dense_mlp_grows_with_capacity() -> None:
    case = Case(*SIZE, images=8, tokens=196, group_images=8, capacity=1.5, dtype="float32")
    assert (case.dense_hidden, case.choices) == (4608, 2)


def test_every_combination_is_a_case() -> None:
    cases = make_cases([SIZE, (64, 128, 4)], [8, 16], [1.0, 2.0], ["float32", "bf16"], 49, 8, ["softmax_ec"])
    assert len({(c.width, c.images, c.capacity, c.dtype) for c in cases}) == 16


def test_a_batch_smaller_than_a_group_is_one_group() -> None:
    (case,) = make_cases([SIZE], [2], [1.0], ["float32"], 196, 8, ["softmax_ec"])
    assert case.group_images == 2


@pytest.mark.parametrize("text", ["768x", "768x3072", "0x4x4", "768x3072x32x1", "axbxc", "", "-1x2x3", "7.5x3x2"])
def test_a_size_that_is_none_says_how_one_is_typed(text: str) -> None:
    with pytest.raises(ConfigError, match="--case 768x3072x32"):
        size(text)


@pytest.mark.parametrize(("kind", "text"), [(int, "8,0"), (int, "1.5"), (int, ""), (float, "nan"), (float, "1,inf")])
def test_numbers_that_cannot_be_are_told(kind: type, text: str) -> None:
    with pytest.raises(ConfigError, match="--images '"):
        numbers("--images", kind)(text)


def test_lists_are_read_in_order_and_once() -> None:
    assert numbers("--capacity", float)("2,1,2") == [2.0, 1.0]
    assert words("--routers", ROUTERS)("soft,softmax_ec,soft") == ["soft", "softmax_ec"]
    assert whole("--rounds")("3") == 3


def test_a_router_that_is_not_there_is_met_with_one_that_is() -> None:
    with pytest.raises(ConfigError, match="did you mean sinkhorn_ec"):
        words("--routers", ROUTERS)("soft,sinkorn_ec")


def test_more_experts_than_tokens_is_told_with_the_router() -> None:
    with pytest.raises(ConfigError, match=r"--case 64x128x512, router soft: .*at least 1"):
        make_cases([(64, 128, 512)], [8], [1.0], ["float32"], 196, 8, ["softmax_ec", "soft"])


def test_a_batch_of_broken_groups_is_told_with_one_that_fits() -> None:
    with pytest.raises(ConfigError, match="use 8 images"):
        make_cases([SIZE], [12], [1.0], ["float32"], 196, 8, ["softmax_ec"])
