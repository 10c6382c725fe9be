"""croissant.json: the store in Croissant 1.1 JSON-LD, written by hand; mlcroissant reads it in the tests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from datakit.store.layout import IMAGE_TYPES, File, Layout, Licence, ShardEntry, StoreInfo

CONFORMS_TO = "http://mlcommons.org/croissant/1.1"
_PLAIN_TERMS = (
    "arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "extract", "field",
    "fileProperty", "fileObject", "fileSet", "format", "includes", "isArray", "isLiveDataset", "jsonPath",
    "key", "md5", "parentField", "path", "recordSet", "references", "regex", "repeated", "replace",
    "samplingRate", "separator", "source", "subField", "transform",
)  # fmt: skip
# As mlcroissant 1.1.1 has it; the appendix of the specification differs from the library in details.
CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    **{term: f"cr:{term}" for term in _PLAIN_TERMS},
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    "prov": "http://www.w3.org/ns/prov#",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
}


def croissant(
    info: StoreInfo, layout: Layout, schema: pa.Schema, splits: Mapping[str, Sequence[ShardEntry]]
) -> bytes:
    """The document: a RecordSet of image and metadata for each split, joined by file name."""
    document = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": info.name,
        "description": info.description,
        "license": [_licence(licence) for licence in info.licences],
        "url": info.homepage,
        "creator": {"@type": "sc:Organization", "name": info.creator},
        "datePublished": info.date_published,
        "version": info.version,
        "keywords": list(info.keywords),
        "inLanguage": list(info.language),
        **({"citeAs": info.citation} if info.citation else {}),
        **_provenance(info),
        "distribution": [item for split, of in splits.items() for item in _files(split, of, layout)],
        "recordSet": [
            _split_names(splits),
            *_classes(layout),
            *(_records(split, layout, schema) for split in splits),
        ],
    }
    return json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n"


def _licence(licence: Licence) -> str:
    single = licence.spdx and " " not in licence.spdx and not licence.spdx.startswith("LicenseRef-")
    return licence.link or (f"https://spdx.org/licenses/{licence.spdx}" if single else licence.title)


def _provenance(info: StoreInfo) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if links := [source for source in info.sources if source.startswith(("https://", "http://"))]:
        found["prov:wasDerivedFrom"] = [{"@id": link} for link in links]
    if info.command:
        found["prov:wasGeneratedBy"] = {"@type": "prov:Activity", "prov:label": info.command}
    return found


def _files(split: str, entries: Sequence[ShardEntry], layout: Layout) -> list[dict[str, Any]]:
    tars = [_file(entry.tar, "application/x-tar") for entry in entries]
    images = {
        "@type": "cr:FileSet",
        "@id": f"{split}-images",
        "name": f"{split}-images",
        "containedIn": [{"@id": tar["@id"]} for tar in tars],
        "encodingFormat": IMAGE_TYPES[layout.image_extension],
        "includes": f"*.{layout.image_extension}",
    }
    rows = {
        "@type": "cr:FileSet",
        "@id": f"{split}-metadata",
        "name": f"{split}-metadata",
        "encodingFormat": "application/x-parquet",
        "includes": f"metadata/{split}-*.parquet",
    }
    return [*tars, images, rows]


def _file(file: File, kind: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": file.path,
        "name": file.path.rpartition("/")[2],
        "contentUrl": file.path,
        "contentSize": f"{file.bytes} B",
        "encodingFormat": kind,
        "sha256": file.sha256,
    }


def _split_names(splits: Mapping[str, Any]) -> dict[str, Any]:
    fields, urls = [_plain("splits/name", "sc:Text")], [_meaning(split) for split in splits]
    data = [{"splits/name": split} for split in splits]
    # All or none: mlcroissant refuses rows that differ in their columns.
    if all(urls):
        fields.append(_plain("splits/url", "sc:URL"))
        data = [{**row, "splits/url": url} for row, url in zip(data, urls, strict=True)]
    return _enumeration("splits", "cr:Split", fields, data)


def _meaning(split: str) -> str:
    """Croissant's term for the purpose of a split; empty where it has none."""
    known = {"train": "cr:TrainingSplit", "val": "cr:ValidationSplit", "val_ood": "cr:ValidationSplit"}
    return known.get(split) or ("cr:TestSplit" if split == "test" or split.endswith("_ood") else "")


def _classes(layout: Layout) -> list[dict[str, Any]]:
    if not layout.class_names:
        return []
    fields = [_plain("classes/name", "sc:Text"), _plain("classes/label", "sc:Integer")]
    data = [{"classes/name": name, "classes/label": label} for label, name in enumerate(layout.class_names)]
    return [_enumeration("classes", "sc:Enumeration", fields, data)]


def _enumeration(
    name: str, kind: str, fields: list[dict[str, Any]], data: list[dict[str, Any]]
) -> dict[str, Any]:
    head = {"@type": "cr:RecordSet", "@id": name, "name": name, "dataType": kind}
    return {**head, "key": {"@id": f"{name}/name"}, "field": fields, "data": data}


def _plain(path: str, kind: str) -> dict[str, Any]:
    return {"@type": "cr:Field", "@id": path, "name": path.rpartition("/")[2], "dataType": kind}


def _records(split: str, layout: Layout, schema: pa.Schema) -> dict[str, Any]:
    images, rows = {"@id": f"{split}-images"}, {"@id": f"{split}-metadata"}
    # The images must be the left side: mlcroissant keeps the file properties of that side only.
    join = {
        **_plain(f"{split}/file_name", "sc:Text"),
        "source": {"fileSet": images, "extract": {"fileProperty": "fullpath"}},
        "references": {"fileSet": rows, "extract": {"column": "file_name"}},
    }
    image = {
        **_plain(f"{split}/image", "sc:ImageObject"),
        "source": {"fileSet": images, "extract": {"fileProperty": "content"}},
    }
    columns = [
        {
            **_plain(f"{split}/{field.name}", _kind(field.type)),
            "source": {"fileSet": rows, "extract": {"column": field.name}},
            **({"isArray": True, "arrayShape": "-1"} if pa.types.is_list(field.type) else {}),
        }
        for field in schema
        if field.name != "file_name" and _kind(field.type)
    ]
    return {
        "@type": "cr:RecordSet",
        "@id": split,
        "name": split,
        "key": {"@id": f"{split}/key"},
        "field": [join, image, *columns],
    }


def _kind(kind: pa.DataType) -> str:
    """Croissant's data type; empty for what mlcroissant cannot cast (structs, lists of lists, dates)."""
    if pa.types.is_list(kind):
        return "" if pa.types.is_list(kind.value_type) else _kind(kind.value_type)
    if pa.types.is_boolean(kind):
        return "sc:Boolean"
    if pa.types.is_integer(kind):
        return f"cr:{'UInt' if pa.types.is_unsigned_integer(kind) else 'Int'}{kind.bit_width}"
    if pa.types.is_floating(kind):
        return f"cr:Float{kind.bit_width}"
    return "sc:Text" if kind == pa.string() else ""
