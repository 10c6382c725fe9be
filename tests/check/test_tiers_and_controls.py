"""Checks on tiers, on power and on the controls: good builds pass, broken ones fail."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest

from datakit.check.finding import Finding
from datakit.check.null_control import check_null_control
from datakit.check.power import check_power, expected_width
from datakit.check.shortcut import check_shortcut
from datakit.check.tier_sanity import check_tier_sanity, spearman
from datakit.rng import rng_for
from datakit.stage import Ref
from datakit.stages.columns import TableRows

Build = Any


def test_feature_distance_grows_with_the_tier_or_is_a_warning(good: Build) -> None:
    found = good.find(check_tier_sanity, features=good.features_ref())
    assert found["passed"] and found["value"] > 0.5
    assert list(found["detail"]["mean_distance"]) == ["near", "mid", "far"]
    swapped = {i: "far_ood" for i in good.where(publish="near_ood")}
    swapped |= {i: "near_ood" for i in good.where(publish="far_ood")}
    broken = good.misfiled(publish=swapped).find(check_tier_sanity, features=good.features_ref())
    assert not broken["passed"] and broken["severity"] == "warn" and broken["value"] < 0
    none = good.misfiled(publish=dict.fromkeys(range(len(good.rows)), "reserve"))
    assert "no tier" in none.find(check_tier_sanity, features=good.features_ref())["summary"]


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([(0, 1.0), (1, 2.0), (2, 9.0)], 1.0),
        ([(0, 3.0), (1, 2.0), (2, 1.0)], -1.0),
        ([(0, 1.0), (1, 1.0)], 0.0),
    ],
)
def test_spearman_is_a_rank_correlation(pairs: list[tuple[float, float]], expected: float) -> None:
    assert spearman(pairs) == pytest.approx(expected)


def test_spearman_equals_scipys_on_ties() -> None:
    from scipy.stats import spearmanr

    rng = rng_for(0, "ties")
    pairs = [(float(rng.integers(0, 3)), float(rng.integers(0, 9))) for _ in range(40)]
    assert spearman(pairs) == pytest.approx(spearmanr(*zip(*pairs, strict=True)).statistic)


@pytest.mark.parametrize("field", ["width", "height", "bytes", "format", "mean_rgb"])
def test_a_file_property_that_gives_near_ood_away_is_a_warning(good: Build, field: str) -> None:
    found = _large(good).find(check_shortcut)
    assert found["passed"] and found["value"] <= 0.65, found["summary"]
    told = {"width": 32, "height": 32, "bytes": 900, "format": "PNG", "mean_rgb": [255.0, 0.0, 0.0]}[field]
    large = _large(good)
    broken = large.planted(**{field: dict.fromkeys(large.where(publish="near_ood"), told)})
    found = broken.find(check_shortcut)
    assert not found["passed"] and found["severity"] == "warn" and found["value"] > 0.9
    assert field in found["summary"]


def test_a_probe_that_cannot_run_does_not_pass(good: Build) -> None:
    few = good.misfiled(publish=dict.fromkeys(good.where(publish="near_ood")[1:], "reserve"))
    assert not few.find(check_shortcut)["passed"]


def _large(good: Build) -> Build:
    """Enough images on both sides that chance separates them little."""
    main = [i for i in range(len(good.rows)) if good.split["role"][i].as_py() != "outlier"]
    return good.misfiled(publish={i: "test" if i % 2 else "near_ood" for i in main})


def test_the_null_control_holds_for_every_detector_or_fails() -> None:
    rows = [
        {"method": "ce", "detector": name, "auroc": auroc} for name, auroc in (("msp", 0.52), ("knn", 0.47))
    ]
    assert _null(rows)["passed"]
    found = _null([*rows, {"method": "oe", "detector": "energy", "auroc": 0.56}])
    assert not found["passed"] and found["severity"] == "fail" and found["count"] == 1
    assert found["detail"]["detectors"] == [{"method": "oe", "detector": "energy", "auroc": 0.56}]
    assert not _null([])["passed"], "no result is no control"
    assert _null({"null_control": rows, "metrics": []})["count"] == 0, "the loop's own result will do"
    assert not _null([{"method": "ce", "detector": "msp", "auroc": float("nan")}])["passed"]


def test_the_null_control_allows_for_the_noise_of_small_sets() -> None:
    row = {"method": "ce", "detector": "msp", "auroc": 0.58}
    assert _null([row | {"n_val": 40, "n_test": 60}])["passed"]
    assert not _null([row | {"n_val": 4000, "n_test": 6000}])["passed"]


def _null(rows: Any) -> dict[str, Any]:
    nothing = TableRows(pa.table({"__key__": pa.array([], pa.string())}))
    found: dict[str, Any] = check_null_control(results=Ref.of(rows))(nothing)[0]
    return found


def test_a_small_test_is_a_warning_that_says_how_wide_the_interval_is(good: Build) -> None:
    found = good.find(check_power)
    assert not found["passed"] and found["severity"] == "warn" and 0 < found["value"] < 1
    assert good.find(check_power, min_classes=1, min_images=1)["passed"]
    assert not good.find(check_power, min_classes=1)["passed"], "enough classes, too few images"
    assert not good.find(check_power, min_images=1)["passed"], "enough images, too few classes"
    none = good.misfiled(publish={i: "reserve" for i in range(len(good.rows))})
    assert not none.find(check_power)["passed"]


def test_the_expected_interval_shrinks_with_classes_and_images() -> None:
    few, more, many = (expected_width(500, [20] * classes) for classes in (5, 20, 100))
    assert few > more > many
    assert expected_width(500, [100] * 20) < expected_width(500, [2] * 20)
    assert expected_width(500, [20] * 20) == more, "the same twice"


def test_a_finding_survives_json() -> None:
    finding = Finding(
        id="x", severity="warn", passed=False, summary="s", count=80, keys=tuple(map(str, range(80)))
    )
    data = finding.to_json()
    assert len(data["keys"]) == 50 and data["count"] == 80
    assert json.loads(json.dumps(data)) == data
