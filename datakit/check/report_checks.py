"""The checks on the page: grouped by what they claim, the most serious first, each with its verdict."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from datakit.check.report_words import check_words, clean, sentence

VERDICTS = {"fail": "Failed", "warn": "Warning", "info": "Note", "pass": "Passed"}  # most serious first
COUNTED = {"fail": "failed", "warn": "warning", "info": "note", "pass": "passed"}
MAX_DETAILS = 40  # lines of a finding's detail
MAX_DETAIL_TEXT = 300  # characters of one of them
MAX_KEYS = 50

Finding = Mapping[str, Any]


def verdict(finding: Finding) -> str:
    """fail, warn, info or pass. An unknown severity that did not pass counts as a failure, never as less."""
    if finding.get("passed") is True:
        return "pass"
    severity = str(finding.get("severity", "fail"))
    return severity if severity in ("warn", "info") else "fail"


def checks_view(findings: Sequence[Finding]) -> dict[str, Any]:
    """Groups of one check id each, worst verdict first, and how many findings have which verdict."""
    groups: dict[str, list[Finding]] = {}
    for finding in findings:
        groups.setdefault(str(finding.get("id", "unnamed")), []).append(finding)
    order = list(VERDICTS)
    shown = sorted(
        (_group(check, rows) for check, rows in groups.items()), key=lambda g: order.index(g["verdict"])
    )
    return {"groups": shown, "tally": tally(findings), "total": len(findings)}


def tally(findings: Sequence[Finding]) -> list[tuple[str, str, int]]:
    """(verdict, word, count) of the verdicts there are, the most serious first."""
    verdicts = [verdict(finding) for finding in findings]
    counted = [(name, verdicts.count(name)) for name in VERDICTS]
    return [
        (name, COUNTED[name] + ("s" if n > 1 and name in ("warn", "info") else ""), n)
        for name, n in counted
        if n
    ]


def _group(check: str, findings: Sequence[Finding]) -> dict[str, Any]:
    title, what, why = check_words(check)
    order = list(VERDICTS)
    rows = sorted(findings, key=lambda f: (order.index(verdict(f)), _seed(f)))
    worst = verdict(rows[0])
    return {
        "id": check, "title": title, "what": what, "why": why,
        "verdict": worst, "word": VERDICTS[worst], "summary": sentence(str(rows[0].get("summary", ""))),
        "severity": str(rows[0].get("severity", "fail")),
        "rows": [_row(finding) for finding in rows],
    }  # fmt: skip


def _seed(finding: Finding) -> int:
    seed = finding.get("seed")
    return seed if isinstance(seed, int) else -1


def _row(finding: Finding) -> dict[str, Any]:
    found = verdict(finding)
    keys = [str(key) for key in finding.get("keys") or ()]
    count = finding.get("count") or 0
    return {
        "verdict": found, "word": VERDICTS[found], "seed": finding.get("seed"),
        "summary": sentence(str(finding.get("summary", ""))), "count": count,
        "value": finding.get("value"), "limit": finding.get("limit"),
        "keys": keys[:MAX_KEYS], "cut": len(keys) >= MAX_KEYS,
        "detail": details(finding.get("detail") or {}),
    }  # fmt: skip


def details(detail: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, value) lines of a finding's detail: nested names joined by dots, values as short JSON."""
    lines = list(_flat(detail, ""))
    shown = [(clean(name), _short(value)) for name, value in lines[:MAX_DETAILS]]
    left = len(lines) - len(shown)
    return [*shown, ("…", f"{left} more not shown")] if left else shown


def _flat(detail: Mapping[str, Any], prefix: str) -> list[tuple[str, Any]]:
    lines: list[tuple[str, Any]] = []
    for name, value in detail.items():
        if isinstance(value, Mapping) and value:
            lines += _flat(value, f"{prefix}{name}.")
        else:
            lines.append((f"{prefix}{name}", value))
    return lines


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return clean(text if len(text) <= MAX_DETAIL_TEXT else text[: MAX_DETAIL_TEXT - 1] + "…")
