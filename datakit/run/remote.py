"""A job as text, for workers that another program starts: what they must agree to, the job, and the answer.

Nothing but strings goes either way, so that what runs on a worker is that worker's own code, which is compared first.
"""

from __future__ import annotations

import builtins
import json
import os
import socket
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from datakit import errors
from datakit.errors import DatakitError, EnvironmentProblem
from datakit.manifest import Manifest, versions
from datakit.run.child import NOTHING, portable
from datakit.run.code import CODE
from datakit.run.job import Job
from datakit.run.progress import QuietSink
from datakit.run.supervise import Task, supervised
from datakit.run.watch import Limits

EVERY = 1.0  # seconds between a worker's words on its progress: a thousand workers talk to one scheduler
SEEN = 3.0  # seconds that a file may take to appear on a shared disk


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What a worker agrees to before it runs a job of a build. `probes`: files that hold the build's name."""

    build: str
    code: str
    versions: Mapping[str, str]
    probes: tuple[str, ...]


def terms_of(build: str, probes: tuple[str, ...]) -> Terms:
    return Terms(build=build, code=CODE, versions=versions(), probes=probes)


def refusal(terms: Terms) -> str:
    """Why this process cannot work for that build, in words; nothing if it can."""
    here = f"the worker on {socket.gethostname()} (process {os.getpid()})"
    if terms.code != CODE:
        return f"{here} runs other code of datakit than this build; install the same there and start its workers anew"
    for name, version in versions().items():
        if terms.versions.get(name, version) != version:
            return (
                f"{here} has {name} {version} and this build {terms.versions[name]}, which can change bytes; "
                "install the same there"
            )
    for probe in terms.probes:
        if not _sees(Path(probe), terms.build):
            folder = Path(probe).parent
            return f"{here} does not see {folder} as this build does; use a folder that all machines share"
    return ""


def _sees(path: Path, text: str) -> bool:
    until = time.monotonic() + SEEN
    while True:
        try:
            if path.read_text() == text:
                return True
        except OSError:
            pass  # not there, or not for us: both are told by the answer
        if time.monotonic() > until:
            return False
        time.sleep(0.2)


@cache
def _agreed(build: str, terms: str) -> str:
    """Asked once a build."""
    return refusal(_terms(json.loads(terms)))


def _terms(words: dict[str, Any]) -> Terms:
    return Terms(**{**words, "probes": tuple(words["probes"])})


def check(text: str) -> str:
    """`refusal` of the terms in `text`."""
    return refusal(_terms(json.loads(text)))


def asked(key: str, terms: Terms, job: Job, limits: Limits) -> str:
    """The text of a job. `key`: its name in what the worker says of its progress."""
    words = {"terms": json.dumps(asdict(terms)), "build": terms.build, "limits": asdict(limits)}
    return json.dumps({"key": key, **words, "job": asdict(job)})


def answer(text: str, say: Callable[[dict[str, Any]], None]) -> str:
    """Run the job of a text; its manifest or its error as text. `say` gets words on its progress, if it is long."""
    words = json.loads(text)
    told = _Told(words["key"], say)
    try:
        if why := _agreed(words["build"], words["terms"]):
            raise EnvironmentProblem(why)
        limits = Limits(**words["limits"])
        task = Task(build=words["build"], job=_job(words["job"]), limits=limits, sink=told)
        manifest = supervised(task)
    except Exception as problem:  # whatever it is, the driver hears it
        return json.dumps({"problem": problem_words(problem)})
    return json.dumps({"manifest": asdict(manifest), "told": told.total})


def _job(words: dict[str, Any]) -> Job:
    return Job(**{name: _frozen(value) for name, value in words.items()})


def _frozen(value: Any) -> Any:
    """JSON's lists as the tuples that a job is made of."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


class _Told(QuietSink):
    """What a watched child says of its job, for the driver: its counts at most every EVERY seconds, each time all
    that came since the last; of workers lost, at once.
    """

    def __init__(self, key: str, say: Callable[[dict[str, Any]], None]) -> None:
        self.say, self.name = say, {"key": key, "run": uuid.uuid4().hex}
        self.counts, self.total = Counter(NOTHING), Counter(NOTHING)
        self.last = time.monotonic()

    def event(self, kind: str, **data: Any) -> None:
        if kind == "note":
            self.say({**self.name, "note": data["text"]})
        elif kind == "advance":
            self._count({name: data[name] for name in NOTHING})

    def _count(self, more: dict[str, int]) -> None:
        for counts in (self.counts, self.total):
            counts.update(more)
        if time.monotonic() - self.last >= EVERY:
            self.say({**self.name, "counts": dict(self.counts)})
            self.counts, self.last = Counter(NOTHING), time.monotonic()


def problem_words(problem: Exception) -> dict[str, Any]:
    """An error as words, if its class is one of datakit's or Python's own; else its whole traceback as text."""
    problem = portable(problem)
    kind, arguments = type(problem), problem.__reduce__()[1]
    known = getattr(errors, kind.__name__, None) or getattr(builtins, kind.__name__, None)
    plain = all(isinstance(one, str | int | float | bool | None) for one in arguments)
    if known is not kind or not plain:
        return {"kind": "RuntimeError", "args": ["".join(traceback.format_exception(problem))], "notes": []}
    return {"kind": kind.__name__, "args": list(arguments), "notes": getattr(problem, "__notes__", [])}


def read_answer(text: str) -> tuple[Manifest, dict[str, int]]:
    """The manifest and the job's whole counts. Raises what the job raised."""
    words = json.loads(text)
    if "problem" in words:
        raise _problem(**words["problem"])
    return Manifest(**words["manifest"]), words["told"]


def _problem(kind: str, args: list[Any], notes: list[str]) -> Exception:
    known = getattr(errors, kind, None) or getattr(builtins, kind, None)
    if not (isinstance(known, type) and issubclass(known, Exception)):
        known = DatakitError
    problem: Exception = known(*args)
    for note in notes:
        problem.add_note(note)
    return problem
