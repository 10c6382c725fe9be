"""A Hugging Face data set: a folder of `save_to_disk`, a folder that `load_dataset` reads, or a repository's name.

The image is the column of type Image, never decoded here; the class the one ClassLabel, or the column of
texts that `label=` names. Splits are official where there are several. Folders are streamed, so nothing is copied
into a cache. An image that a row names by path is read only from the data set itself, also out of a zip in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from datakit.blob import Blob
from datakit.errors import CatalogError, MissingExtra, SampleError, did_you_mean
from datakit.sources import records
from datakit.sources.entry import SPLITS, ClassNames, Entry, Problem, carried
from datakit.sources.hf_files import DAMAGED, HubFiles, LocalFiles
from datakit.sources.hf_guard import check_folder, check_saved
from datakit.store.owned import is_ours

SAVED = ("dataset_dict.json", "state.json")  # what `save_to_disk` leaves
UNREADABLE = (OSError, ValueError, NotImplementedError, *DAMAGED)


def scan(
    root: Path | None,
    *,
    repo: str = "",
    config: str = "",
    image: str = "",
    label: str = "",
    fold_case: bool = False,
) -> Iterator[Entry | Problem]:
    """The rows, split by split; a row's name is `<split>/<number>`.

    repo, config: of the hub, where there is no `root`.  image, label: columns, where the types leave a choice.
    Problems: `no_image`, `missing_file`, `path_outside`, `bad_label`, `bad_split`, `bad_field`.  Raises CatalogError
    (not readable, no or several such columns, no class but a plain column `label`), MissingExtra.
    """
    names = ClassNames(fold_case)
    root = root.resolve() if root else None  # as datasets names what lies in it
    files = HubFiles(repo) if root is None else LocalFiles(root)
    found = _splits(root, repo, config)
    alone = len({SPLITS[split] for split in found if split in SPLITS}) < 2
    classes: set[bool] = set()  # of the images: whether they have a class
    spare = False
    for split, rows in sorted(found.items()):
        columns = _Columns(rows.features, image, label)
        undecoded = rows.cast_column(columns.image, columns.undecoded)
        spare |= columns.has_spare_label
        official = None if alone else SPLITS.get(split)
        for number, row in enumerate(_rows(undecoded, root or repo)):
            item = columns.entry(f"{split}/{number:08d}", row, official, names, files)
            if isinstance(item, Entry):
                classes.add("class_name" in item.fields)
            yield item
    if spare and classes == {False}:
        # Left alone it would be a build without classes, which fails far from the cause.
        raise CatalogError(
            f"no row of {root or repo} has a class, and its column label is no ClassLabel: "
            "give options.label=label to take it for the class"
        )


def fetches(root: Path | None, *, repo: str = "", **options: object) -> list[str]:
    """What `scan` would ask the network for."""
    return [] if root or not repo else [f"the data set {repo} of the Hugging Face hub"]


def _splits(root: Path | None, repo: str, config: str) -> Mapping[str, Any]:
    """split → Dataset or IterableDataset."""
    try:
        import datasets
    except ImportError as problem:
        raise MissingExtra("reading a Hugging Face data set", "hf") from problem
    if not root and not repo:
        raise CatalogError("give source=FOLDER, or options.repo=USER/NAME of the hub")
    try:
        if root and any((root / name).exists() for name in SAVED):
            check_saved(root)
            found = datasets.load_from_disk(str(root))
        else:
            if root:
                _refuse_builds(root)
                check_folder(root)
            found = datasets.load_dataset(str(root or repo), config or None, streaming=True)
    except (*UNREADABLE, datasets.exceptions.DatasetsError) as problem:
        raise CatalogError(f"cannot read {root or repo} as a Hugging Face data set: {problem}") from problem
    return found if isinstance(found, Mapping) else {str(found.split or "train"): found}


def _refuse_builds(root: Path) -> None:
    """Raise CatalogError where a store of ours lies in the source: datasets would take its shards for data."""
    for manifest in root.rglob("manifest.json"):
        if manifest.parent != root and is_ours(manifest.parent):
            raise CatalogError(f"{manifest.parent} is a build within the source {root}: move it elsewhere")


def _rows(rows: Any, source: object) -> Iterator[Mapping[str, Any]]:
    import datasets

    try:
        yield from rows
    except (*UNREADABLE, datasets.exceptions.DatasetsError) as problem:
        hint = "; where it lies in an archive, unpack that first"
        raise CatalogError(f"{source}: a row cannot be read: {problem}{hint}") from problem


class _Columns:
    """Which column is what, by the types that the data set declares."""

    def __init__(self, features: Any, image: str, label: str) -> None:
        from datasets import ClassLabel, Image, Value

        if features is None:
            raise CatalogError(
                "the data set does not say what its columns are; save it with save_to_disk first"
            )
        by_type = {
            kind: [name for name, feature in features.items() if isinstance(feature, kind)]
            for kind in (Image, ClassLabel)
        }
        self.image = _chosen("image", image, by_type[Image], features, required=True)
        self._carried = {name for name, feature in features.items() if _is_plain(feature, Value)}
        labels = by_type[ClassLabel] + (sorted(self._carried) if label else [])
        self.label = _chosen("label", label, labels, features, required=False)
        self.has_spare_label = self.label != "label" and isinstance(features.get("label"), Value)
        self.undecoded = Image(decode=False)
        self._names = getattr(features[self.label], "names", []) if self.label else []

    def entry(
        self,
        name: str,
        row: Mapping[str, Any],
        official: str | None,
        names: ClassNames,
        files: LocalFiles | HubFiles,
    ) -> Entry | Problem:
        """One row as an entry."""
        plain = {column: row[column] for column in row if column in self._carried}
        try:
            data = _encoded(row[self.image], files)
            fields = records.standard(plain) | carried(plain, {*records.STANDARD, self.label})
            fields |= self._class(row.get(self.label) if self.label else None)
        except SampleError as problem:
            return Problem(name=name, reason=problem.reason, detail=problem.detail)
        return Entry(name=name, data=data, fields=names.spell(fields) | {"official_split": official})

    def _class(self, label: Any) -> Mapping[str, object]:
        if label is None or (self._names and label < 0):  # -1 by custom: not labelled
            return {}
        if not self._names:
            return records.standard({"class_name": label})
        if label >= len(self._names):
            raise SampleError("bad_label", f"label {label}, of 0 to {len(self._names) - 1}")
        return {"orig_label": label, "class_name": self._names[label]}


def _encoded(cell: Mapping[str, Any] | None, files: LocalFiles | HubFiles) -> Blob | bytes:
    if cell and cell["bytes"] is not None:
        return bytes(cell["bytes"])
    if not cell or not cell["path"]:
        raise SampleError("no_image", "the row has neither bytes nor a path")
    return files.find(cell["path"])


def _chosen(what: str, asked: str, fitting: list[str], features: Mapping[str, Any], *, required: bool) -> str:
    if asked:
        if asked not in fitting:
            hint = did_you_mean(asked, features)
            raise CatalogError(
                f"options.{what}={asked} is no {what} column{hint}; there are {', '.join(fitting)}"
            )
        return asked
    if len(fitting) > 1 or (required and not fitting):
        raise CatalogError(
            f"{len(fitting)} columns could be the {what} ({', '.join(fitting)}): give options.{what}"
        )
    return fitting[0] if fitting else ""


def _is_plain(feature: Any, value: type) -> bool:
    """Whether a column holds numbers, texts, or lists of them."""
    inner = getattr(feature, "feature", feature)
    return isinstance(inner, value)
