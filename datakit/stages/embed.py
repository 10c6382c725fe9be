"""Vectors of images, of mirror images and of texts: one a sample, for near-duplicates, tiers, neighbours, indices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.errors import ConfigError, SampleError
from datakit.models import encoder as encoders
from datakit.models import text as text_encoders
from datakit.stage import Ref, Sample, batch_stage

if TYPE_CHECKING:
    from numpy.typing import NDArray

Dtype = Literal["float16", "float32"]
Model = TypeVar("Model", encoders.Encoder, text_encoders.TextEncoder)


@batch_stage(version=4, size=32)
def embed(
    samples: list[Sample],
    *,
    encoder: str = "efficientnet-lite0",
    weights: str = "",
    column: str = "features",
    dtype: Dtype = "float16",
    device: str = "cpu",
) -> list[Sample]:
    """Adds `column`: a vector (dim,) as the encoder gives it; dim is 1280 for the embedded encoder, not normalised.

    Each image is run by itself on the CPU, so the size of a batch cannot change a bit; another CPU or version of
    onnxruntime can change the last ones (float16 hides most of that). weights: the sha256 that the encoder's must
    have, as `weights_of` gives it: part of the step's address. device: cpu, cuda or auto, for encoders that run on
    torch; on CUDA in batches and bfloat16, not run on a GPU. Raises SampleError for an image that does not decode
    and a vector that is not finite in `dtype`, ConfigError for an encoder that is not known or whose weights are
    others.
    """
    model = _same(encoders.load(encoder, device=device), encoder, weights)
    # Pixels of one image at a time: 32 large photographs decoded at once would be gigabytes.
    vectors = model(_Decoded(samples))
    return [
        sample | {column: _stored(vector, dtype)} for sample, vector in zip(samples, vectors, strict=True)
    ]


@batch_stage(version=2, size=1000)
def embed_mirrored(
    samples: list[Sample], *, of: Ref[pa.Table], encoder: str = "efficientnet-lite0", weights: str = ""
) -> list[Sample]:
    """Adds `mirrored`: what `embed` would give for the left-right mirror image, for the samples whose `__key__`
    is in the table `of`; null for all others. Raises as `embed`.

    An encoder does not see a mirror image as the image itself: with EfficientNet-Lite0 their cosine is 0.93 and
    more on 250 shelf photographs, 0.95 and more on 250 emoji, and below 0.97 for 40 % and 8 % of them.
    """
    model = _same(encoders.load(encoder), encoder, weights)
    keys = pa.array([sample["__key__"] for sample in samples])
    wanted = pc.is_in(keys, value_set=of.value["__key__"].combine_chunks()).to_pylist()
    return [
        sample | {"mirrored": _mirrored(model, sample) if here else None}
        for sample, here in zip(samples, wanted, strict=True)
    ]


@batch_stage(version=1, size=256)
def embed_text(
    samples: list[Sample],
    *,
    encoder: str = "minilm",
    weights: str = "",
    field: str = "caption",
    column: str = "text_features",
    dtype: Dtype = "float16",
    device: str = "cpu",
) -> list[Sample]:
    """Adds `column`: the text encoder's vector (dim,) of the text in `field`; null where that is missing or blank.

    weights, dtype, device as for `embed`. Raises ConfigError for an encoder that is not known or whose weights are
    others, and for a field that holds something else than text.
    """
    model = _same(text_encoders.load(encoder, device=device), encoder, weights)
    texts = [_text(sample, field) for sample in samples]
    # A description is often of a class: once is enough.
    different = list(dict.fromkeys(text for text in texts if text.strip()))
    found = zip(different, model(different), strict=True)
    vectors = {text: _stored(vector, dtype) for text, vector in found}
    return [sample | {column: vectors.get(text)} for sample, text in zip(samples, texts, strict=True)]


class _Decoded(Sequence[Any]):
    """The pixels of samples, each decoded when it is asked for and not kept."""

    def __init__(self, samples: list[Sample]) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    @overload
    def __getitem__(self, index: int) -> NDArray[np.uint8]: ...

    @overload
    def __getitem__(self, index: slice) -> _Decoded: ...

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return _Decoded(self._samples[index])
        return np.ascontiguousarray(self._samples[index]["image"].array)


def _same(model: Model, encoder: str, weights: str) -> Model:
    """The model, if it has the weights that the build was planned with."""
    if weights and model.weights != weights:
        raise ConfigError(f"the weights of {encoder} changed since the build was planned; run it again")
    return model


def _mirrored(model: encoders.Encoder, sample: Sample) -> NDArray[Any]:
    pixels = np.ascontiguousarray(sample["image"].array[:, ::-1])
    return _stored(model([pixels])[0], "float16")


def _text(sample: Sample, field: str) -> str:
    value = sample.get(field)
    if value is None or isinstance(value, str):
        return value or ""
    raise ConfigError(f"the field {field} of {sample['__key__']} is no text but {type(value).__name__}")


def _stored(vector_D: NDArray[np.float32], dtype: Dtype) -> NDArray[Any]:
    with np.errstate(over="ignore"):  # told below, of the sample
        stored: NDArray[Any] = vector_D.astype(dtype)
    if not np.isfinite(stored).all():
        raise SampleError("vector_not_finite", f"the encoder gave a number that {dtype} does not hold")
    return stored
