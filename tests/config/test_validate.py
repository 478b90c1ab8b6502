"""A configuration is read as a whole: every mistake is told at once, and nothing is guessed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moe_bench import config
from moe_bench.config.plugins import OwnCode, declared, own_code
from moe_bench.config.schema import (
    ControlRouterConfig,
    DenseRouterConfig,
    RouterConfig,
    SoftRouterConfig,
    SparseRouterConfig,
)
from moe_bench.errors import ConfigError, SecurityError


def refused(*overrides: str, config_dir: Path | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        config.load(overrides, str(config_dir) if config_dir else None)
    return str(caught.value)


def test_a_command_line_full_of_mistakes_is_told_in_one_go() -> None:
    typed = (
        "capcity=2 router=sinkorn_ec model=b17 recipe.steps=abc recipe.lr=-1 ++x.y=1 model.moe_blocks=3 "
        "recipe.loss=sofmax capacity=abc recipe.optimizer=adam probe.shots=[] recipe.batch=100"
    )
    message = refused(*typed.split(" "))
    assert "10 problems" in message  # router and model are unknown, so nothing is said about blocks and groups
    for remedy in ("capacity=2", "router=sinkhorn_ec", "model=b16", "recipe.loss=softmax", "recipe.optimizer=adamw"):
        assert f"→ {remedy}\n" in message
    assert "Nothing was written" in message


@pytest.mark.parametrize("typed", ["router.kk=3", "+router.kk=3", "++router.kk=3"])
def test_an_unknown_setting_is_refused_however_it_is_forced(typed: str) -> None:
    message = refused(typed)
    assert "there is no setting router.kk" in message
    assert "→ router.k=3" in message


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("recipe.steps=1.5", "1.5 is not a whole number"),
        ("recipe.steps=true", "true is not a whole number"),
        ("recipe.lr=fast", "fast is not a number"),
        ("recipe.flip=1", "1 is not true or false"),
        ("model.moe_blocks=3", "→ model.moe_blocks=[3]"),
        ("model.moe_blocks=[a]", "[a] is not a list of whole numbers"),
        ("data.name=[a]", "is not a word or null"),
        ("recipe.steps=null", "null is not a whole number"),
        ("router.options=3", "3 is not key: value pairs"),
        ("model.width.x=3", "{x: 3} is not a whole number"),
        ("recipe={steps: 3", "the value cannot be read"),
        ("recipe.lr=", "recipe.lr is empty; it takes a number\n"),
        ("model.blocks=x", "→ model.moe_blocks takes a list of whole numbers: for example model.moe_blocks=[1,3,5]"),
        ("model.blocks=3", "→ model.moe_blocks takes a list of whole numbers: model.moe_blocks=[3]"),
        ("model.blocks=[3]", "→ model.moe_blocks=[3]"),
        ("recipe.los=hinge", "→ recipe.loss takes a word: for example recipe.loss=softmax"),
        ("router", "neither key=value"),
        ("router", "→ router=dense"),
        ("soft", "→ router=soft"),
        ("recipe.steps", "→ recipe.steps=VALUE"),
        ("router=null", "a run needs a router"),
        ("~logger", "→ logger=none"),
        ("hydra.nonsense=3", "nonsense"),
        ("data.path=${nowhere}", "data.path=${nowhere}"),
        ("router=[soft,dense]", "→ -m router=soft,dense"),
        ("capacity=[1,2]", "1 problem in the configuration\n\n  1. capacity=[1,2]\n      a run has one capacity"),
        ("seed=[1,2]", "→ -m seed=1,2\n"),
        ("router=soft,", "→ router=soft\n"),
        ("seed=1,,2,", "→ seed=1,2\n"),
        ("seed=,", "quote it"),
        ("probe.sets=[a,b", "→ probe.sets=[a,b]\n"),
        ("router=sinkhorn", "→ router=sinkhorn_"),
        ("router.kk=\x1b[31m", "cannot be read"),
        ('data.name="\x1b[31mred"', "data.name must be text that can be printed"),
        ('probe.sets=["a\x1b[31m"]', "probe.sets must be text that can be printed"),
        ("runs_dir=", "runs_dir must be the path of a folder"),
    ],
)
def test_a_wrong_value_is_named_with_what_would_be_right(typed: str, said: str) -> None:
    message = refused(typed)
    assert said in message
    assert "\x1b" not in message


@pytest.mark.parametrize(
    ("typed", "setting", "value"),
    [
        ("recipe.steps=1e3", ("recipe", "steps"), 1000),
        ("recipe.lr=1", ("recipe", "lr"), 1.0),
        ("recipe.clip=null", ("recipe", "clip"), None),
        ("recipe.precision=32", ("recipe", "precision"), "32"),
        ("data.name=2012", ("data", "name"), "2012"),
        ("model.moe_blocks=[]", ("model", "moe_blocks"), []),
        ("+recipe.mixup=0.5", ("recipe", "mixup"), 0.5),
    ],
)
def test_values_get_the_type_of_their_setting(typed: str, setting: tuple[str, str], value: object) -> None:
    read = getattr(getattr(config.load([typed, "router=dense"]), setting[0]), setting[1])
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("router", "kind"),
    [
        ("dense", DenseRouterConfig),
        ("soft", SoftRouterConfig),
        ("sparse_ec", SparseRouterConfig),
        ("relu_tc", SparseRouterConfig),
        ("hash", ControlRouterConfig),
        ("random", ControlRouterConfig),
    ],
)
def test_each_router_has_its_own_settings(router: str, kind: type[RouterConfig]) -> None:
    assert type(config.load([f"router={router}"]).router) is kind
    assert "there is no setting router.kk" in refused(f"router={router}", "router.kk=1")


def test_a_setting_of_another_router_is_refused() -> None:
    assert "there is no setting router.noise_std" in refused("router.noise_std=1")
    assert "there is no setting router.scale" in refused("router.scale=2")
    assert "there is no setting router.affinity" in refused("router=soft", "router.affinity=softmax")


def test_a_router_of_ones_own_needs_only_its_class() -> None:
    router = config.load(["router.impl=my.module:Mine", "router.options={depth: 3}"]).router
    assert router == RouterConfig(name="Mine", impl="my.module:Mine", options={"depth": 3})
    assert "there is no setting router.noise" in refused("router.impl=my.module:Mine", "router.noise=2")


def test_a_folder_of_ones_own_yaml_adds_options(tmp_path: Path) -> None:
    (tmp_path / "router").mkdir()
    (tmp_path / "router" / "mine.yaml").write_text("name: mine\nimpl: my.module:Mine\n")
    (tmp_path / "router" / "stiff.yaml").write_text("name: stiff\naffinity: softmax\nchoice: token\n")
    (tmp_path / "capacity").mkdir()
    (tmp_path / "capacity" / "3.yaml").write_text("factor: 3\n")
    assert config.load(["router=mine"], str(tmp_path)).router.name == "mine"
    assert config.load(["router=stiff", "router.k=2"], str(tmp_path)).router == SparseRouterConfig(
        name="stiff", choice="token", k=2
    )
    assert config.load(["capacity=3"], str(tmp_path)).capacity.factor == 3.0
    assert "router=mine" in refused("router=mien", config_dir=tmp_path)


def test_a_function_of_ones_own_is_an_affinity_by_its_place(tmp_path: Path) -> None:
    router = config.load(["router.affinity=my.gates:cosine", "router.name=cosine_ec"]).router
    assert own_code(router) == OwnCode("router.affinity=my.gates:cosine", "my.gates:cosine")
    assert own_code(router).package == "my"  # type: ignore[union-attr]
    assert "→ router.name=cosine_ec" in refused("router.affinity=my.gates:cosine")
    assert "sparse, or package.module:function of your own" in refused("router.affinity=cosine")
    assert own_code(config.load().router) is None


def test_the_default_solver_is_written_out(tmp_path: Path) -> None:
    (tmp_path / "router").mkdir()
    (tmp_path / "router" / "mine.yaml").write_text("name: mine\naffinity: sparse\nnoise: 0\n")
    for router in ("mine", "sparse_ec"):
        assert config.load([f"router={router}"], str(tmp_path)).router.solver == "adam"  # type: ignore[attr-defined]


def test_a_folder_named_by_the_environment_adds_options_and_habits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "user").mkdir()
    (tmp_path / "user" / "default.yaml").write_text("runs_dir: /scratch/runs\nruntime:\n  workers: 3\n")
    monkeypatch.setenv("MOE_BENCH_CONF", str(tmp_path))
    run = config.load()
    assert (run.runs_dir, run.runtime.workers) == ("/scratch/runs", 3)
    monkeypatch.setenv("MOE_BENCH_CONF", str(tmp_path / "gone"))
    assert "no such folder: $MOE_BENCH_CONF" in refused()


def test_damaged_yaml_of_ones_own_is_told_and_not_traced(tmp_path: Path) -> None:
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "bad.yaml").write_text("steps: [1\n")
    (tmp_path / "recipe" / "lost.yaml").write_text("defaults: [nowhere]\n")
    for option in ("bad", "lost"):
        assert "the YAML files" in refused(f"recipe={option}", config_dir=tmp_path)


def test_a_configuration_survives_json() -> None:
    for overrides in ([], ["router=soft"], ["router=dense"], ["router.impl=a.b:C", "router.options={x: [1, 2]}"]):
        run = config.load(overrides)
        assert config.from_dict(json.loads(json.dumps(config.to_dict(run)))) == run


def test_a_saved_configuration_of_another_version_is_read_or_refused_but_not_guessed() -> None:
    saved = config.to_dict(config.load())
    del saved["recipe"]["mixup"]
    assert config.from_dict(saved) == config.load()
    saved["recipe"]["mixdown"] = 1
    with pytest.raises(ConfigError, match=r"there is no setting recipe\.mixdown"):
        config.from_dict(saved)


def test_code_in_yaml_or_in_a_saved_configuration_is_refused_for_safety(tmp_path: Path) -> None:
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "code.yaml").write_text("name: x\n_target_: os.system\n")
    with pytest.raises(SecurityError, match="_target_ names code"):
        config.load(["recipe=code"], str(tmp_path))
    saved = config.to_dict(config.load(["router.impl=a.b:C"]))
    saved["router"]["options"] = {"x": [{"_target_": "os.system"}]}
    with pytest.raises(SecurityError, match=r"router\.options\.x\.0\._target_"):
        config.from_dict(saved)


def test_an_installed_router_needs_only_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[moe_bench.routers]\ntheirs = theirs.router:Router\n[moe_bench.affinities]\ncosine = theirs.gates:cosine\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    declared.cache_clear()
    assert config.load(["router=theirs"]).router == RouterConfig(name="theirs")
    own = config.load(["router.affinity=cosine", "router.name=cosine_ec"]).router
    assert own_code(own) == OwnCode("router.affinity=cosine", "theirs.gates:cosine")
    assert "router=softmax_ec" in refused("router=softmx_ec")
    declared.cache_clear()


def test_one_configuration_leaves_no_trace_in_the_next() -> None:
    before = config.load()
    config.load(["recipe.lr=7", "model.moe_blocks=[2]", "router.options={}", "data.name=x"])
    assert config.load() == before


def test_a_stray_word_is_no_setting_and_perhaps_the_folder_that_a_flag_is_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "→" not in refused("my-own-yaml")
    assert "→" not in refused("y" * 5000)
    Path("my-own-yaml/router").mkdir(parents=True)
    Path("my-own-yaml/router/mine.yaml").write_text("name: mine\n")
    assert "→ --config-dir my-own-yaml\n" in refused("my-own-yaml")
