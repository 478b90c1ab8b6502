"""Losses, targets, mixup against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from moe_bench.training.objective import correct, losses, mixup, mixup_weight, multi_hot, targets

LOGITS = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
SINGLE = torch.tensor([[0], [6], [3], [3], [1]])
MULTI = torch.tensor([[0, 2], [6, -1], [3, 1], [4, -1], [5, 0]])


def test_softmax_of_single_labels_is_cross_entropy() -> None:
    ours = losses(LOGITS, targets(SINGLE, 7, "softmax"), "softmax")
    torch.testing.assert_close(ours, F.cross_entropy(LOGITS, SINGLE[:, 0], reduction="none"))


def test_softmax_of_several_labels_shares_one_between_them() -> None:
    target = targets(MULTI, 7, "softmax")
    assert target.sum(1).tolist() == [1.0] * 5
    assert target[0].tolist() == [0.5, 0, 0.5, 0, 0, 0, 0]
    each = [F.cross_entropy(LOGITS[:1], torch.tensor([label])) for label in (0, 2)]
    torch.testing.assert_close(losses(LOGITS, target, "softmax")[0], (each[0] + each[1]) / 2)


def test_sigmoid_is_summed_over_classes() -> None:
    hot = multi_hot(MULTI, 7)
    probability = LOGITS.sigmoid()
    expected = -(hot * probability.log() + (1 - hot) * (1 - probability).log()).sum(1)
    torch.testing.assert_close(losses(LOGITS, targets(MULTI, 7, "sigmoid"), "sigmoid"), expected)


def test_losses_are_float32_whatever_the_logits_are() -> None:
    for loss in ("softmax", "sigmoid"):
        assert losses(LOGITS.bfloat16(), targets(SINGLE, 7, loss), loss).dtype == torch.float32


def test_padding_of_labels_is_no_class() -> None:
    assert multi_hot(torch.tensor([[-1, -1], [6, -1]]), 7).sum(1).tolist() == [0, 1]


def test_an_answer_is_right_if_it_is_any_of_the_labels() -> None:
    logits = torch.eye(7)[[2, 0, 1, 5, 5]]
    assert correct(logits, MULTI).tolist() == [True, False, True, False, True]


def test_mixup_keeps_the_larger_share_of_the_own_image_and_follows_its_key() -> None:
    shares = [mixup_weight(0.2, (0, step)) for step in range(200)]
    assert all(0.5 <= share <= 1 for share in shares)
    assert len(set(shares)) > 100
    assert mixup_weight(0.2, (0, 3)) == shares[3] != mixup_weight(0.2, (1, 3))


def test_mixed_rows_are_the_own_and_the_one_before() -> None:
    x = torch.arange(3.0)[:, None]
    np.testing.assert_allclose(mixup(x, 0.75)[:, 0], [0.5, 0.75, 1.75])


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_mixup_of_targets_mixes_the_losses(loss: str) -> None:
    target = targets(SINGLE, 7, loss)
    mixed = losses(LOGITS, mixup(target, 0.6), loss)
    torch.testing.assert_close(
        mixed, 0.6 * losses(LOGITS, target, loss) + 0.4 * losses(LOGITS, target.roll(1, 0), loss)
    )
