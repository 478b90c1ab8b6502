"""How a parameter lies over the ranks, and the state of a run without any trace of it.

A parameter is whole on every rank, or in parts: a DTensor under FSDP, a slice of a layer's experts under expert
parallelism. What is saved is always whole, so that a checkpoint loads into any layout on any number of ranks. Tensors
are gathered and cut up one at a time, so no rank ever holds more than one whole tensor beside its own parts; only the
rank that writes keeps them, on the host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Shard, distribute_tensor

EXPERT_MESH = "expert_mesh"
"""Attribute of a parameter that is a slice of a layer's experts: the ranks (replica, expert) that share the layer."""


def layout(parameter: Tensor) -> tuple[DeviceMesh, Sequence[Placement]] | None:
    """Over which ranks ``parameter`` is spread, and how; None if it is whole."""
    if isinstance(parameter, DTensor):
        return parameter.device_mesh, parameter.placements
    mesh = expert_mesh(parameter)
    return None if mesh is None else (mesh["expert"], (Shard(0),))


def expert_mesh(parameter: Tensor) -> DeviceMesh | None:
    """The ranks that share the layer of which ``parameter`` is a slice; None if it is none."""
    return getattr(parameter, EXPERT_MESH, None)


def local(tensor: Tensor) -> Tensor:
    """This rank's part."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def outline(tensor: Tensor) -> Tensor:
    """A tensor without data in the shape that the whole of ``tensor`` has."""
    shape = list(tensor.shape)  # of a DTensor that of the whole
    if (mesh := expert_mesh(tensor)) is not None:
        shape[0] *= mesh["expert"].size()
    return torch.empty(shape, dtype=tensor.dtype, device="meta")


def model_state(model: nn.Module, keep: bool) -> dict[str, Tensor]:
    """The whole state of ``model`` on the host, where ``keep``. Every rank must call it."""
    state = model.state_dict(keep_vars=True)  # the parameters themselves, which know how they lie
    gathered = {name: _gathered(value, like=value, keep=keep) for name, value in state.items()}
    return gathered if keep else {}


@torch.no_grad()
def load_model_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """The inverse, from a whole state whose names and shapes fit."""
    for name, value in model.state_dict(keep_vars=True).items():
        _take_part(value, state[name], like=value)


def optimizer_state(
    optimizer: torch.optim.Optimizer, groups: Sequence[Mapping[str, Any]], keep: bool
) -> dict[str, Any]:
    """The whole state of ``optimizer``, as the ``state_dict`` of one made with ``groups`` in one process.

    ``groups`` may have been split for ``optimizer``; see ``apart``. Every rank must call it.
    """
    settings = {p: group for group in optimizer.param_groups for p in group["params"]}
    states: dict[int, dict[str, Any]] = {}
    told: list[dict[str, Any]] = []
    number = 0
    for group in groups:
        parameters = group["params"]
        numbers = list(range(number, number + len(parameters)))
        told.append({**_without_parameters(settings[parameters[0]]), "params": numbers})
        for number, parameter in zip(numbers, parameters):
            found = optimizer.state.get(parameter, {}).items()
            states[number] = {key: _gathered(value, like=parameter, keep=keep) for key, value in found}
        number = numbers[-1] + 1
    return {"state": {number: state for number, state in states.items() if state}, "param_groups": told} if keep else {}


@torch.no_grad()
def load_optimizer_state(
    optimizer: torch.optim.Optimizer, groups: Sequence[Mapping[str, Any]], state: Mapping[str, Any]
) -> None:
    """The inverse."""
    parameters = [parameter for group in groups for parameter in group["params"]]
    for number, whole in state["state"].items():
        optimizer.state[parameters[number]] = {
            key: _part_of(value, parameters[number]) if isinstance(value, Tensor) else value
            for key, value in whole.items()
        }
    saved = {parameter: told for group, told in zip(groups, state["param_groups"]) for parameter in group["params"]}
    for own in optimizer.param_groups:
        own.update(_without_parameters(saved[own["params"][0]]))


def _without_parameters(group: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key != "params"}


def apart(groups: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Parameter groups in which all lie alike: an optimiser updates a group at once, and cannot mix layouts."""
    split: list[dict[str, Any]] = []
    for group in groups:
        for sharded in (False, True):
            alike = [p for p in group["params"] if isinstance(p, DTensor) == sharded]
            split += [{**group, "params": alike}] if alike else []
    return split


def _gathered(value: Any, *, like: Tensor, keep: bool) -> Any:
    """The whole of ``value``, which lies as the parameter ``like`` does."""
    where = layout(like)
    if not isinstance(value, Tensor):
        return value
    if where is not None and value.dim():
        parts = value if isinstance(value, DTensor) else DTensor.from_local(value, *where)
        value = parts.full_tensor()
    return value.detach().cpu() if keep else None


def _take_part(target: Tensor, whole: Tensor, *, like: Tensor) -> None:
    """Copy this rank's part of ``whole`` into ``target``, which lies as ``like`` does."""
    where = layout(like)
    if where is not None and whole.dim():
        mesh, placements = where
        whole = distribute_tensor(whole.to(target.device), mesh, placements, src_data_rank=None).to_local()
    local(target).copy_(whole)


def _part_of(whole: Tensor, parameter: Tensor) -> Tensor:
    if not whole.dim():
        return whole.to(parameter.device, copy=True)
    part = torch.zeros_like(parameter, dtype=whole.dtype)
    _take_part(part, whole, like=parameter)
    return part
