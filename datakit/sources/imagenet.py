"""ImageNet-1k (ILSVRC 2012), a local copy: `train/<wnid>/*`, and `val/` in folders or flat.

Labels of a flat `val/`, the first of: `LOC_val_solution.csv` (Kaggle), `ILSVRC2012_validation_ground_truth.txt`
with the `meta.mat` of its devkit. Names from `LOC_synset_mapping.txt`, else from the tables that timm carries.
Labels count the wnids in alphabetical order from 0, as everybody does; the devkit's own ids are another order.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from datakit.blob import Blob
from datakit.errors import CatalogError, MissingExtra
from datakit.sources.entry import Entry, File, Problem, walk
from datakit.sources.lists import layout, lines, read_mat, unlabelled
from datakit.texts import dict_rows

TRUTH = "ILSVRC2012_validation_ground_truth.txt"
INNER = "ILSVRC/Data/CLS-LOC"  # of Kaggle's archive
DEVKIT = "ILSVRC2012_devkit_t12/data"


def scan(root: Path | None, *, val_as: str = "test") -> Iterator[Entry | Problem]:
    """The images of `train` and `val`, folder by folder; the concept is the wnid.

    val_as: what the validation images are; `test`, since the true test labels were never given out and everybody
    tests on them.  Problems: `bad_label` (a folder or image of no known class), and those of `walk`.
    """
    if val_as not in ("val", "test"):
        raise CatalogError(f"options.val_as={val_as}: must be val or test")
    base = layout(root, "train", INNER)
    above = base if base == root or root is None else root
    classes = _Classes.read(above)
    truth = _truth(above) if _is_flat(base / "val") else {}
    for part, official in (("train", "train"), ("val", val_as)):
        if not (base / part).is_dir():
            continue
        for file in walk(base / part):
            yield _image(file, part, truth, classes, official)


def _image(
    file: File | Problem, part: str, truth: Mapping[str, str], classes: _Classes, official: str
) -> Entry | Problem:
    name = f"{part}/{file.name}"
    if isinstance(file, Problem):
        return Problem(name=name, reason=file.reason, detail=file.detail, dropped=file.dropped)
    if not file.is_image:
        detail = "its extension is none of an image"
        return Problem(name=name, reason="not_an_image_file", detail=detail, dropped=True)
    folder, _, rest = file.name.rpartition("/")
    wnid = folder if folder else truth.get(Path(rest).stem, "")
    if wnid not in classes.names:
        return unlabelled(name, f"{wnid or 'nothing'} is known as its class, which is none of ImageNet-1k")
    fields = {
        "class_name": classes.names[wnid],
        "orig_label": classes.labels[wnid],
        "concept": wnid,
        "official_split": official,
    }
    return Entry(name=name, data=Blob(file.path, 0, file.size), fields=fields)


def _is_flat(folder: Path) -> bool:
    return folder.is_dir() and not any(item.is_dir() for item in folder.iterdir())


@dataclass(frozen=True)
class _Classes:
    """wnid → name, unique, and label from 0 in the order of the wnids."""

    names: Mapping[str, str]
    labels: Mapping[str, int]

    @classmethod
    def read(cls, above: Path) -> _Classes:
        mapping = above / "LOC_synset_mapping.txt"
        lemmas = dict(line.split(" ", 1) for _, line in lines(mapping)) if mapping.exists() else _from_timm()
        firsts = {wnid: lemma.partition(",")[0].strip() for wnid, lemma in lemmas.items()}
        counts = Counter(name.casefold() for name in firsts.values())
        # Two cranes, two maillots, Cardigan and cardigan: a dog and a jacket may not be one class.
        names = {w: name if counts[name.casefold()] == 1 else f"{name} ({w})" for w, name in firsts.items()}
        return cls(names, {wnid: label for label, wnid in enumerate(sorted(names))})


def _from_timm() -> dict[str, str]:
    spec = find_spec("timm")  # finds the package, runs none of it
    if spec is None or spec.origin is None:
        raise MissingExtra("naming ImageNet's classes without a LOC_synset_mapping.txt", "torch")
    tables = Path(spec.origin).parent / "data" / "_info"
    wnids = [line for _, line in lines(tables / "imagenet_synsets.txt")]
    lemmas = dict(line.split("\t", 1) for _, line in lines(tables / "imagenet_synset_to_lemma.txt"))
    return {wnid: lemmas[wnid] for wnid in wnids}


def _truth(above: Path) -> dict[str, str]:
    """stem of a validation image → wnid."""
    solution = above / "LOC_val_solution.csv"
    if solution.exists():
        try:
            with solution.open(newline="", encoding="utf-8") as file:
                return {row["ImageId"]: row["PredictionString"].split(" ")[0] for row in dict_rows(file)}
        except (OSError, KeyError, AttributeError, ValueError, csv.Error) as problem:
            raise CatalogError(f"{solution} is not as expected: {problem!r}") from problem
    for folder in (above, above / DEVKIT, above / "val"):
        if (folder / TRUTH).exists():
            wnids = _devkit_ids(folder / "meta.mat")
            labels = [int(line) for _, line in lines(folder / TRUTH)]
            return {
                f"ILSVRC2012_val_{image:08d}": wnids[label] for image, label in enumerate(labels, start=1)
            }
    raise CatalogError(f"{above}: val/ is flat, and there is no LOC_val_solution.csv or {TRUTH} to label it")


def _devkit_ids(path: Path) -> dict[int, str]:
    """The devkit's id (from 1) → wnid."""
    return {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in read_mat(path)["synsets"]}
