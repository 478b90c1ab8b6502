"""Lightning's strategies for several devices, with checkpoints that hold whole tensors."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from inspect import signature
from typing import Any

import torch
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch.distributed.device_mesh import init_device_mesh
from torch.nn import Module
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from moe_bench.model import VisionTransformer
from moe_bench.training import layout
from moe_bench.training.expert_parallel import deal_experts
from moe_bench.training.place import Place
from moe_bench.training.sharding import shard


def spread(model: VisionTransformer, at: Place) -> None:
    """Lay ``model`` out over the ranks of ``at``, in place. They must have joined; see group.py."""
    device = "cuda" if at.accelerator == "gpu" else "cpu"
    if at.expert_parallel > 1:
        shape = (at.world // at.expert_parallel, at.expert_parallel)
        deal_experts(model, init_device_mesh(device, shape, mesh_dim_names=("replica", "expert")))
    if at.strategy == "fsdp":
        shard(model, init_device_mesh(device, (at.world,)), half=at.precision.startswith("bf16"))


class WholeCheckpoints(Strategy):
    """Saves whole tensors through the checkpoint store, and takes this rank's parts of them when it loads."""

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        return True  # into the layout

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        return layout.model_state(self._module, keep=self.is_global_zero)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        layout.load_model_state(self._module, checkpoint["state_dict"])

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        plain = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        return layout.optimizer_state(plain, self._groups, keep=self.is_global_zero)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            layout.load_optimizer_state(optimizer, self._groups, state)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: _PATH, storage_options: Any | None = None) -> None:
        if self.is_global_zero:
            self.checkpoint_io.save_checkpoint(checkpoint, filepath, storage_options=storage_options)

    def load_checkpoint(self, checkpoint_path: _PATH, weights_only: bool | None = None) -> dict[str, Any]:
        torch.cuda.empty_cache()
        return self.checkpoint_io.load_checkpoint(checkpoint_path, weights_only=weights_only)

    @property
    def _module(self) -> LightningModule:
        assert self.lightning_module is not None
        return self.lightning_module

    @property
    def _groups(self) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = self._module.parameter_groups()  # type: ignore[operator]  # LitViT's
        return groups


class DataParallel(WholeCheckpoints, DDPStrategy):
    """DDP: every rank has the whole model, or all of it but the experts of others."""

    def __init__(self, timeout_s: float) -> None:
        # No buffer is copied from rank to rank: those of routers say where their own rank is.
        known = signature(DistributedDataParallel).parameters
        copying = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # its older name
        settings: dict[str, Any] = {copying: False, "gradient_as_bucket_view": True}
        super().__init__(timeout=timedelta(seconds=timeout_s), **settings)

    def _setup_model(self, model: Module) -> DistributedDataParallel:
        own = [name for name, parameter in model.named_parameters() if layout.expert_mesh(parameter) is not None]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, own)
        return super()._setup_model(model)


class Sharded(WholeCheckpoints, ModelParallelStrategy):
    """FSDP2: every rank has a part of the model. ``LitViT.configure_model`` cuts it up."""

    def __init__(self, world: int, timeout_s: float) -> None:
        super().__init__(data_parallel_size=world, tensor_parallel_size=1, timeout=timedelta(seconds=timeout_s))


def strategy(at: Place, timeout_s: float) -> str | Strategy:
    """How the devices of ``at`` work together; the process group is there already."""
    if at.strategy == "ddp":
        return DataParallel(timeout_s)
    return Sharded(at.world, timeout_s) if at.strategy == "fsdp" else "auto"
