"""A store in the layout of another tool: which one, by the words of `datakit export`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from datakit.config import parse
from datakit.errors import ConfigError
from datakit.store.exports.clip_retrieval import PER_PART, export_clip_retrieval
from datakit.store.exports.coco import export_coco
from datakit.store.exports.datajuicer import export_datajuicer
from datakit.store.exports.imagefolder import export_imagefolder
from datakit.store.exports.llava import PROMPT, export_llava
from datakit.store.exports.openood import export_openood
from datakit.store.exports.target import Exported
from datakit.store.reader import open_store

__all__ = [
    "ExportOptions",
    "Exported",
    "export_clip_retrieval",
    "export_coco",
    "export_datajuicer",
    "export_imagefolder",
    "export_llava",
    "export_openood",
    "export_words",
]

Format = Literal["openood", "coco", "llava", "datajuicer", "imagefolder", "clip-retrieval"]
_WRITERS: Mapping[str, Any] = {
    "openood": export_openood,
    "coco": export_coco,
    "llava": export_llava,
    "datajuicer": export_datajuicer,
    "imagefolder": export_imagefolder,
    "clip-retrieval": export_clip_retrieval,
}
_OF_ALL = {"store", "out", "format", "selection"}
_TAKES: Mapping[str, set[str]] = {
    "openood": {"materialize"},
    "coco": {"caption", "materialize"},
    "llava": {"caption", "prompt", "materialize"},
    "datajuicer": {"caption", "materialize"},
    "imagefolder": set(),
    "clip-retrieval": {"embedding", "text_embedding", "sidecar", "per_part", "materialize"},
}


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """The words of `datakit export`."""

    store: str = field(metadata={"help": "folder of a built tree"})
    out: str = field(metadata={"help": "folder to write; new or empty"})
    format: Format = field(default="openood", metadata={"help": "layout to write"})
    selection: str | None = field(
        default=None, metadata={"help": "list of keys: seed1 …; none: as in the shards"}
    )
    materialize: bool | None = field(
        default=None,
        metadata={
            "help": "write the images as loose files, or only what lists them; none: as the tool needs"
        },
    )
    caption: str | None = field(
        default=None, metadata={"help": "coco, llava, datajuicer: column of captions; none: the store's own"}
    )
    prompt: str | None = field(default=None, metadata={"help": f"llava: what the human asks; none: {PROMPT}"})
    embedding: str | None = field(
        default=None, metadata={"help": "clip-retrieval: column of the images' vectors"}
    )
    text_embedding: str | None = field(
        default=None, metadata={"help": "clip-retrieval: column of the captions' vectors"}
    )
    sidecar: str | None = field(
        default=None, metadata={"help": "clip-retrieval: file with key and vectors, beside the store"}
    )
    per_part: int = field(
        default=PER_PART, metadata={"help": "clip-retrieval: rows of a part at most", "least": 1}
    )


def export_words(words: Sequence[str]) -> tuple[dict[str, Any], str]:
    """Export as the words say: (JSON, text for people). Raises ConfigError for a word that the format does not use."""
    options = parse(ExportOptions, words)
    takes = _TAKES[options.format]
    given = {item.name: getattr(options, item.name) for item in fields(options) if item.name not in _OF_ALL}
    defaults = {item.name: item.default for item in fields(options)}
    for name, value in given.items():
        if name not in takes and value != defaults[name]:
            users = ", ".join(format for format, names in _TAKES.items() if name in names)
            raise ConfigError(f"{name} is of format={users}; format={options.format} has no use for it")
    chosen = {name: value for name, value in given.items() if name in takes}
    if chosen.get("materialize", True) is None:
        del chosen["materialize"]
    done: Exported = _WRITERS[options.format](
        open_store(options.store), Path(options.out), selection=options.selection, **chosen
    )
    return asdict(done), _text(done)


def _text(done: Exported) -> str:
    lines = [
        f"{done.out}: {done.images} images",
        *(f"  {path}: {count} lines" for path, count in done.lists.items()),
    ]
    if done.skipped:
        lines += ["left out:", *(f"  {reason}: {count}" for reason, count in done.skipped.items())]
    return "\n".join(lines)
