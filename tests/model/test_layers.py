"""Initial values of the parts that are not routed."""

from __future__ import annotations

import math

import pytest
import torch

from moe_bench.model.layers import Attention, AttentionPool, Mlp, PatchEmbed


def test_patch_kernel_is_a_cut_lecun_normal() -> None:
    kernel = PatchEmbed(8, 256).proj.weight
    std = math.sqrt(1 / (3 * 8 * 8))
    assert kernel.std().item() == pytest.approx(std, rel=0.02)
    assert kernel.abs().max() <= 2 * std / 0.8796


def test_patches_are_read_row_by_row() -> None:
    embed = PatchEmbed(2, 1)
    torch.nn.init.ones_(embed.proj.weight)
    images = torch.zeros(1, 3, 4, 4)
    images[:, :, 0:2, 2:4] = 1.0  # the right patch of the first row
    assert embed(images).flatten().tolist() == [0.0, 12.0, 0.0, 0.0]


@pytest.mark.parametrize("name", ["qkv", "proj"])
def test_attention_kernels_are_xavier_of_square_matrices(name: str) -> None:
    layer = getattr(Attention(128, 4), name)
    bound = math.sqrt(6 / (128 + 128))
    assert 0.99 * bound < layer.weight.abs().max() <= bound
    assert not layer.bias.any()


def test_mlp_is_xavier_with_nearly_zero_biases() -> None:
    mlp = Mlp(64, 256)
    bound = math.sqrt(6 / (64 + 256))
    for layer in (mlp.fc1, mlp.fc2):
        assert 0.99 * bound < layer.weight.abs().max() <= bound
        assert 0 < layer.bias.abs().max() < 1e-5


def test_qk_norm_makes_attention_blind_to_the_scale_of_queries_and_keys() -> None:
    torch.manual_seed(0)
    attention = Attention(32, 4, qk_norm=True)
    x = torch.randn(2, 5, 32)
    before = attention(x)
    with torch.no_grad():
        attention.qkv.weight[:64] *= 100.0
    torch.testing.assert_close(attention(x), before, atol=1e-4, rtol=1e-3)
    assert attention.q_norm.bias is None


def test_attention_pool_does_not_care_about_the_order_of_tokens() -> None:
    pool = AttentionPool(16, 32, 2)
    x = torch.randn(3, 7, 16)
    torch.testing.assert_close(pool(x), pool(x.flip(1)))
