from __future__ import annotations

import io
import re
import subprocess
import sys
import textwrap
from dataclasses import replace

import pytest

from moe_bench.monitor.console import make_console
from moe_bench.monitor.header import RunFacts, capacity_words, header, router_words
from moe_bench.monitor.summary import summary_view

FACTS = RunFacts(
    run_id="softmax_ec-tiny-c1-digits-s0-1a2b3c4d",
    folder="runs/softmax_ec-tiny-c1-digits-s0-1a2b3c4d",
    note="starting",
    model="tiny",
    image_size=32,
    patch=4,
    params_total=5_812_000,
    params_active=1_210_000,
    flops_per_image=153.2e6,
    router=router_words("softmax_ec", "softmax", "expert", "softmax"),
    experts=8,
    moe_layers=3,
    tokens_per_group=512,
    group_images=8,
    slots_per_expert=64,
    capacity=1.0,
    data="digits",
    train_size=12_000,
    val_size=2_000,
    classes=100,
    steps=600,
    batch=128,
    device_batch=64,
    accumulation=2,
    devices=1,
    device="CPU",
    precision="32-bit",
    about_s=185.0,
)
SUMMARY = {
    "run_id": FACTS.run_id,
    "val/prec1": 0.873,
    "val/loss": 0.61,
    "probe/digits/10shot": 0.921,
    "probe/digits/10shot/std": 0.008,
    "probe/digits/10shot/floor": 0.743,
    "probe/l2": 1024.0,
    "params/total": 5_812_000,
    "params/active": 1_210_000,
    "flops/image": 153.2e6,
    "time/train_s": 182.4,
    "cost/device_days": 182.4 / 86400,
    "cost/images_per_s": 421.1,
    "memory/peak_gb": 1.21,
}


def words(facts: RunFacts) -> str:
    return " ".join(header(facts).plain.split())


def test_plans_gates_and_controls_have_words() -> None:
    assert (
        router_words(
            "sparse_ec", "sparse", "expert", "softmax", solving={"router/solver": "adam", "router/iterations": 20}
        )
        == "sparse_ec: sparse plan (20 iterations of adam) × experts choose their tokens × softmax weights"
    )
    sinkhorn = router_words("mine", "sinkhorn", "token", "plan", 2, {"router/iterations": 5})
    assert sinkhorn == "mine: Sinkhorn plan (5 iterations) × tokens choose 2 experts each × the plan's weights"
    sigmoid = router_words("sigmoid_tc", "sigmoid", "token", "plan", 1)
    assert sigmoid == "sigmoid_tc: sigmoid gates × tokens choose 1 expert each × these weights"
    assert "my_affinity:centred × tokens" in router_words("centred_tc", "my_affinity:centred", "token", "plan", 1)
    assert (
        router_words("hash", k=2) == "hash: no gate, a token's place in its image decides on 2 experts for each token"
    )


def test_another_capacity_at_evaluation_is_told() -> None:
    told = capacity_words(replace(FACTS, evaluation={"capacity/eval": 4.0, "slots_per_expert/eval": 256}))
    assert told.endswith("in 3 layers; at evaluation 4: 256 slots")


def test_one_of_a_thing_is_no_plural() -> None:
    one = {"capacity/eval": 1.0, "slots_per_expert/eval": 1}
    text = words(replace(FACTS, train_size=1, classes=1, steps=1, batch=1, accumulation=1, evaluation=one))
    for fact in ("1 picture to train", "1 class", "1 step × 1 picture", "= 1 epoch", "at evaluation 1: 1 slot"):
        assert re.search(rf"{fact}(?!\w)", text), fact


def test_the_header_has_every_fact_with_its_unit() -> None:
    text = words(FACTS)
    for fact in (
        "5.8 M parameters, 1.2 M active",
        "153 MFLOP/image",
        "groups of 512 tokens (8 images), 8 experts × 64 slots, in 3 layers",
        "12,000 pictures to train, 2,000 to validate, 100 classes",
        "600 steps × 128 pictures (64 × 2 parts) = 6.4 epochs",
        "CPU, 32-bit",
        "about 3 min",
        FACTS.folder,
    ):
        assert fact in text


def test_what_does_not_apply_is_not_said() -> None:
    dense = replace(FACTS, router=router_words("dense"), experts=0, params_active=FACTS.params_total, about_s=None)
    text = words(dense)
    assert "no router" in text
    for word in ("slots", "active", "expected"):
        assert word not in text


def test_the_true_capacity_is_said_where_rounding_changed_it() -> None:
    assert "rounding" not in capacity_words(FACTS)
    assert capacity_words(replace(FACTS, tokens_per_group=100, slots_per_expert=13)).endswith("makes it 1.04")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("soft",), "soft: every slot is a mixture of all tokens of an image"),
        (
            ("sinkhorn_ec", "sinkhorn", "expert", "plan"),
            "sinkhorn_ec: Sinkhorn plan × experts choose their tokens × the plan's weights",
        ),
        (
            ("softmax_tc", "softmax", "token", "softmax", 1),
            "softmax_tc: softmax × tokens choose 1 expert each × softmax weights",
        ),
        (("mine",), "mine"),
    ],
)
def test_a_router_in_words(arguments: tuple[str, ...], sentence: str) -> None:
    assert router_words(*arguments) == sentence


@pytest.mark.parametrize("columns", [80, 120, 300])
def test_no_line_is_wider_than_the_terminal_unless_it_must_be_copied(columns: int) -> None:
    command = "moe-bench probe runs/softmax_ec-tiny-c1-digits-s0-1a2b3c4d --shots 1,5,10,25 --policy heldout --draws 9"
    lines = (
        header(FACTS, columns).plain + summary_view(SUMMARY, FACTS.folder, [(command, "more")], columns).plain
    ).splitlines()
    assert f"  {command}" in lines
    assert all(len(line) <= columns or line == f"  {command}" for line in lines)
    assert not any(line != line.rstrip() for line in lines)


def test_a_probe_stands_beside_what_raw_pixels_reach() -> None:
    text = summary_view(SUMMARY, FACTS.folder, []).plain
    assert "digits 10-shot  92.1 % ± 0.8 · raw pixels reach 74.3 %" in text
    assert "3 min 02 s · 0.00211 device-days · 421 img/s · 1.2 GB peak" in text
    assert "l2" not in text


def test_the_pictures_of_training_are_told_to_the_last_one() -> None:
    seen = {"data/seen": 76_800, "data/epochs": 1.536, "data/distinct": 49_998, "data/repeated": 26_802}
    whole = " ".join(summary_view(SUMMARY | seen | {"data/skipped": 0}, FACTS.folder, []).plain.split())
    assert "76,800 seen in 1.54 epochs · 49,998 different · 26,802 repeated · 0 skipped" in whole
    bad = {"data/skipped": 3, "data/skipped/empty": 1, "data/skipped/too_large": 2, "data/bad": 2, "val/bad": 4}
    told = summary_view(SUMMARY | seen | bad | {"probe/pets/bad": 5}, FACTS.folder, [])
    skipped = " ".join(told.plain.split())
    assert "3 skipped (1 empty, 2 too large; 2 bad pictures) · 4 of validation bad · 5 of pets bad" in skipped


def test_a_summary_with_gaps_is_still_told() -> None:
    text = summary_view({"run_id": "x", "val/prec1": None}, "runs/x", [("moe-bench ls", "list")]).plain
    assert "–" in text
    assert "moe-bench ls" in text


def test_a_number_and_its_unit_stay_together() -> None:
    for columns in range(50, 110):
        for line in header(FACTS, columns).plain.splitlines():
            assert not line.split() or not line.split()[-1].replace(",", "").replace(".", "").isdigit()


def test_a_reader_that_leaves_does_not_end_the_run() -> None:
    script = """
        import sys
        from moe_bench.monitor.console import make_console
        console = make_console()
        for _ in range(20_000):
            console.print("step")
        print("done", file=sys.stderr)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b"done\n"
        assert process.wait() == 0


def test_a_terminal_without_utf8_is_no_error() -> None:
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    make_console(terminal).print(header(FACTS))
    terminal.seek(0)
    assert "600 steps ? 128 pictures" in terminal.read()
