"""Stages, plans and fingerprints: what changes an address, and what must not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from datakit.errors import ConfigError
from datakit.recipe import CatalogUse, Plan, Recipe, Step, Store, catalogs
from datakit.rng import rng_for, seed_for
from datakit.stage import Ref, Rows, Sample, Stage, code_hash, reduce, stage


@stage(version=1)
def brighten(sample: Sample, *, by: float = 1.5) -> Sample:
    return sample | {"bright": sample["grey"] * by}


@reduce(version=1)
def mean(rows: Rows, *, of: str = "grey") -> float:
    return float(sum(rows.table([of])[of].to_pylist()))


@stage(version=1)
def centre(sample: Sample, *, mean: Ref[float]) -> Sample:
    return sample | {"centred": sample["grey"] - mean.value}


def plan(by: float = 1.5, checksum: str = "c0", of: str = "grey") -> Plan:
    images = catalogs(CatalogUse(name="toy"))
    bright = images.map(brighten(by=by))
    store = Store(step=bright.annotate(centre(mean=bright.reduce(mean(of=of)))), image_format=Ref.of("PNG"))
    return Plan(Recipe(store=store), {CatalogUse(name="toy").id: checksum})


def prints(plan: Plan) -> dict[str, str]:
    return {step.name: fingerprint for fingerprint, step in plan.steps.items()}


def test_a_stage_is_a_function_of_one_sample_and_a_test_of_it_is_one_call() -> None:
    before = {"__key__": "a", "grey": 2.0}
    assert brighten(by=2.0)(before)["bright"] == 4.0
    assert centre(mean=Ref.of(0.5))(before)["centred"] == 1.5
    assert before == {"__key__": "a", "grey": 2.0}


def test_a_misspelt_keyword_is_refused_where_it_is_written() -> None:
    with pytest.raises(TypeError, match="bye"):
        brighten(bye=2.0)  # type: ignore[call-arg]


def test_a_fingerprint_follows_keywords_inputs_and_the_catalogs_content() -> None:
    assert prints(plan()) == prints(plan())
    changed = prints(plan(by=2.0))
    same = {name for name, value in prints(plan()).items() if changed[name] == value}
    assert same == {"catalogs:toy"}
    changed = prints(plan(of="bright"))
    assert {name for name, value in prints(plan()).items() if changed[name] != value} == {
        "reduce:mean",
        "annotate:centre",
    }
    assert not set(prints(plan(checksum="c1")).values()) & set(prints(plan()).values())


def test_equal_steps_are_one_step() -> None:
    images = catalogs(CatalogUse(name="toy"))
    twice = [images.map(brighten()), images.map(brighten(by=1.5))]
    recipe = Recipe(
        store=Store(step=twice[0].annotate(brighten()), image_format=Ref.of("PNG")),
        files={"x": twice[1].reduce(mean())},
    )
    assert len(Plan(recipe, {CatalogUse(name="toy").id: "c"}).steps) == 4


def test_what_json_cannot_hold_is_no_keyword() -> None:
    @dataclass
    class Holder:
        thing: object

    step = Step(
        verb="map",
        stages=(Stage(shape="map", function=brighten, version=1, keywords={"by": Holder(object())}),),
    )
    with pytest.raises(ConfigError, match="cannot be a object"):
        Plan(Recipe(store=Store(step=step, image_format=Ref.of("PNG"))), {})


def test_the_code_hash_follows_what_is_reached_and_not_the_docstrings() -> None:
    assert code_hash(plan) == code_hash(plan)
    assert code_hash(plan) != code_hash(prints)


def count(rows: Rows) -> dict[str, int]:
    return {"rows": len(rows)}


def add(counts: list[dict[str, int]]) -> dict[str, int]:
    return {"rows": sum(one["rows"] for one in counts)}


def counted(value: dict[str, int], *, times: int = 2) -> int:
    return value["rows"] * times


def scaled(rows: Rows, times: int) -> dict[str, int]:
    return {"rows": len(rows) * times}


def test_a_tree_is_called_with_rows_like_any_reduce_and_hashes_its_parts() -> None:
    rows: Any = range(5)
    assert reduce(version=1, partial=count, merge=add)(counted)(times=3)(rows) == 15
    assert reduce(version=1, partial=scaled, merge=add)(counted)(times=3)(rows) == 45
    parts = [(count, add), (scaled, add), (count, scaled)]
    made = [reduce(version=1, partial=partial, merge=merge)(counted)() for partial, merge in parts]  # type: ignore[arg-type]
    assert len({*(stage.code for stage in made), reduce(version=1)(counted)().code}) == 4


def test_a_part_that_names_no_keyword_of_its_reduce_is_refused() -> None:
    with pytest.raises(TypeError, match="scaled names times, no keyword of add"):
        reduce(version=1, partial=scaled, merge=add)(add)
    with pytest.raises(TypeError, match="both partial and merge"):
        reduce(version=1, partial=scaled)(counted)  # type: ignore[call-overload]


def test_random_numbers_have_names_and_no_order() -> None:
    first = rng_for(0, "night", "key-1").random(4).tolist()
    rng_for(0, "night", "key-2").random(9)
    assert rng_for(0, "night", "key-1").random(4).tolist() == first
    assert (
        len({seed_for(0, "a", "bc"), seed_for(0, "ab", "c"), seed_for(1, "a", "bc"), seed_for(0, "abc")}) == 4
    )
