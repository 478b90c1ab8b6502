"""Settings that do not fit are refused with the numbers, and the remedy that is offered is one."""

from __future__ import annotations

import pytest

from moe_bench import config
from moe_bench.errors import ConfigError, SecurityError

CASES = [
    # what is typed; the setting complained of; what is said; what mends it
    ("model.image_size=30 model.patch=4", "model.patch=4", "do not tile an image of 30", "model.image_size=28"),
    ("model.heads=5", "model.heads=5", "5 heads do not divide a width of 128", "model.heads=4"),
    ("model.moe_blocks=[1,7]", "model.moe_blocks=[1,7]", "the last of 6 is 5", "model.moe_blocks=[1,3,5]"),
    ("model.moe_blocks=[1,1]", "model.moe_blocks=[1,1]", "named twice", "model.moe_blocks=[1]"),
    ("model.moe_blocks=[]", "model.moe_blocks=[]", "nothing for softmax_ec to route", "router=dense"),
    (
        "capacity.factor=0.001 model.patch=4",
        "capacity.factor=0.001",
        "T=512 tokens a group, E=8",
        "capacity.factor=0.016",
    ),
    (
        "router=soft model.experts=200 capacity=0.1 model.patch=4",
        "capacity.factor=0.1",
        "T=64 tokens",
        "capacity.factor=3.125",
    ),
    ("probe=fewshot probe.policy=heldout", "probe.policy=heldout", "holds out", "probe.shots=[5,10,25]"),
    ("capacity=9 model.patch=4", "capacity.factor=9", "cannot choose C=576 of 512 tokens", "capacity.factor=8"),
    ("capacity.rounding=down", "capacity.rounding=down", "one of: nearest, up", "capacity.rounding=up"),
    ("router=softmax_tc router.k=9", "router.k=9", "cannot choose 9 of 8 experts", "router.k=8"),
    ("router.k=2", "router.k=2", "a token has no k", "router.k=null"),
    ("router.priority=score", "router.priority=score", "no token goes first", "router.priority=order"),
    ("router.solver=adam", "router.solver=adam", "this is affinity=softmax", "router.solver=null"),
    ("router=sinkhorn_tc router.solver_lr=1", "router.solver_lr=1", "affinity=sinkhorn", "router.solver_lr=null"),
    (
        "router=sparse_ec router.solver=dual router.solver_lr=0.01",
        "router.solver_lr=0.01",
        "Adam's step",
        "router.solver_lr=null",
    ),
    ("router=sinkhorn_ec router.iterations=0", "router.iterations=0", "at least 1", "router.iterations=20"),
    ("router.iterations=5", "router.iterations=5", "not iterated", "router.iterations=null"),
    ("router=sparse_ec router.noise=0.5", "router.noise=0.5", "gates without noise", "router.noise=0"),
    ("router.bias_rate=0.001", "router.bias_rate=0.001", "full already", "router.bias_rate=0"),
    ("router=sigmoid_tc router.bias_rate=-1", "router.bias_rate=-1", "at least 0", "router.bias_rate=0"),
    (
        "router=sigmoid_tc router.combine=softmax",
        "router.combine=softmax",
        "sigmoid gates weigh the outputs themselves",
        "router.combine=plan",
    ),
    ("router=relu_tc router.combine=softmax", "router.combine=softmax", "relu gates weigh", "router.combine=plan"),
    ("router=hash router.k=9", "router.k=9", "cannot choose 9 of 8 experts", "router.k=8"),
    ("router=random capacity=9", "capacity.factor=9", "cannot choose 9 of 8 experts", "router.k=8"),
    (
        "router=soft capacity.eval_factor=2",
        "capacity.eval_factor=2",
        "slots of Soft MoE are learned parameters",
        "capacity.eval_factor=null",
    ),
    (
        "capacity.eval_factor=9",
        "capacity.eval_factor=9",
        "cannot choose C=144 of 128 tokens",
        "capacity.eval_factor=8",
    ),
    ("capacity.eval_factor=0.001", "capacity.eval_factor=0.001", "less than one slot", "capacity.eval_factor=0.063"),
    ("router=softmax_tc router.noise=0", "router.load=0.005", "over the noise", "router.load=0"),
    (
        "router=dense router.bf16_dispatch=true",
        "router.bf16_dispatch=true",
        "sends nothing to experts",
        "router.bf16_dispatch=false",
    ),
    ("router.gshard=-1", "router.gshard=-1", "at least 0", "router.gshard=0"),
    ("router.z_loss=-0.1", "router.z_loss=-0.1", "at least 0", "router.z_loss=0"),
    ("router.affinity=sinkhorn", "router.name=softmax_ec", "is not softmax_ec", "router=sinkhorn_ec"),
    ("router=sparse_ec router.choice=token", "router.name=sparse_ec", "is not sparse_ec", "router.name=sparse_tc"),
    ("router.impl=os.system", "router.impl=os.system", "module and class", "router.impl=a.b:C"),
    ("router.options={a: 1}", "router.options={a: 1}", "one of ours", "router.impl=a.b:C"),
    ("recipe.batch=100", "recipe.batch=100", "1 devices × 1 nodes × 8 images", "recipe.batch=96"),
    ("runtime.devices=3", "recipe.batch=128", "3 devices × 1 nodes × 8", "recipe.batch=144"),
    (
        "runtime=fsdp runtime.devices=3 recipe.batch=144",
        "runtime.strategy=fsdp",
        "8 experts nor their width of 128 and hidden width of 512 divide among 3",
        "runtime.devices=2",
    ),
    (
        "runtime=ddp runtime.expert_parallel=3",
        "runtime.expert_parallel=3",
        "divide the 8 experts of a layer and the 2 device(s)",
        "runtime.expert_parallel=2",
    ),
    (
        "router=dense runtime=ddp runtime.expert_parallel=2",
        "runtime.expert_parallel=2",
        "no experts",
        "runtime.expert_parallel=1",
    ),
    ("runtime.device_batch=24", "runtime.device_batch=24", "divide the 128 images", "runtime.device_batch=32"),
    ("runtime.device_batch=4", "runtime.device_batch=4", "multiple of the 8 images", "runtime.device_batch=8"),
    ("recipe.warmup=601", "recipe.warmup=601", "longer than the 600 steps", "recipe.warmup=null"),
    ("recipe.schedule=rsqrt recipe.cooldown=600", "recipe.cooldown=600", "more than the 600", "recipe.cooldown=550"),
    ("recipe.cooldown=5", "recipe.cooldown=5", "cosine schedule has no cool-down", "recipe.cooldown=0"),
    ("recipe.lr=1e-6", "recipe.end_lr=1e-05", "falls to it from recipe.lr=1e-06", "recipe.end_lr=1e-08"),
    ("recipe.betas=[0.9]", "recipe.betas=[0.9]", "Adam has two", "recipe.betas=[0.9,0.999]"),
    ("data.labels=multi", "recipe.loss=softmax", "one label a picture", "recipe.loss=sigmoid"),
    ("data=shards", "data=shards", "no pictures", "data.path=/x"),
    ("data=shards data.train=a.tar", "data.train", "no pictures to validate on", "data.val=b.tar"),
    ("data.train=a.tar", "data.path=digits", "named twice", "data.train=null"),
    ("data.path=/photos", "data.path=/photos", "would be called digits", "data=shards"),
    ("data=shards data.train=5 data.val=a", "data.train", "a pattern or a list", "data.train='a{0..9}.tar'"),
    ("probe.shots=[]", "probe.shots=[]", "a number of pictures a class", "probe.shots=[10]"),
    ("recipe.steps=0", "recipe.steps=0", "at least 1", "recipe.steps=1"),
    ("recipe.lr=-1", "recipe.lr=-1", "greater than 0", "recipe.lr=0.001"),
    ("recipe.crop_area=1.5", "recipe.crop_area=1.5", "greater than 0 and at most 1", "recipe.crop_area=1"),
    ("probe.crop=0", "probe.crop=0", "greater than 0 and at most 1", "probe.crop=1"),
    ("recipe.precision=16", "recipe.precision=16", "one of: auto, 32, bf16", "recipe.precision=bf16"),
    ("seed=-1", "seed=-1", "between 0 and 4294967295", "seed=0"),
    ("recipe.lr=nan", "recipe.lr=nan", "not a number", "recipe.lr=0.1"),
]


@pytest.mark.parametrize(("typed", "place", "said", "mend"), CASES)
def test_what_does_not_fit_is_refused_and_the_remedy_mends_it(typed: str, place: str, said: str, mend: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(typed.split(" ") if "{" not in typed else [typed])
    message = str(caught.value)
    assert "1 problem " in message
    assert f"1. {place}\n" in message
    assert said in message
    spoilt = mend.split("=")[0]
    rest = [word for word in ([typed] if "{" in typed else typed.split(" ")) if word.split("=")[0] != spoilt]
    config.load([*rest, mend] if "{" not in typed else [mend])


def test_remedies_are_offered_as_something_to_type() -> None:
    for typed, _, _, mend in CASES[:8]:
        with pytest.raises(ConfigError, match="→") as caught:
            config.load(typed.split(" "))
        assert mend in str(caught.value)


@pytest.mark.parametrize(
    "typed",
    [
        "data.train='d/{0..999999999999}.tar' data.val=x",
        "data.train=" + "{a,b}" * 40 + " data.val=x",
        "data.val=[" + "{0..999}{0..999}{0..9}" + "] data.train=x",
    ],
)
def test_brace_bombs_are_counted_and_not_expanded(typed: str) -> None:
    with pytest.raises(ConfigError, match="the most is 1,000,000"):
        config.load(["data=shards", *typed.split(" ")])


@pytest.mark.parametrize(
    "typed",
    [
        "probe._target_=os.system",
        "+router.options._target_=os.system",
        "router.options={_target_:os.system}",
        "router.options={x: {_partial_ : true}}",
        "++x._args_=[1]",
        "hydra.launcher._target_=os.system",
        "data.path=${oc.env:HOME}",
        "logger.project=x${oc.env:WANDB_API_KEY}",
        "logger.project=${oc.${data.name}:HOME}",
        "logger.tags=[${oc.decode:${oc.env:HOME}}]",
    ],
)
def test_code_and_secrets_are_refused_for_safety(typed: str) -> None:
    with pytest.raises(SecurityError) as caught:
        config.load([typed])
    assert caught.value.exit_code == 9


def test_values_may_point_at_other_settings() -> None:
    assert config.load(["logger.project=${data.name}"]).logger.project == "digits"


@pytest.mark.parametrize("steps", [1, 2, 13, 600, 500_000])
def test_the_default_warm_up_fits_any_length(steps: int) -> None:
    recipe = config.load([f"recipe.steps={steps}"]).recipe
    assert recipe.warmup == min(steps // 12, 10_000)
