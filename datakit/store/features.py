"""Arrow types as Hugging Face features, in the JSON of Arrow files and the YAML of the card.

Written by hand, without importing `datasets`; lists in the form `[inner]`, which its versions 2 to 5 read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from datakit.errors import ConfigError

IMAGE_FEATURE = {"_type": "Image"}
IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type in which a column is published: no dictionaries, no 64-bit offsets, no 16-bit floats, null as string.

    A struct without fields is a string as well, and null: Parquet has no such structs.
    """
    if pa.types.is_null(kind) or pa.types.is_large_string(kind):
        return pa.string()
    if pa.types.is_float16(kind):
        return pa.float32()
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if _is_list(kind):
        return pa.list_(plain_type(kind.value_type))
    if pa.types.is_struct(kind):
        fields = [(field.name, plain_type(field.type)) for field in kind]
        return pa.struct(fields) if fields else pa.string()
    return kind


def has_fieldless(kind: pa.DataType) -> bool:
    """Whether a struct without fields is in the type, at any depth."""
    if _is_list(kind):
        return has_fieldless(kind.value_type)
    if not pa.types.is_struct(kind):
        return False
    return not kind.num_fields or any(has_fieldless(field.type) for field in kind)


def without_fieldless(value: Any, kind: pa.DataType) -> Any:
    """A value of `kind` with null for structs without fields, as its plain type takes them."""
    if value is None:
        return None
    if _is_list(kind):
        return [without_fieldless(item, kind.value_type) for item in value]
    if pa.types.is_struct(kind):
        # `get`: the value may be of a shard that lacks a field which others have.
        return {field.name: without_fieldless(value.get(field.name), field.type) for field in kind} or None
    return value


def feature(kind: pa.DataType) -> Any:
    """The feature of a plain Arrow type. Raises ConfigError where Hugging Face has none."""
    if _is_list(kind):
        return [feature(kind.value_type)]
    if pa.types.is_struct(kind):
        return {field.name: feature(field.type) for field in kind}
    if pa.types.is_boolean(kind):
        return _value("bool")
    if pa.types.is_floating(kind):
        return _value(f"float{kind.bit_width}")
    if pa.types.is_timestamp(kind):
        return _value(f"timestamp[{kind.unit}{f', tz={kind.tz}' if kind.tz else ''}]")
    if pa.types.is_integer(kind) or pa.types.is_date(kind) or kind in (pa.string(), pa.binary()):
        return _value(str(kind).removesuffix("[day]").removesuffix("[ms]"))
    raise ConfigError(f"a column of type {kind} cannot be published; make it text, numbers or a list of them")


def label_feature(class_names: Sequence[str]) -> dict[str, Any]:
    """Class numbers: with names a ClassLabel, which takes -1 for a sample of no class; without, integers."""
    if not class_names:
        return _value("int64")
    return {"names": list(class_names), "_type": "ClassLabel"}


def yaml_features(features: dict[str, Any]) -> list[dict[str, Any]]:
    """The features as `dataset_info.features` of a card."""
    return [{"name": name, **_yaml(value)} for name, value in features.items()]


def is_jsonable(kind: pa.DataType) -> bool:
    """Whether JSON gives the type back as it was."""
    if _is_list(kind):
        return is_jsonable(kind.value_type)
    if pa.types.is_struct(kind):
        return all(is_jsonable(field.type) for field in kind)
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    return bool(is_number or pa.types.is_boolean(kind) or kind == pa.string())


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _value(dtype: str) -> dict[str, str]:
    return {"dtype": dtype, "_type": "Value"}


def _yaml(value: Any) -> dict[str, Any]:
    if isinstance(value, list):
        inner = _yaml(value[0])
        # A list of plain values or of structs is written without the level that a list of lists needs.
        return {"list": inner["struct"] if "struct" in inner else inner.get("dtype", inner)}
    kind = value.get("_type")
    if kind == "Value":
        return {"dtype": value["dtype"]}
    if kind == "ClassLabel":
        # Keys as text: the Hub's own parser requires it.
        names = {str(number): name for number, name in enumerate(value["names"])}
        return {"dtype": {"class_label": {"names": names}}}
    if kind == "Image":
        return {"dtype": "image"}
    return {"struct": yaml_features(value)}
