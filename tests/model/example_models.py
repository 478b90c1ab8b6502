"""Settings that the tests of this folder share: the six routers as ``conf/router`` presets them, and some models."""

from __future__ import annotations

from dataclasses import replace

from moe_bench.config.schema import ModelConfig, RouterConfig, SoftRouterConfig, SparseRouterConfig

ROUTERS: dict[str, RouterConfig] = {
    "softmax_tc": SparseRouterConfig("softmax_tc", choice="token", importance=0.005, load=0.005),
    "sinkhorn_tc": SparseRouterConfig("sinkhorn_tc", affinity="sinkhorn", choice="token"),
    "softmax_ec": SparseRouterConfig("softmax_ec"),
    "sinkhorn_ec": SparseRouterConfig("sinkhorn_ec", affinity="sinkhorn"),
    "sparse_ec": SparseRouterConfig("sparse_ec", affinity="sparse", noise=0.0),
    "soft": SoftRouterConfig("soft"),
}

TINY = ModelConfig()
B16 = ModelConfig(
    "b16", 224, 16, width=768, depth=12, heads=12, mlp=3072, experts=32, moe_blocks=[1, 3, 5, 7, 9, 11], head="token"
)
B32 = replace(B16, name="b32", patch=32)
L16 = replace(B16, name="l16", width=1024, depth=24, heads=16, mlp=4096, moe_blocks=list(range(1, 24, 2)))
SMALL_B16 = replace(B16, name="small", image_size=48, patch=8, width=96, depth=4, heads=3, mlp=384, moe_blocks=[1, 3])
