"""Image features: one float16 vector a sample, for near-duplicates, tiers and neighbours."""

from __future__ import annotations

import numpy as np

from datakit.errors import ConfigError
from datakit.models import encoder as encoders
from datakit.stage import Sample, batch_stage


@batch_stage(version=2, size=32)
def embed(samples: list[Sample], *, encoder: str = "efficientnet-lite0", weights: str = "") -> list[Sample]:
    """Adds `features`: float16 (dim,), not normalised; dim is 1280 for the embedded encoder.

    Each image is run by itself, so the size of a batch cannot change a bit; another CPU or version of
    onnxruntime can change the last ones (float16 hides most of that). weights: the sha256 that the encoder's must
    have, as `weights_of` gives it: part of the step's address. Raises SampleError for an image that does not
    decode, ConfigError for an encoder that is not known or whose weights are others.
    """
    model = encoders.load(encoder)
    if weights and model.weights != weights:
        raise ConfigError(f"the weights of {encoder} changed since the build was planned; run it again")
    # Pixels of one image at a time: 32 large photographs decoded at once would be gigabytes.
    vectors = [model([sample["image"].array])[0] for sample in samples]
    return [
        sample | {"features": vector.astype(np.float16)}
        for sample, vector in zip(samples, vectors, strict=True)
    ]
