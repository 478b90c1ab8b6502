"""What is printed before a run: everything that decides its result and its price, on one screen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.text import Text

from moe_bench.monitor.layout import block
from moe_bench.monitor.units import MISSING, about, count, counted, flops

AFFINITY_WORDS = {
    "sigmoid": "sigmoid gates",
    "relu": "ReLU gates",
    "sinkhorn": "Sinkhorn plan",
    "sparse": "sparse plan",
}
CHOICE_WORDS = {"token": "tokens choose", "expert": "experts choose"}
COMBINE_WORDS = {"softmax": "softmax weights", "plan": "the plan's weights"}
CONTROL_WORDS = {"hash": "a token's place in its image", "random": "chance"}


@dataclass(frozen=True)
class RunFacts:
    """The facts of the header, as plain values."""

    run_id: str
    folder: str
    note: str  # starting, resuming, … (Start.note)
    model: str
    image_size: int
    patch: int
    params_total: int
    params_active: int
    flops_per_image: float
    router: str  # in words, from router_words
    experts: int  # 0: dense
    moe_layers: int
    tokens_per_group: int
    group_images: int
    slots_per_expert: int
    capacity: float  # asked for
    data: str
    train_size: int
    val_size: int
    classes: int
    steps: int
    batch: int
    device_batch: int
    accumulation: int
    devices: int
    device: str
    precision: str
    weights: str = ""  # where they are from, if they were not drawn
    sharing: str = ""  # how several devices share the model
    about_s: float | None = None  # expected seconds, if there is an honest estimate
    evaluation: Mapping[str, Any] = field(default_factory=dict)  # capacity/eval and slots_per_expert/eval, if others


def router_words(
    name: str,
    affinity: str = "",
    choice: str = "",
    combine: str = "",
    k: int | None = None,
    solving: Mapping[str, Any] | None = None,
) -> str:
    """The router as a sentence: its point in affinity × choice × combine.

    ``k``: experts a token chooses. ``solving``: router/solver and router/iterations of a plan.
    """
    if name == "dense":
        return "dense: no router, every token through one MLP"
    if name in CONTROL_WORDS:
        return f"{name}: no gate, {CONTROL_WORDS[name]} decides on {k} expert{'s' * (k != 1)} for each token"
    if not affinity:
        return f"{name}: every slot is a mixture of all tokens of an image" if name == "soft" else name
    choosers = CHOICE_WORDS[choice] + (f" {k} expert{'s' * (k != 1)} each" if choice == "token" and k else "")
    if choice == "expert":
        choosers = "experts choose their tokens"
    source = AFFINITY_WORDS.get(affinity, affinity)
    if solving:
        by = f" of {solving['router/solver']}" if "router/solver" in solving else ""
        source += f" ({solving['router/iterations']} iterations{by})"
    weights = "these weights" if affinity in ("sigmoid", "relu") else COMBINE_WORDS[combine]
    return f"{name}: {source} × {choosers} × {weights}"


def header(facts: RunFacts, columns: int = 80) -> Text:
    """What to print on a terminal of so many columns; with ``soft_wrap``, so that long paths stay whole."""
    return Text("\n").join([*block(facts.run_id, _lines(facts), columns), Text("")])


def _lines(facts: RunFacts) -> list[tuple[str, str]]:
    lines = [
        ("model", _model(facts)),
        ("router", facts.router),
        ("data", _data(facts)),
        ("training", _training(facts)),
        ("device", _device(facts)),
        ("folder", f"{facts.folder}  ({facts.note})" if facts.note else facts.folder),
    ]
    if facts.experts:
        lines.insert(2, ("capacity", capacity_words(facts)))
    if facts.weights:
        lines.insert(1, ("weights", facts.weights))
    if facts.about_s is not None:
        lines.insert(-1, ("expected", f"{about(facts.about_s)} of training, to be corrected by the progress below"))
    return lines


def _model(facts: RunFacts) -> str:
    total, active = count(facts.params_total), count(facts.params_active)
    size = f"{total} parameters" if total == active else f"{total} parameters, {active} active"
    return f"{facts.model}, {facts.image_size}×{facts.image_size} pixels / {facts.patch} · {size} · {_flops(facts)}"


def _flops(facts: RunFacts) -> str:
    return f"{flops(facts.flops_per_image)}/image"


def capacity_words(facts: RunFacts) -> str:
    """Slots per expert, and the factor that they really are where rounding changed it."""
    group = f"{facts.group_images} image{'s' * (facts.group_images != 1)}"
    slots = f"{facts.slots_per_expert} slot{'s' * (facts.slots_per_expert != 1)}"
    words = (
        f"{facts.capacity:g}: groups of {count(facts.tokens_per_group)} tokens ({group}), "
        f"{facts.experts} experts × {slots}, in {facts.moe_layers} layer{'s' * (facts.moe_layers != 1)}"
    )
    actual = facts.slots_per_expert * facts.experts / facts.tokens_per_group
    if abs(actual - facts.capacity) >= 1e-9:
        words += f"; rounding to whole slots makes it {actual:.3g}"
    if facts.evaluation:
        slots = counted(facts.evaluation["slots_per_expert/eval"], "slots")
        words += f"; at evaluation {facts.evaluation['capacity/eval']:g}: {slots}"
    return words


def _data(facts: RunFacts) -> str:
    return (
        f"{facts.data}: {counted(facts.train_size, 'pictures')} to train, {facts.val_size:,} to validate, "
        f"{counted(facts.classes, 'classes')}"
    )


def _training(facts: RunFacts) -> str:
    epochs = facts.steps * facts.batch / facts.train_size if facts.train_size else None
    passes = MISSING if epochs is None else f"{epochs:.3g}"
    parts = [f"{facts.device_batch}"]
    if facts.accumulation > 1:
        parts.append(f"{facts.accumulation} parts")
    if facts.devices > 1:
        parts.append(f"{facts.devices} devices")
    split = f" ({' × '.join(parts)})" if len(parts) > 1 else ""
    work = f"{counted(facts.steps, 'steps')} × {counted(facts.batch, 'pictures')}{split}"
    return f"{work} = {passes} epoch{'s' * (passes != '1')}"


def _device(facts: RunFacts) -> str:
    many = f"{facts.devices} × " if facts.devices > 1 else ""
    return ", ".join([f"{many}{facts.device}", *([facts.sharing] if facts.sharing else []), facts.precision])
