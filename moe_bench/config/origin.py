"""Weights that a run begins with instead of drawing its own (``init.run``, ``init.upcycle``): what they are.

Read without torch, from a run's run.json and summary.json or from the header of a safetensors file: which model they
fit, which settings they bring along, and what their content is called in run ids.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from moe_bench.config.convert import Conversion, to_config
from moe_bench.config.here import meant_run
from moe_bench.config.model_rules import slots_per_expert, tokens_per_group
from moe_bench.config.problems import Problem, raise_if_any, show
from moe_bench.config.schema import (
    Config,
    ControlRouterConfig,
    DenseRouterConfig,
    InitConfig,
    RouterConfig,
    SoftRouterConfig,
    SparseRouterConfig,
    token_choices,
)
from moe_bench.config.security import problems_of_tree
from moe_bench.errors import CheckpointError, MoeBenchError, SecurityError

SECTIONS = ("router", "model", "capacity")
"""What describes a network; a run and an exported file bring it along."""

SHAPE = ("patch", "width", "depth", "heads", "mlp", "head", "qk_norm")
"""Settings of the model that weights fit or do not, whatever becomes of its MLPs."""

ROUTED = ("experts", "moe_blocks")
"""The same where they are of experts."""


@dataclass(frozen=True)
class Origin:
    """Weights and what is known of them."""

    setting: str  # as typed: "init.run=runs/NAME"
    source: str  # what their content is called: "<run id>@<step>", or "sha256:<digest>" of a file
    shape: Mapping[str, Any]  # what the settings of the model must be
    before: Config | None  # router, model and capacity as they were; None: not written in the file, so a dense model

    @property
    def upcycles(self) -> bool:
        return self.setting.startswith("init.upcycle")

    @property
    def is_dense(self) -> bool:
        return self.before is None or isinstance(self.before.router, DenseRouterConfig)

    def brings(self) -> dict[str, dict[str, Any]]:
        """The sections that a run takes from it unless told otherwise."""
        if self.before is None:
            return {"router": asdict(DenseRouterConfig())} if not self.upcycles else {}
        names = ("model",) if self.upcycles else SECTIONS
        return {name: asdict(getattr(self.before, name)) for name in names}


def find_origin(init: Mapping[str, Any], problems: list[Problem]) -> Origin | None:
    """What ``init`` names; None where it names nothing, or nothing of use, which is then a problem."""
    named = {f"init.{how}": init.get(how) for how in ("run", "upcycle")}
    asked = {setting: path for setting, path in named.items() if isinstance(path, str) and path}
    if len(asked) > 1:
        what = "a run begins with the weights of one model: init.run goes on with it, init.upcycle makes experts of it"
        problems.append(Problem(f"init.upcycle={asked['init.upcycle']}", what, "only one of them"))
        return None
    for setting, path in asked.items():
        typed = f"{setting}={path}"
        try:
            return _of_folder(typed, Path(path)) if Path(path).is_dir() else _of_file(typed, Path(path))
        except MoeBenchError as error:
            problems.append(Problem(typed, str(error), security=isinstance(error, SecurityError)))
    return None


def _of_folder(setting: str, run: Path) -> Origin:
    """Of a finished run."""
    record, summary = _json(run / "run.json"), _json(run / "summary.json")
    if record is None:
        raise CheckpointError("this folder has no run.json, so it is none of a run. `moe-bench ls` shows the runs")
    if summary is None:
        status = _json(run / "status.json") or {}
        how_far = f"{status.get('state', 'never began')} at step {status.get('step', 0)} of {status.get('steps', '?')}"
        raise CheckpointError(f"this run is not finished ({how_far}). Its own command, typed again, goes on with it")
    before = _config(record.get("config"))
    return Origin(setting, f"{summary.get('run_id')}@{summary.get('steps')}", _shape(before), before)


def _of_file(setting: str, path: Path) -> Origin:
    """Of what ``moe-bench export`` wrote, or of a dense model's weights named as timm names them."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise CheckpointError(f"there is no such file or folder. Looked for at {path.absolute()}{meant_run(path)}")
    try:
        with safe_open(path, "np") as file:
            told = (file.metadata() or {}).get("config")
            shapes = {} if told else {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise SecurityError(
            f"this is no safetensors file ({error}). Other formats can run code when they are read, and are not: save "
            "a state_dict anew with safetensors.torch.save_file"
        ) from error
    source = f"sha256:{_digest(path, path.stat().st_mtime_ns)}"
    if not told:
        return Origin(setting, source, _shape_of_timm(shapes), None)
    try:
        before = _config(json.loads(told))
    except ValueError as error:
        raise CheckpointError(f"its metadata cannot be read: {error}") from error
    return Origin(setting, source, _shape(before), before)


def _config(tree: Any) -> Config:
    """Router, model and capacity out of a saved configuration; all else has its default."""
    if not isinstance(tree, Mapping) or not all(isinstance(tree.get(name), Mapping) for name in SECTIONS):
        raise CheckpointError(f"it does not say what its {', '.join(SECTIONS)} were")
    kept = {name: tree[name] for name in SECTIONS}
    if "${" in json.dumps(kept):
        raise SecurityError("its settings refer to others (${…}); what a run has written never does")
    conversion = Conversion(problems=list(problems_of_tree(kept)))
    before = to_config(kept, conversion)
    raise_if_any(conversion.problems)
    router = before.router
    if isinstance(router, SparseRouterConfig | ControlRouterConfig):  # k followed from the capacity, and stays
        router = replace(router, k=token_choices(router, before.capacity))
    return replace(before, router=router)


def _shape(before: Config) -> dict[str, Any]:
    names = SHAPE if isinstance(before.router, DenseRouterConfig) else (*SHAPE, *ROUTED)
    return {name: getattr(before.model, name) for name in names}


def _shape_of_timm(shapes: Mapping[str, list[int]]) -> dict[str, Any]:
    """All but the number of heads, which no shape shows."""
    blocks = [name.split(".")[1] for name in shapes if name.startswith("blocks.")]
    try:
        return {
            "patch": shapes["patch_embed.proj.weight"][-1],
            "width": shapes["pos_embed"][-1],
            "depth": 1 + max(map(int, blocks)),
            "mlp": shapes["blocks.0.mlp.fc1.weight"][0],
            "head": "token" if "cls_token" in shapes else "map" if "attn_pool.latent" in shapes else "gap",
        }
    except (KeyError, IndexError, ValueError) as error:
        raise CheckpointError(
            f"its {len(shapes)} tensors are not those of a dense vision transformer as timm names them, and it has no "
            "metadata of `moe-bench export`"
        ) from error


def contradictions(cfg: Config, origin: Origin) -> Iterator[Problem]:
    """Where what is asked for cannot begin with these weights."""
    yield from _shape_differs(cfg, origin)
    experts = not isinstance(cfg.router, DenseRouterConfig)
    path = origin.setting.partition("=")[2]
    asked = f"router={cfg.router.name}"
    if origin.upcycles and not origin.is_dense:
        assert origin.before is not None
        what = f"its router is {origin.before.router.name}, and only a dense model's MLPs become experts"
        yield Problem(origin.setting, what, f"init.run={path}")
    elif origin.upcycles and not experts:
        yield Problem(
            asked, "a dense model has no experts to begin as copies", f"router=softmax_ec, or init.run={path}"
        )
    elif not origin.upcycles and origin.is_dense and experts:
        what = f"{path} is dense and has no experts to go on with"
        yield Problem(asked, what, f"init.upcycle={path} makes experts of its MLPs; router=dense goes on without")
    elif not origin.upcycles and not origin.is_dense and not experts:
        yield Problem(asked, f"{path} has experts and not all the MLPs of a dense model", "another router")
    elif not origin.upcycles:
        yield from _gates_differ(cfg, origin)
        yield from _slots_differ(cfg, origin)


def _shape_differs(cfg: Config, origin: Origin) -> Iterator[Problem]:
    wrong = {name: value for name, value in origin.shape.items() if getattr(cfg.model, name) != value}
    if not wrong:
        return
    listing = ", ".join(
        f"{name} {show(value)} (asked: {show(getattr(cfg.model, name))})" for name, value in wrong.items()
    )
    remedy = dict(wrong)
    if origin.before is None and "width" in wrong:
        remedy["heads"] = origin.shape["width"] // 64
    if origin.before is None and "depth" in wrong:
        remedy["moe_blocks"] = list(range(1, origin.shape["depth"], 2))
    typed = " ".join(f"model.{name}={show(value)}" for name, value in remedy.items())
    guess = " (heads are a guess: no weight shows them, and most of timm's models are 64 wide a head)"
    note = guess if "heads" in remedy and "heads" not in wrong else ""
    yield Problem(origin.setting, f"its weights are of another model: {listing}", f"{typed}{note}")


def _gates_differ(cfg: Config, origin: Origin) -> Iterator[Problem]:
    """Token and expert choice have the same gate, so that a run may change from one to the other; Soft MoE has none."""
    before = origin.before
    if before is None or cfg.router.impl or before.router.impl:  # what weights a router of the user's own has, it knows
        return
    had, asked = _weights(before.router), _weights(cfg.router)
    if had and asked and had != asked:
        what = f"its weights are {asked}, and those of {origin.source}, router={before.router.name}, are {had}"
        yield Problem(f"router={cfg.router.name}", what, f"router={before.router.name}, or leave router= out")


def _weights(router: RouterConfig) -> str | None:
    """What a router has learned, in words; None of the dense model."""
    if isinstance(router, SoftRouterConfig):
        return "slots and a scale" if router.normalize else "slots without a scale"
    if isinstance(router, SparseRouterConfig):
        return "a gate and a balancing bias" if router.bias_rate else "a gate"
    return f"those of router={router.name}" if isinstance(router, ControlRouterConfig) else None


def _slots_differ(cfg: Config, origin: Origin) -> Iterator[Problem]:
    """Soft MoE's slots are parameters, as many for any picture: with more tokens the capacity factor falls."""
    before = origin.before
    if before is None or not (isinstance(cfg.router, SoftRouterConfig) and isinstance(before.router, SoftRouterConfig)):
        return
    had, asked = _slots(before), _slots(cfg)
    if had != asked:
        factor = had * cfg.model.experts / tokens_per_group(cfg)
        what = f"the slots of router=soft are weights: {had} an expert in {origin.source}, {asked} asked for"
        yield Problem(
            f"capacity.factor={show(cfg.capacity.factor)}", what, f"capacity={math.ceil(factor * 1e4) / 1e4:g}"
        )


def _slots(cfg: Config) -> int:
    return slots_per_expert(cfg.capacity.factor * tokens_per_group(cfg) / cfg.model.experts, cfg.capacity)


def _json(path: Path) -> dict[str, Any] | None:
    """An object; None where there is none to be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


@lru_cache(maxsize=8)
def _digest(path: Path, _changed: int) -> str:
    """The sha256 of a file, once for all cells of a grid."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def step_of(init: InitConfig) -> int | None:
    """The step of the run whose weights ``init.source`` names; None of a file."""
    _, at, step = (init.source or "").rpartition("@")
    return int(step) if at and step.isdigit() else None
