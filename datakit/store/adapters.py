"""The loader under other libraries' faces: a webdataset pipeline, a Hugging Face IterableDataset.

Both read through our index: digests compared, ranks shared out, order seeded, no shell, no pickle.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from datakit.errors import ConfigError, StoreError, need
from datakit.image import Image
from datakit.store.features import IMAGE_FEATURE, feature, label_feature, plain_type
from datakit.store.layout import Layout
from datakit.store.loader import Samples
from datakit.store.reading import IMAGE

if TYPE_CHECKING:
    import datasets

Source = Callable[[], Iterator[dict[str, Any]]]


def webdataset_source(samples: Samples) -> Source:
    """The first stage of a `webdataset.DataPipeline`: samples as webdataset reads them from a tar, still encoded.

    In a DataLoader's worker it gives that worker's share, so no nodesplitter or workersplitter belongs behind it.
    """
    if samples.fields is not None:
        raise ConfigError("a webdataset pipeline takes whole samples: leave fields= out")
    return _WebdatasetSource(samples)


class _WebdatasetSource:
    """A class, not a closure: a DataLoader may have to send it to its workers."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __call__(self) -> Iterator[dict[str, Any]]:
        reading, (worker, workers) = self.samples.reading, _worker()
        for turn, place in enumerate(self.samples.places()):
            if turn % workers != worker:
                continue
            entry = reading.shards.entries[place[0]]
            try:
                key = reading.key(place)
                members = reading.shards.members(place[0], place[1])
                beside = reading.beside(place)
            except StoreError as problem:
                self.samples.note(place, "damaged", problem)
                continue
            yield {
                "__key__": key,
                "__url__": f"{reading.shards.files.name}/{entry.tar.path}",
                **_with(members, beside, reading.shards.layout),
            }
        self.samples.end_epoch()

    def set_epoch(self, epoch: int) -> None:
        """Before each epoch of a DataLoader with workers, whose copies of this end with them and tell nobody."""
        self.samples.set_epoch(epoch)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self()


def _with(members: dict[str, bytes], beside: dict[str, Any], layout: Layout) -> dict[str, bytes]:
    """A sample's members with what stands beside its shard, in the place of its own: a selection's labels, sidecars."""
    found, fields = dict(members), dict(beside)
    if layout.label in fields:
        label = fields.pop(layout.label)
        found["cls"] = str(-1 if label is None else int(label)).encode()
    if layout.caption in fields and isinstance(fields[layout.caption], str | None):
        found["txt"] = (fields.pop(layout.caption) or "").encode()
    if fields:
        merged = json.loads(found.get("json", b"{}")) | fields
        found["json"] = json.dumps(merged, sort_keys=True, ensure_ascii=False, default=_plain).encode()
    return found


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _worker() -> tuple[int, int]:
    """This process's number among a DataLoader's workers, and how many they are."""
    import sys

    # Where torch was never imported, there is no DataLoader either.
    if "torch" not in sys.modules:
        return 0, 1
    from torch.utils.data import get_worker_info

    info = get_worker_info()
    return (info.id, info.num_workers) if info else (0, 1)


def hugging_face(samples: Samples) -> datasets.IterableDataset:
    """A `datasets.IterableDataset` of these samples, image and label typed; order and ranks are the loader's."""
    need("a Hugging Face data set", "hf", ["datasets"])
    import datasets

    features = datasets.Features.from_dict(_features(samples))
    return datasets.IterableDataset.from_generator(_rows, features=features, gen_kwargs={"samples": samples})


def _features(samples: Samples) -> dict[str, Any]:
    view, names = samples.view, samples.fields or samples.view.fields
    own, beside = view.store.schema(view.shards[0].metadata.path), view.columns_beside
    found: dict[str, Any] = {"__key__": feature(pa.string())}
    for name in names:
        if name == IMAGE:
            found[name] = IMAGE_FEATURE
        elif name == view.store.layout.label:
            found[name] = label_feature(view.store.class_names)
        else:
            found[name] = feature(plain_type(beside[name].type if name in beside else own.field(name).type))
    return found


def _rows(samples: Samples) -> Iterator[dict[str, Any]]:
    extension = samples.view.store.layout.image_extension
    for sample in samples:
        if isinstance(image := sample.get(IMAGE), Image):
            sample[IMAGE] = {"bytes": image.encoded, "path": f"{sample['__key__']}.{extension}"}
        yield sample
