"""The embedded encoder: the numbers of PyTorch's net, whatever the batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datakit.errors import MissingExtra, StoreError
from datakit.models import efficientnet
from datakit.models.encoder import Classifier, Encoder, load
from datakit.models.tensors import read_tensors
from datakit.rng import rng_for

for package in (efficientnet.PACKAGE, "onnx", "onnxruntime"):
    pytest.importorskip(package)

Pixels = Any


@pytest.fixture(scope="module")
def pictures() -> list[Pixels]:
    """Five pictures of several shapes; smooth, so that the net sees more than noise."""
    made = []
    for index, (height, width) in enumerate([(300, 400), (224, 224), (64, 50), (500, 120), (33, 333)]):
        rng = rng_for(index, "picture")
        coarse = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)
        made.append(
            np.asarray(
                np.kron(coarse, np.ones((-(-height // 8), -(-width // 8), 1), np.uint8))[:height, :width]
            )
        )
    return made


def weights_file() -> Path:
    return Path(__import__(efficientnet.PACKAGE).__file__).parent / "models" / efficientnet.FILE


def timm_names(state: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The same tensors under the names of timm's net, which is an implementation of its own."""
    places = [(stage, block) for stage, depth in enumerate((1, 2, 2, 3, 3, 4, 1)) for block in range(depth)]
    first = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    later = {
        **{"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"},
        **{"_project_conv": "conv_pwl", "_bn2": "bn3"},
    }
    ends = {
        "_conv_stem": "conv_stem",
        "_bn0": "bn1",
        "_conv_head": "conv_head",
        "_bn1": "bn2",
        "_fc": "classifier",
    }
    for name, value in state.items():
        *where, layer, part = name.split(".")
        if not where:
            yield f"{ends[layer]}.{part}", value
        else:
            stage, block = places[int(where[1])]
            yield f"blocks.{stage}.{block}.{(later if stage else first)[layer]}.{part}", value


def test_features_and_logits_are_those_of_torchs_net(pictures: list[Pixels]) -> None:
    torch, timm = pytest.importorskip("torch"), pytest.importorskip("timm")
    net = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    weights = {name: torch.tensor(value) for name, value in timm_names(read_tensors(weights_file()))}
    net.load_state_dict(weights)
    seen = np.stack([efficientnet.prepare(picture) for picture in pictures])
    batch = torch.from_numpy((seen.astype(np.float32) - 127) / 128).permute(0, 3, 1, 2)
    with torch.inference_mode():
        maps = net.forward_features(batch)
        features, logits = net.forward_head(maps, pre_logits=True).numpy(), net.forward_head(maps).numpy()
    model = efficientnet.load()
    assert np.abs(model(pictures) - features).max() < 1e-4
    assert np.abs(model.logits(pictures) - logits).max() < 1e-4
    assert features.std() > 0.1 and logits.std() > 0.5  # numbers that could differ


def test_neighbours_in_a_batch_change_no_bit(pictures: list[Pixels]) -> None:
    model = load("efficientnet-lite0")
    together, again = model(pictures), model(pictures[::-1])[::-1]
    alone = np.concatenate([model([picture]) for picture in pictures])
    assert together.dtype == np.float32 and together.shape == (len(pictures), model.dim)
    assert together.tobytes() == alone.tobytes() == np.ascontiguousarray(again).tobytes()


def test_it_is_both_an_encoder_and_a_classifier_and_is_loaded_once() -> None:
    model = load("efficientnet-lite0")
    assert isinstance(model, Encoder) and isinstance(model, Classifier)
    assert model is load("efficientnet-lite0") is efficientnet.load()
    assert len(model.weights) == 64 and model.weights.startswith("57934424")
    assert model([]).shape == (0, 1280) and model.logits([]).shape == (0, 1000)


def test_only_the_centre_of_a_picture_is_seen() -> None:
    picture = np.full((256, 512, 3), 200, np.uint8)
    picture[:, :128] = picture[:, -128:] = 0  # beyond the centre square
    picture[:16] = picture[-16:] = 0  # beyond 224/256 of it
    assert (efficientnet.prepare(picture) == 200).all()
    assert efficientnet.prepare(picture).shape == (224, 224, 3)


def test_other_weights_are_refused(tmp_path: Path) -> None:
    damaged = tmp_path / efficientnet.FILE
    data = bytearray(weights_file().read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(data)
    with pytest.raises(StoreError, match="install it again"):
        efficientnet.EfficientNetLite0(damaged)


def test_without_its_package_it_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    efficientnet.load.cache_clear()
    monkeypatch.setattr(efficientnet, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r'the encoder efficientnet-lite0 .*"datakit\[demo\]"'):
        efficientnet.load()


@pytest.mark.shared_data
def test_it_knows_what_photographs_show(shared_data: Path) -> None:
    timm = pytest.importorskip("timm")
    from datakit.image import Image

    wnids = (Path(timm.__file__).parent / "data" / "_info" / "imagenet_synsets.txt").read_text().split()
    photos = shared_data / "models_coral" / "photos"
    pictures = [Image((photos / name).read_bytes()).array for name in ("hot_dog.jpg", "parrot.jpg")]
    best = efficientnet.load().logits(pictures).argmax(axis=1)
    assert [wnids[index] for index in best] == ["n07697537", "n01818515"]  # hotdog, macaw
