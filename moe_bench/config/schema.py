"""Every setting of a run as frozen dataclasses: the one list of names, types and words that a configuration may use.

YAML under ``conf/`` holds the values with their units and reasons; this module holds the shape. It imports no torch, so
that checking a configuration is instant. ``None`` means "not set: derive it" and each field says from what.
Each router family has a class of its own, so that an option foreign to a router is an error and not silence.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from moe_bench.routing.capacity import choices_of_token
from moe_bench.routing.words import AFFINITIES, CHOICES, COMBINES, PRIORITIES, SOLVERS

ROUNDINGS = ("nearest", "up")
HEADS = ("token", "gap", "map")
LOSSES = ("softmax", "sigmoid")
OPTIMIZERS = ("adamw", "sgd")
SCHEDULES = ("constant", "linear", "cosine", "rsqrt")
DECAYS = ("kernels", "all")
PRECISIONS = ("auto", "32", "bf16")
L2_POLICIES = ("fixed", "best", "heldout")
ACCELERATORS = ("auto", "cpu", "gpu")
STRATEGIES = ("auto", "ddp", "fsdp")
TELEMETRIES = ("brief", "detailed")
RESUMES = ("auto", "never", "must", "newest")
LOGGERS = ("wandb", "none")
LOGGER_MODES = ("auto", "online", "offline")
LABELS = ("single", "multi")
INIT_HEADS = ("new", "keep")
ON_ERRORS = ("stop", "skip")
RESIZES = ("short_side", "square")


@dataclass(frozen=True)
class RouterConfig:
    """What every router has: its name in run ids and tables, and whose code it is."""

    name: str = "softmax_ec"
    impl: str | None = None  # "package.module:Class" of a router of your own; None: one of ours
    options: dict[str, Any] = field(default_factory=dict)  # keyword arguments for ``impl``
    bf16_dispatch: bool = False  # round data to bfloat16 on the way into dispatch and combine


@dataclass(frozen=True)
class DenseRouterConfig(RouterConfig):
    """No router: every block keeps its MLP. The baseline of equal compute at capacity 1."""

    name: str = "dense"


@dataclass(frozen=True)
class SparseRouterConfig(RouterConfig):
    """Token choice and expert choice: affinity × choice × combine."""

    affinity: str = "softmax"  # one of AFFINITIES, or one of your own: "package.module:function"
    choice: str = "expert"  # one of CHOICES
    combine: str = "softmax"  # one of COMBINES
    k: int | None = None  # experts a token chooses; None: the capacity factor rounded up; token choice only
    noise: float = 1.0  # logits get N(0, noise / experts) in training (a standard deviation)
    importance: float = 0.0  # weight of the importance loss
    load: float = 0.0  # weight of the load loss
    gshard: float = 0.0  # weight of GShard's loss
    z_loss: float = 0.0  # weight of the router z-loss
    iterations: int | None = (
        None  # of Sinkhorn (None: 20) or of the sparse solver (None: adam 20, sweeps 3, dual 100 or 400)
    )
    solver: str | None = None  # one of SOLVERS; sparse affinity only
    solver_lr: float | None = None  # Adam's step in the sparse solver; solver=adam only
    priority: str = "order"  # one of PRIORITIES; token choice only
    bias_rate: float = 0.0  # what an expert's bias moves in a step towards balance; 0: no bias; token choice only


@dataclass(frozen=True)
class SoftRouterConfig(RouterConfig):
    """Soft MoE: every slot is a mixture of all tokens of one image."""

    name: str = "soft"
    normalize: bool = True  # unit-length tokens and slots; False: the paper's plain eq. 10
    scale: float = 1.0  # start of the learned scale of the logits (used with ``normalize`` only)
    noise: float = 0.0  # logits get N(0, noise) in training


@dataclass(frozen=True)
class ControlRouterConfig(RouterConfig):
    """Token choice without looking at the tokens: by their place, or by chance."""

    name: str = "hash"  # or "random"
    k: int | None = None  # experts of a token; None: the capacity factor rounded up


@dataclass(frozen=True)
class ModelConfig:
    """A vision transformer and where its MoE layers are."""

    name: str = "tiny"
    image_size: int = 32  # pixels a side
    patch: int = 8  # pixels a side
    width: int = 128  # D
    depth: int = 6  # blocks
    heads: int = 4
    mlp: int = 512  # H, hidden width of an MLP and of each expert
    experts: int = 8  # E
    moe_blocks: list[int] = field(default_factory=lambda: [1, 3, 5])  # zero-based
    head: str = "gap"  # one of HEADS
    qk_norm: bool = False
    dropout: float = 0.0
    expert_dropout: float = 0.0
    identical_experts: bool = True  # all experts of a layer start as copies of one draw


@dataclass(frozen=True)
class CapacityConfig:
    """How many slots each expert has, and how many images are routed together."""

    factor: float = 1.0  # c in C = round(c · T / E)
    rounding: str = "nearest"  # one of ROUNDINGS; "nearest" is half to even
    multiple_of: int = 1  # slots are rounded up to a multiple of this
    group_images: int = 8  # images a routing group; Soft MoE always routes one
    eval_factor: float | None = None  # c in validation and probe; None: factor


@dataclass(frozen=True)
class InitConfig:
    """Weights to begin with; without any they are drawn from the seed. What is named brings its settings along."""

    run: str | None = None  # go on with a finished run: its folder, or the file that ``moe-bench export`` wrote
    upcycle: str | None = None  # make experts of a dense model's MLPs: the same, or a safetensors file of timm's
    head: str = "new"  # one of INIT_HEADS; "keep": the classes are the same
    source: str | None = None  # what the weights are called by their content (``config.load`` fills it in)


@dataclass(frozen=True)
class DataConfig:
    """The labelled pictures to learn from. ``path`` is a folder of shards; ``train`` and ``val`` say it explicitly."""

    name: str | None = None  # in run ids; None: the folder's name
    path: str | None = None
    train: Any = None  # a pattern with braces, or a list of them
    val: Any = None
    num_classes: int | None = None  # None: from meta.json or the index
    labels: str = "single"  # one of LABELS; "multi": .json with a list of labels
    label_key: str = "label"  # where a .json keeps its label
    resize: str = "short_side"  # one of RESIZES; evaluation: "square" squeezes a picture of another shape
    crop: float = 1.0  # evaluation: side of the centre crop over side of the resized picture
    probe: list[str] = field(default_factory=list)  # the natural downstream sets of this data
    shuffle_window: int = 65536  # pictures shuffled together; bounds how many shards are open at once
    max_pixels: int = 64_000_000  # a larger picture is refused before it is decoded
    on_error: str = "stop"  # one of ON_ERRORS; at a picture that cannot be decoded
    skip_limit: float = 0.001  # under "skip": the share of a split's pictures that may be bad
    cache_dir: str | None = None  # None: $MOE_BENCH_CACHE or ~/.cache/moe-bench


@dataclass(frozen=True)
class ProbeConfig:
    """The few-shot probe: ridge regression from frozen pre-logits to ±1 labels."""

    name: str = "10shot"
    sets: list[str] = field(default_factory=list)  # folders of shards, or "digits"
    shots: list[int] = field(default_factory=lambda: [10])  # pictures a class
    draws: int = 3  # seeds; the score is their mean
    policy: str = "fixed"  # one of L2_POLICIES
    l2: float = 1024.0  # λ under policy=fixed
    every: int = 0  # steps between probes; 0: at the end only
    crop: float = 1.0  # as data.crop; pictures are first squeezed to a square


@dataclass(frozen=True)
class RecipeConfig:
    """Optimiser, schedule, length, loss, augmentation."""

    name: str = "quick"
    steps: int = 600
    batch: int = 128  # images a step, over all devices
    loss: str = "softmax"  # one of LOSSES
    optimizer: str = "adamw"  # one of OPTIMIZERS
    lr: float = 1e-3  # peak
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    momentum: float = 0.9  # sgd only
    weight_decay: float = 0.1  # multiplied by the learning rate, as in AdamW
    decay: str = "kernels"  # one of DECAYS
    head_decay: float | None = None  # weight decay of the head's kernel; None: weight_decay
    clip: float | None = 1.0  # global gradient norm; None: no clipping
    skip: int = 0  # bad steps of any 100 that may be left out: loss or gradient not finite, or a spike
    spike: float | None = None  # times the median gradient norm of late; None: a finite one is never bad
    schedule: str = "cosine"  # one of SCHEDULES
    warmup: int | None = None  # steps; None: a twelfth of them, at most 10,000 (``config.load`` fills it in)
    end_lr: float = 1e-5  # linear and cosine
    timescale: int = 10_000  # rsqrt: steps
    cooldown: int = 0  # rsqrt: last steps, linear to 0
    crop_area: float = 0.05  # smallest share of the picture that a training crop keeps; 1: no crop
    flip: bool = True
    randaugment: int = 0  # operations a picture; 0: off
    randaugment_magnitude: int = 9  # 0 to 30
    mixup: float = 0.0  # Beta parameter; 0: off
    precision: str = "auto"  # one of PRECISIONS; "auto": bf16 mixed where the device computes it fast
    eval_every: int = 0  # steps; 0: at the end only
    checkpoint_every: int = 0  # steps; 0: at the end only


@dataclass(frozen=True)
class RuntimeConfig:
    """Where and how it runs. Nothing here changes a run's identity."""

    name: str = "auto"
    accelerator: str = "auto"  # one of ACCELERATORS
    devices: int = 1
    nodes: int = 1
    strategy: str = "auto"  # one of STRATEGIES; "auto": ddp where there is more than one device
    expert_parallel: int = 1  # devices among which the experts of each layer are dealt out
    timeout_s: float = 600.0  # how long a device waits for the others, or for pictures, before the run is given up
    device_batch: int | None = None  # images at once on a device; None: what fits its memory
    workers: int | None = None  # data processes a device; None: from the CPU count
    resume: str = "auto"  # one of RESUMES
    keep_checkpoints: int = 2
    log_every: int = 10  # steps between rows of metrics.jsonl
    telemetry: str = "brief"  # one of TELEMETRIES; "detailed": vectors of each layer at validation, W&B included
    deterministic: bool = False
    memory_gb: float | None = None  # what a run may use; None: what is free


@dataclass(frozen=True)
class LoggerConfig:
    """Weights & Biases beside metrics.jsonl, which is always written."""

    name: str = "wandb"  # one of LOGGERS
    mode: str = "auto"  # one of LOGGER_MODES; "auto": online if a key is configured
    project: str = "moe-bench"
    entity: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Config:
    """One run."""

    router: RouterConfig
    model: ModelConfig
    capacity: CapacityConfig
    data: DataConfig
    probe: ProbeConfig
    recipe: RecipeConfig
    runtime: RuntimeConfig
    logger: LoggerConfig
    init: InitConfig = InitConfig()
    seed: int = 0
    runs_dir: str = "runs"
    force: bool = False


WORDS: dict[str, tuple[str, ...]] = {
    "router.affinity": AFFINITIES,
    "router.choice": CHOICES,
    "router.combine": COMBINES,
    "router.solver": SOLVERS,
    "router.priority": PRIORITIES,
    "model.head": HEADS,
    "capacity.rounding": ROUNDINGS,
    "init.head": INIT_HEADS,
    "data.labels": LABELS,
    "data.resize": RESIZES,
    "data.on_error": ON_ERRORS,
    "probe.policy": L2_POLICIES,
    "recipe.loss": LOSSES,
    "recipe.optimizer": OPTIMIZERS,
    "recipe.decay": DECAYS,
    "recipe.schedule": SCHEDULES,
    "recipe.precision": PRECISIONS,
    "runtime.accelerator": ACCELERATORS,
    "runtime.strategy": STRATEGIES,
    "runtime.resume": RESUMES,
    "runtime.telemetry": TELEMETRIES,
    "logger.name": LOGGERS,
    "logger.mode": LOGGER_MODES,
}
"""Which settings take one of a few words, and which words."""

ROUTER_KINDS: dict[str, type[RouterConfig]] = {
    "dense": DenseRouterConfig,
    "soft": SoftRouterConfig,
    "hash": ControlRouterConfig,
    "random": ControlRouterConfig,
}
"""Which class checks a router's options, by its name; every other name is a SparseRouterConfig."""


def token_choices(router: RouterConfig, capacity: CapacityConfig) -> int | None:
    """K, the experts that a token chooses; None where tokens choose none."""
    if isinstance(router, ControlRouterConfig) or (isinstance(router, SparseRouterConfig) and router.choice == "token"):
        return choices_of_token(router.k, capacity.factor)
    return None
