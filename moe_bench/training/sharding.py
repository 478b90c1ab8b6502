"""FSDP2: each rank keeps a part of every parameter, and gathers a block's when it computes that block.

The units that are gathered at once are blocks, the experts of a layer, and the rest of the model. Stacked experts are
one unit: an expert each would be gathered when its tokens come, and ranks would pair up different experts' weights.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Shard

from moe_bench.model import VisionTransformer
from moe_bench.model.moe import MoE
from moe_bench.model.vit import Block
from moe_bench.training.layout import expert_mesh


def shard(model: VisionTransformer, mesh: DeviceMesh, half: bool) -> None:
    """Shard ``model`` over all ranks of ``mesh`` in place; slices of experts stay as they are.

    ``half``: kernels are gathered in bfloat16, in which autocast computes with them anyway, and their gradients added
    up in float32. Norms, embeddings, the head and all of a router stay in float32, as autocast leaves them.
    """
    full = MixedPrecisionPolicy(cast_forward_inputs=False)
    kernels = replace(full, param_dtype=torch.bfloat16, reduce_dtype=torch.float32) if half else full
    whole = {parameter for parameter in model.parameters() if expert_mesh(parameter) is not None}

    def unit(module: nn.Module, policy: MixedPrecisionPolicy, axis: int = 0) -> None:
        fully_shard(
            module,
            mesh=mesh,
            mp_policy=policy,
            ignored_params=whole,
            shard_placement_fn=(lambda parameter: Shard(axis)) if axis else None,
        )

    for block in model.blocks:
        assert isinstance(block, Block)
        experts = block.mlp.experts if isinstance(block.mlp, MoE) else None
        if experts is not None and experts.w1 not in whole:
            unit(experts, kernels, expert_axis(len(experts.w1), mesh.size()))
        if half:
            for norm in (part for part in block.attn.modules() if isinstance(part, nn.LayerNorm)):
                unit(norm, full)
            unit(block.attn, kernels)
            if experts is None:
                unit(block.mlp, kernels)
        unit(block, full)
    unit(model, full)


def expert_axis(experts: int, ranks: int) -> int:
    """The axis along which stacked experts are cut: whole experts to a rank where that comes out even, else a part of
    each to all."""
    return 0 if experts % ranks == 0 else 1
