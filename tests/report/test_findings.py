from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from moe_bench.report.answers import answer, finding_parts, lengths, short_tables
from moe_bench.report.claims import CLAIMS
from moe_bench.report.collect import Run, collect
from moe_bench.report.evidence import ALPHA, seeds_needed
from moe_bench.report.findings import FAILS, HOLDS, OPEN, Finding, findings, judge
from moe_bench.report.groups import sections
from moe_bench.report.pairs import Pair, candidates, pairs
from moe_bench.report.paper import published
from moe_bench.report.paper_claims import in_the_paper, published_runs
from moe_bench.report.recommend import advice, candidates_table, in_words, recommendations
from moe_bench.report.tables import Table, result_table
from moe_bench.report.trend import appears, curves, trend
from moe_bench.report.verdicts import as_json, judged

from .runs import add_run

ROUTERS = ("dense", "softmax_tc", "sinkhorn_tc", "softmax_ec", "sinkhorn_ec", "sparse_ec", "soft")


def finding(root: Path, claim: str, figure: str = "val/prec1") -> Finding:
    (found,) = [f for f in findings(collect(root).runs) if f.claim.name == claim and f.figure == figure]
    return found


def add(root: Path, router: str, prec1: float, seeds: int = 3, capacity: float = 1.0, **more: Any) -> None:
    """Seeds share what lies at them, 1 point from one to the next; each router adds up to 0.1 points of its own."""
    noise = random.Random(ROUTERS.index(router))
    for seed in range(seeds):
        mine = prec1 + 0.01 * seed + noise.uniform(-0.001, 0.001)
        add_run(root, router, capacity=capacity, seed=seed, prec1=mine, **more)


def cost(device_days: float) -> dict[str, Any]:
    return {"cost/device_days": device_days}


@pytest.mark.parametrize(("gain", "verdict"), [(0.05, HOLDS), (-0.05, FAILS), (0.001, OPEN)])
def test_a_verdict_follows_the_runs(tmp_path: Path, gain: float, verdict: str) -> None:
    add(tmp_path, "softmax_tc", 0.7)
    add(tmp_path, "sinkhorn_tc", 0.7 + gain)
    found = finding(tmp_path, "sinkhorn-over-softmax")
    assert found.verdict == verdict
    assert found.evidence is not None
    assert found.evidence.effect == pytest.approx(100 * gain, abs=0.2)
    assert bool(found.more) == (verdict == OPEN)


def test_one_seed_is_never_enough_however_large_the_difference(tmp_path: Path) -> None:
    for capacity in (1.0, 2.0):
        for router, prec1 in (("softmax_tc", 0.3), ("softmax_ec", 0.9), ("sinkhorn_tc", 0.3), ("sinkhorn_ec", 0.8)):
            add(tmp_path, router, prec1, 1, capacity)
    found = finding(tmp_path, "expert-over-token")
    assert (found.verdict, found.reason, found.more) == (OPEN, "one seed", "at least 2")


def test_seeds_that_a_claim_lacks_are_those_it_takes_beside_the_other_claims(tmp_path: Path) -> None:
    """Two seeds make no test; the difference is twice its spread."""

    def asked() -> int:
        return int(finding(tmp_path, "dense/softmax_ec/1").more.removeprefix("about "))

    for seed, lead in enumerate((0.02 + 0.01 / 2**0.5, 0.02 - 0.01 / 2**0.5)):
        add_run(tmp_path, "dense", seed=seed, prec1=0.7)
        add_run(tmp_path, "softmax_ec", seed=seed, prec1=0.7 + lead)
    assert 2 + asked() == seeds_needed([2.0]) == 5
    for router in ROUTERS[1:]:
        if router != "softmax_ec":
            add(tmp_path, router, 0.7, seeds=2)
    assert 2 + asked() == seeds_needed([2.0], ALPHA / 6) == 7


def test_without_pairs_the_runs_to_make_are_named(tmp_path: Path) -> None:
    add(tmp_path, "softmax_tc", 0.7)
    found = finding(tmp_path, "softmax-combine")
    assert found.verdict == OPEN
    assert "router.combine=softmax,plan" in found.more


def test_the_runs_to_make_are_asked_for_as_those_that_are_there(tmp_path: Path) -> None:
    for router in ("softmax_tc", "softmax_ec"):
        folder = add_run(tmp_path, router)
        record = json.loads((folder / "run.json").read_text())
        own = ["seed=0", "capacity='1'", f"router={router}", "router.noise=0", "hydra.launcher.jobs=2"]
        asked = [
            *own,
            "experiment=mini",
            "probe.sets=[a,b]",
            f"runtime.workers={router == 'softmax_tc':d}",
            "data.width='32'",
        ]
        (folder / "run.json").write_text(json.dumps({**record, "overrides": asked}))
    (table,) = short_tables(judged(collect(tmp_path).runs)[0])
    (note,) = [note for note in table.notes if "needs as well" in note]
    assert note.endswith("needs as well: experiment=mini 'probe.sets=[a,b]' data.width=32")


def test_diverged_runs_are_told_and_not_counted(tmp_path: Path) -> None:
    add(tmp_path, "softmax_tc", 0.7)
    add(tmp_path, "sinkhorn_tc", 0.75, seeds=2)
    add_run(tmp_path, "sinkhorn_tc", seed=2, state="diverged", reason="loss is nan")
    found = finding(tmp_path, "sinkhorn-over-softmax")
    assert found.unfinished == 1
    assert found.evidence is not None
    assert found.evidence.pairs == 2
    assert found.verdict == OPEN


@pytest.mark.parametrize("key", ["capacity.group_images", "model.experts"])
def test_mixtures_of_several_settings_share_their_dense_runs_and_each_counts(tmp_path: Path, key: str) -> None:
    add(tmp_path, "dense", 0.6)
    for value, gain in ((8, 0.02), (32, 0.04)):
        add(tmp_path, "softmax_tc", 0.6 + gain, science={key: value})
        add(tmp_path, "softmax_ec", 0.65 + gain, science={key: value})
    over_dense, over_token = finding(tmp_path, "dense/softmax_tc/1"), finding(tmp_path, "expert-over-token")
    for found, points in ((over_dense, {"8": 2, "32": 4}), (over_token, {"8": 5, "32": 5})):
        assert found.evidence is not None
        assert (found.evidence.pairs, found.evidence.left_out) == (6, 0)
        by_value = {words.rpartition(f"{key}=")[2]: effect for words, effect in found.evidence.by_setting.items()}
        assert by_value == pytest.approx(points, abs=0.3)


def test_runs_with_another_recipe_or_model_are_no_pair(tmp_path: Path) -> None:
    add(tmp_path, "softmax_tc", 0.7)
    add(tmp_path, "sinkhorn_tc", 0.75, science={"recipe.lr": 0.1})
    add(tmp_path, "sinkhorn_tc", 0.75, model="b32")
    assert finding(tmp_path, "sinkhorn-over-softmax").evidence is None


def test_affinities_are_alike_when_each_pair_is_within_the_margin(tmp_path: Path) -> None:
    for router, prec1 in (("softmax_ec", 0.7), ("sinkhorn_ec", 0.7005), ("sparse_ec", 0.6995)):
        add(tmp_path, router, prec1, seeds=4)
    assert finding(tmp_path, "affinity-alike").verdict == HOLDS
    add(tmp_path, "sparse_ec", 0.2, seeds=4, capacity=2.0)
    add(tmp_path, "softmax_ec", 0.7, seeds=4, capacity=2.0)
    assert finding(tmp_path, "affinity-alike").verdict == FAILS


def test_affinities_are_not_alike_while_one_of_them_has_too_few_seeds(tmp_path: Path) -> None:
    for router, seeds in (("softmax_ec", 4), ("sinkhorn_ec", 4), ("sparse_ec", 1)):
        add(tmp_path, router, 0.7, seeds)
    found = finding(tmp_path, "affinity-alike")
    assert (found.verdict, found.reason, found.more) == (OPEN, "one seed", "at least 2")


def test_affinities_are_unlike_when_two_of_them_are_whatever_the_third_lacks(tmp_path: Path) -> None:
    for router, prec1, seeds in (("softmax_ec", 0.7, 4), ("sinkhorn_ec", 0.8, 4), ("sparse_ec", 0.7, 1)):
        add(tmp_path, router, prec1, seeds)
    found = finding(tmp_path, "affinity-alike")
    assert (found.verdict, found.reason) == (FAILS, "more than 0.62 points")


def test_no_verdict_stands_that_would_not_survive_the_other_claims(tmp_path: Path) -> None:
    """By itself each of them would: a gap beyond the margin, a difference within a tenth of a point."""
    for seed, (wide, small) in enumerate([(0.0115, 0.0), (0.0155, 3e-4), (0.0195, -3e-4)]):
        for router, prec1 in (("softmax_ec", 0.7), ("sinkhorn_ec", 0.7 + wide), ("softmax_tc", 0.5)):
            add_run(tmp_path, router, seed=seed, prec1=prec1)
        add_run(tmp_path, "sinkhorn_tc", seed=seed, prec1=0.5 + small)
    runs = collect(tmp_path).runs
    for name in ("affinity-alike", "sinkhorn-over-softmax"):
        claim = next(claim for claim in CLAIMS if claim.name == name)
        alone = judge(claim, "val/prec1", pairs(claim, candidates(runs)), lambda run: run.number("val/prec1"))
        found = finding(tmp_path, name)
        assert (alone.verdict, found.verdict) == (FAILS, OPEN)
        assert alone.p is not None
        assert found.p is not None
        assert alone.p < ALPHA <= found.p


def test_no_router_is_called_dearer_by_the_luck_of_having_been_picked() -> None:
    claim = next(claim for claim in CLAIMS if claim.dearest)
    rng = random.Random(5)
    alarms = 0
    for _ in range(500):
        seeds = range(4)
        runs = {name: [priced(name, seed, rng.gauss(100, 1)) for seed in seeds] for name in ROUTERS[1:]}
        others = {names: zip(*(runs[name] for name in names)) for names in claim.comparisons}
        paired = [
            Pair(f"{names[0]} over {names[1]}, tiny", names, a.seed or 0, a, b)
            for names in others
            for a, b in others[names]
        ]
        alarms += judge(claim, "cost/device_days", paired, lambda run: run.number("cost/device_days")).verdict != OPEN
    assert alarms / 500 < ALPHA


def priced(router: str, seed: int, days: float) -> Run:
    return Run(router, Path(), "finished", "", router, "tiny", 1.0, "digits", seed, summary=cost(days))


def test_lost_runs_of_another_capacity_than_the_claims_are_not_told_with_it(tmp_path: Path) -> None:
    for router in ("dense", "soft"):
        add(tmp_path, router, 0.7)
    add_run(tmp_path, "soft", capacity=2.0, seed=3, state="failed")
    add_run(tmp_path, "dense", seed=3, state="diverged")
    assert finding(tmp_path, "dense/soft/1").unfinished == 1


def test_the_plan_combine_is_told_from_the_softmax_combine(tmp_path: Path) -> None:
    add(tmp_path, "sinkhorn_tc", 0.75)
    for seed, prec1 in enumerate((0.70, 0.713, 0.719)):
        add_run(tmp_path, "sinkhorn_tc", seed=seed, prec1=prec1, science={"router.combine": "plan"})
    assert finding(tmp_path, "softmax-combine").verdict == HOLDS


def test_costs_are_ratios_on_one_device(tmp_path: Path) -> None:
    for seed in range(3):
        add_run(tmp_path, "sparse_ec", seed=seed, **cost(2.0 + 0.1 * seed))
        add_run(tmp_path, "softmax_ec", seed=seed, **cost(1.0))
        add_run(tmp_path, "soft", seed=seed, device="H100", **cost(1.5))
    found = finding(tmp_path, "sparse-dearest", "cost/device_days")
    assert found.evidence is None  # the dearest other ran elsewhere
    for folder in tmp_path.glob("soft-*"):
        (folder / "summary.json").unlink()
    assert finding(tmp_path, "sparse-dearest", "cost/device_days").verdict == HOLDS


def test_the_dense_model_is_compared_at_every_capacity_and_the_first_line_answers(tmp_path: Path) -> None:
    add(tmp_path, "dense", 0.70)
    add(tmp_path, "softmax_ec", 0.75)
    add(tmp_path, "softmax_ec", 0.76, capacity=2.0)
    assert finding(tmp_path, "dense/softmax_ec/1").verdict == HOLDS
    assert finding(tmp_path, "dense/softmax_ec/2").verdict == HOLDS
    (block,) = judged(collect(tmp_path).runs)
    assert "equal compute on these data? Yes: softmax_ec +" in answer(block)


def test_the_papers_claims_hold_on_its_numbers_with_its_own_exceptions() -> None:
    runs = published_runs(published())
    by_name = {claim.name: claim for claim in CLAIMS}

    def exceptions(name: str, figure: str) -> list[str]:
        found = in_the_paper(by_name[name], figure, runs)
        assert found.evidence is not None
        assert found.verdict == OPEN  # one seed
        if not by_name[name].alike:
            assert found.evidence.effect > 0
        return found.contrary

    assert exceptions("expert-over-token", "val/prec1") == []
    few = "probe/imagenet/10shot"
    assert exceptions("expert-over-token", few) == ["sparse_ec over sinkhorn_tc, b32, capacity 2"]
    versus = "sinkhorn_tc over softmax_tc"
    assert exceptions("sinkhorn-over-softmax", "val/prec1") == [f"{versus}, l16, capacity 2"]
    assert exceptions("sinkhorn-over-softmax", few) == [f"{versus}, b32, capacity 2", f"{versus}, l16, capacity 1"]
    for name in ("affinity-alike", "soft-over-sparse", "capacity-two"):
        assert exceptions(name, "val/prec1") == exceptions(name, few) == []
    assert exceptions("sparse-dearest", "cost/device_days") == []


def test_a_finding_appears_where_its_verdict_stays(tmp_path: Path) -> None:
    add(tmp_path, "softmax_tc", 0.7)
    add(tmp_path, "sinkhorn_tc", 0.75)
    for folder in tmp_path.iterdir():
        final = json.loads((folder / "summary.json").read_text())["val/prec1"]
        late = final - 0.05 if folder.name.startswith("sinkhorn") else final
        rows = [{"step": 200, "val/prec1": late}, {"step": 400, "val/prec1": final}, {"step": 600, "val/prec1": final}]
        (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows) + '{"step": 700, "val/pr')
    runs = collect(tmp_path).runs
    found = finding(tmp_path, "sinkhorn-over-softmax")
    moments = trend(found, curves(runs))
    assert [moment.verdict for moment in moments] == [OPEN, HOLDS, HOLDS]
    assert appears(found, moments) == 400


def test_a_recommendation_names_the_best_the_cheapest_and_what_cannot_be_told_apart(tmp_path: Path) -> None:
    add(tmp_path, "soft", 0.80, **cost(2.0))
    add(tmp_path, "softmax_ec", 0.7999, **cost(1.5))
    add(tmp_path, "sinkhorn_tc", 0.70, **cost(1.7))
    add(tmp_path, "softmax_tc", 0.60, **cost(1.0))
    (section,) = sections(collect(tmp_path).runs)
    (found,) = recommendations(section)
    assert (found.best.name, found.cheapest.name) == ("soft capacity 1", "softmax_tc capacity 1")
    assert [c.name for c in found.pareto] == ["softmax_tc capacity 1", "softmax_ec capacity 1", "soft capacity 1"]
    assert [c.name for c in found.candidates if c.may_be_as_good] == ["soft capacity 1", "softmax_ec capacity 1"]
    said = in_words(found)
    assert "cannot tell it from softmax_ec capacity 1 (" in said
    assert "Of these softmax_ec capacity 1 is the cheapest: 1.5 device-days, 75 % of that." in said
    assert "The cheapest of all is softmax_tc capacity 1 (" in said


def test_a_setting_that_is_ahead_on_the_seeds_it_shares_with_the_best_may_be_the_best(tmp_path: Path) -> None:
    add(tmp_path, "softmax_ec", 0.80, seeds=3)
    for seed, prec1 in enumerate((0.780, 0.791, 0.799, 0.90, 0.90)):
        add_run(tmp_path, "soft", seed=seed, prec1=prec1)
    (found,) = recommendations(sections(collect(tmp_path).runs)[0])
    assert found.best.name == "soft capacity 1"
    assert "cannot tell it from softmax_ec capacity 1 (+" in in_words(found)


def test_costs_are_never_written_with_all_digits_of_a_large_number_nor_a_tie_with_a_minus(tmp_path: Path) -> None:
    for seed in range(3):
        add_run(tmp_path, "soft", seed=seed, device="H100", prec1=0.8, **cost(1234.5))
        add_run(tmp_path, "dense", seed=seed, device="H100", prec1=0.8, **cost(2345.6))
    (found,) = recommendations(sections(collect(tmp_path).runs)[0])
    assert "80.0 % at 1,234 device-days" in in_words(found)
    assert "dense (+0.00 points" in in_words(found)
    add_run(tmp_path, "softmax_ec", prec1=0.7, **{"device": "A100", "flops/image": 7e12})
    (found,) = recommendations(sections(collect(tmp_path).runs)[0])
    table = candidates_table("", [found])
    assert {row[table.headings.index("training FLOP")] for row in table.texts} == {"3.53e+13", "1.61e+18"}


def test_a_rival_that_costs_about_as_much_is_not_called_the_cheapest(tmp_path: Path) -> None:
    add(tmp_path, "soft", 0.80, **cost(2.0))
    add(tmp_path, "softmax_ec", 0.7999, **cost(1.995))
    (found,) = recommendations(sections(collect(tmp_path).runs)[0])
    assert "Of these" not in in_words(found)


def test_what_findings_rest_on_has_no_table_without_a_row(tmp_path: Path) -> None:
    def tables() -> list[Table]:
        return [part for part in finding_parts(judged(collect(tmp_path).runs)) if isinstance(part, Table)]

    trained = [{"science": {"recipe.steps": n}, "config": {"recipe": {"steps": n}}} for n in (60, 600)]
    for one in trained:
        add_run(tmp_path, "softmax_tc", **one)
    assert tables() == []
    add_run(tmp_path, "sinkhorn_tc", **trained[1], **{"probe/digits/10shot": None})
    titles = [table.title.partition(":")[0] for table in tables()]
    assert titles == ["The paper's claims", "Findings on prec@1 by length of training", "Findings on prec@1"]


def test_on_one_seed_the_recommendation_counts_what_it_cannot_tell_apart(tmp_path: Path) -> None:
    for router in ROUTERS:
        add(tmp_path, router, 0.7, seeds=1)
    (found,) = recommendations(sections(collect(tmp_path).runs)[0])
    assert "One seed cannot tell it from the 6 other settings: repeat with seed=0,1,2" in in_words(found)


def test_cpu_time_is_the_price_where_every_setting_counted_it(tmp_path: Path) -> None:
    """Wall time says that sparse_ec is the cheaper: it had the machine for itself."""
    for seed in range(3):
        counted = {"cost/cpu_s": 172_800.0 + 100 * seed} if seed else {}
        add_run(tmp_path, "sparse_ec", seed=seed, **cost(1.0), **counted)
        add_run(tmp_path, "softmax_ec", seed=seed, **cost(5.0), **{"cost/cpu_s": 86_400.0})
    found = finding(tmp_path, "sparse-dearest", "cost/cpu_s")
    assert found.evidence is not None
    assert (found.evidence.effect, found.evidence.seeds) == (pytest.approx(math.log(2), abs=2e-3), 2)
    (section,) = sections(collect(tmp_path).runs)
    table = result_table(section)
    days = dict(zip([row[2] for row in table.texts], (row[table.headings.index("CPU-days")] for row in table.texts)))
    assert days == {"sparse_ec": "2.00 (2)", "softmax_ec": "1.00"}
    assert recommendations(section)[0].price.unit == "CPU-days"


def test_wall_time_on_a_cpu_is_told_where_a_setting_did_not_count_its_own(tmp_path: Path) -> None:
    add_run(tmp_path, "sparse_ec", **{"cost/cpu_s": 1.0})
    add_run(tmp_path, "softmax_ec")
    (section,) = sections(collect(tmp_path).runs)
    assert section.price.unit == "device-days"
    assert "what else ran there is in them" in result_table(section).notes[-1]


def test_the_findings_of_each_length_of_training_stand_side_by_side(tmp_path: Path) -> None:
    for steps, gain in ((600, 0.05), (60, -0.05)):
        for router, prec1 in (("softmax_tc", 0.7), ("sinkhorn_tc", 0.7 + gain)):
            add(tmp_path, router, prec1, science={"recipe.steps": steps})
    for path in tmp_path.glob("*/run.json"):
        record = json.loads(path.read_text())
        record["config"]["recipe"]["steps"] = record["science"]["recipe.steps"]
        path.write_text(json.dumps(record))
    (table,) = lengths(judged(collect(tmp_path).runs))
    assert table.headings == ["claim", "60 steps of 128 pictures", "600 steps of 128 pictures"]
    (row,) = [row for row in table.texts if row[0].startswith("Sinkhorn beats")]
    assert [cell.split(",")[0] for cell in row[1:]] == ["does not hold", "holds"]


def test_claims_at_a_glance_are_level_where_the_interval_is_within_a_tenth_of_a_point(tmp_path: Path) -> None:
    for seed, twist in enumerate((0.0, 1e-4, -1e-4, 1e-4)):
        add_run(tmp_path, "softmax_tc", seed=seed, prec1=0.7)
        add_run(tmp_path, "sinkhorn_tc", seed=seed, prec1=0.7 + twist)
    (block,) = judged(collect(tmp_path).runs)
    (table,) = short_tables(block)
    (row,) = [row for row in table.texts if row[0].startswith("Sinkhorn beats")]
    assert row[table.headings.index("prec@1")].startswith("level, +0.00 ± 0.0")
    assert any("± 0.1 points" in note for note in table.notes)


def test_two_seeds_in_common_are_too_few_to_tell_a_setting_from_the_best(tmp_path: Path) -> None:
    add(tmp_path, "soft", 0.80)
    add(tmp_path, "softmax_ec", 0.60, seeds=2)
    (found,) = recommendations(sections(collect(tmp_path).runs)[0])
    assert "points, too few seeds to test)" in in_words(found)


def test_findings_can_be_read_by_programs(tmp_path: Path) -> None:
    add(tmp_path, "softmax_tc", 0.7)
    add(tmp_path, "sinkhorn_tc", 0.75)
    runs = collect(tmp_path).runs
    value = json.loads(as_json(judged(runs), advice(sections(runs))))
    (entry,) = [
        f for f in value["blocks"][0]["findings"] if (f["claim"], f["metric"]) == ("sinkhorn-over-softmax", "val/prec1")
    ]
    assert (entry["verdict"], entry["pairs"]) == (HOLDS, 3)


def test_a_probe_that_no_pair_has_takes_no_column(tmp_path: Path) -> None:
    add(tmp_path, "softmax_tc", 0.5)
    add(tmp_path, "softmax_ec", 0.6)
    shots = {"probe/digits/1shot": 0.2, "probe/digits/10shot": None}
    add(tmp_path, "sparse_ec", 0.6, science={"probe.shots": [1]}, **shots)
    (block,) = judged(collect(tmp_path).runs)
    (found,) = short_tables(block)
    assert "probe/digits/1shot" in {f.figure for f in block.findings}
    assert found.headings == ["claim", "seeds", "prec@1", "digits 10-shot", "device-days ×", "FLOPs ×"]
