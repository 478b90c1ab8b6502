"""The vision transformer with MoE layers, and what one costs.

Names are imported when first used, so that ``moe_bench.model.cost`` needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moe_bench.model.experts import Experts as Experts
    from moe_bench.model.factory import from_config as from_config
    from moe_bench.model.moe import MoE as MoE
    from moe_bench.model.vit import VisionTransformer as VisionTransformer
    from moe_bench.model.vit import ViTOutput as ViTOutput

_HOME = {
    "Experts": "experts",
    "MoE": "moe",
    "ViTOutput": "vit",
    "VisionTransformer": "vit",
    "from_config": "factory",
}
__all__ = ["Experts", "MoE", "ViTOutput", "VisionTransformer", "from_config"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
