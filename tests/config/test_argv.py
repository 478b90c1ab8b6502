"""The command line as typed becomes one that Hydra can read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_bench.config.argv import as_typed, normalise

GROUPS = {"router": {"soft", "sinkhorn_ec"}, "capacity": {"1", "2"}, "model": {"tiny", "7"}}


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("capacity=2", "capacity='2'"),
        ("+capacity=2", "+capacity='2'"),
        ("capacity=1,2", "capacity='1','2'"),
        ("capacity='2'", "capacity='2'"),
        ("capacity=1.5", "capacity.factor=1.5"),
        ("capacity=1,1.5", "capacity.factor=1,1.5"),
        ("capacity=1e0", "capacity.factor=1e0"),
        ("capacity=-1", "capacity.factor=-1"),
        ("capacity=mine,2", "capacity=mine,'2'"),
        ("capacity=mine", "capacity=mine"),
        ("capacity=abc", "capacity=abc"),
        ("model=7", "model='7'"),
        ("model=8", "model='8'"),
        ("router=soft,sinkhorn_ec", "router=soft,sinkhorn_ec"),
        ("capacity.factor=1.25", "capacity.factor=1.25"),
        ("recipe.steps=2", "recipe.steps=2"),
        ("-m", "-m"),
        ("capacity", "capacity"),
    ],
)
def test_numbers_of_a_group_are_quoted_or_become_its_setting(typed: str, read: str) -> None:
    assert normalise([typed], GROUPS) == [read]


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("data.path=/a/b-1", "data.path=/a/b-1"),
        ("data.path=~/x y", "data.path='~/x y'"),
        ("data.path=it's", r"data.path='it\'s'"),
        ("data.train=d/{000..099}.tar", "data.train='d/{000..099}.tar'"),
        ("data.train=d/{a,b}.tar", "data.train='d/{a,b}.tar'"),
        ("data.train=[d/{a,b}.tar,e.tar]", "data.train=['d/{a,b}.tar',e.tar]"),
        ("data.train=['a,b{0..1}',c]", "data.train=['a,b{0..1}',c]"),
        ("data.train=https://h/a.tar?x=1&y=2", "data.train='https://h/a.tar?x=1&y=2'"),
        ("data.path=/a,/b", "data.path=/a,/b"),
        ("data.path=${runs_dir}/x", "data.path=${runs_dir}/x"),
        ("probe.sets=[]", "probe.sets=[]"),
    ],
)
def test_paths_need_no_quotes_of_hydras_grammar(typed: str, read: str) -> None:
    assert normalise([typed], GROUPS) == [read]


@given(st.lists(st.sampled_from(["capacity", "+router", "data.train", "probe.sets", "seed"]), max_size=3), st.data())
def test_normalising_twice_changes_nothing_more(keys: list[str], data: st.DataObject) -> None:
    values = st.text(alphabet="12.,e-ab/{}~[] ", max_size=12)
    once = normalise([f"{key}={data.draw(values)}" for key in keys], GROUPS)
    assert normalise(once, GROUPS) == once


@pytest.mark.parametrize(
    ("normalised", "typed"),
    [
        ("capacity='2'", "capacity=2"),
        ("capacity='1','2'", "capacity=1,2"),
        ("recipe.lr=1e-3", "recipe.lr=1e-3"),
        ("probe.sets=[a b]", "'probe.sets=[a b]'"),
        ("data.train='{0..3}.tar'", "'data.train='\"'\"'{0..3}.tar'\"'\"''"),
    ],
)
def test_a_word_is_shown_as_one_types_it_in_a_shell(normalised: str, typed: str) -> None:
    assert as_typed(normalised) == typed
