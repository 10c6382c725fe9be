"""Training a tokenizer: it learns, keeps its codes in use, comes back from its files, and repeats itself."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from datakit.errors import ConfigError, EnvironmentProblem, MissingExtra
from datakit.models.quality import reconstruction
from datakit.models.tokenizer import Tokenizer, of_files
from datakit.models.tokenizer_files import ABOUT, TENSORS, write_parts
from datakit.rng import rng_for
from datakit.train.tokenizer import TokenizerFit, TokenizerOptions, fit_tokenizer
from datakit.train.tokenizer_fit import half_precision

pytest.importorskip("vector_quantize_pytorch")

KINDS = ("cosine_vq", "vq", "fsq", "rvq", "lfq")
SMALL: dict[str, Any] = {
    "codes": 32, "dim": 4, "channels": 16, "blocks": 1, "crop": 32, "batch_size": 8, "lr": 4e-3, "precision": "float32"
}  # fmt: skip


def pictures(count: int = 8, side: int = 32, seed: int = 0) -> Any:
    """Two soft slopes of colour, crossed."""
    rng = rng_for(seed, "tokenizer pictures")
    at = np.linspace(0, 3, side)
    waves = [np.sin(at * rng.uniform(1, 3, (count, 1)) + rng.uniform(0, 6, (count, 1))) for _ in range(2)]
    plane = (
        waves[0][:, :, None, None] * rng.uniform(40, 90, (count, 1, 1, 3)) + waves[1][:, None, :, None] * 30
    )
    return np.clip(plane + 128, 0, 255).astype(np.uint8)


def fitted(*, seed: int = 1, **changes: Any) -> TokenizerFit:
    return fit_tokenizer(pictures(), options=TokenizerOptions(**(SMALL | changes)), seed=seed)


@pytest.fixture(scope="module")
def fits() -> dict[str, TokenizerFit]:
    return {kind: fitted(kind=kind, steps=60) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_training_beats_the_untrained_net(kind: str, fits: dict[str, TokenizerFit]) -> None:
    first, last = fits[kind].history[0], fits[kind].history[-1]
    assert (first["step"], last["step"]) == (1, 60)
    assert last["psnr"] > first["psnr"] + 3
    held_out = pictures(seed=9)
    trained = reconstruction(of_files(fits[kind].files), held_out)
    untrained = reconstruction(of_files(fitted(kind=kind, steps=1).files), held_out)
    assert trained["psnr"] > untrained["psnr"] + 3
    assert trained["ssim"] > untrained["ssim"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_encodes_alike_alone_in_a_batch_and_on_two_threads(
    kind: str, fits: dict[str, TokenizerFit]
) -> None:
    model, images = of_files(fits[kind].files), pictures(3)
    assert isinstance(model, Tokenizer)
    levels = 2 if kind == "rvq" else 1
    tokens = model.encode(images)
    assert tokens.dtype == np.uint16 and tokens.shape == (3, 4 * levels, 4) and tokens.max() < 32
    assert (np.concatenate([model.encode(image[None]) for image in images]) == tokens).all()
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert (of_files(fits[kind].files).encode(images) == tokens).all()
    finally:
        torch.set_num_threads(threads)
    assert model.decode(tokens).shape == images.shape and model.decode(tokens).dtype == np.uint8
    assert model.encode(images[:, :8, :24]).shape == (3, levels, 3)
    assert model.encode(images[:0]).shape == (0, 4 * levels, 4)
    assert model.decode(tokens[:0]).shape == (0, 32, 32, 3)
    assert model.codebook.shape[0] == model.codes == 32


def test_equal_arguments_give_equal_bytes_and_another_seed_does_not() -> None:
    one, same, other = (fitted(steps=3, seed=seed) for seed in (1, 1, 2))
    assert one.files == same.files and one.history == same.history
    assert one.files[TENSORS] != other.files[TENSORS]
    torch.manual_seed(7)
    before = torch.get_rng_state()
    fitted(steps=1)
    assert torch.equal(before, torch.get_rng_state())  # the caller's random numbers are left alone


def test_codes_that_nothing_chooses_are_revived() -> None:
    wide: dict[str, Any] = {"kind": "vq", "codes": 64, "dim": 8, "steps": 80, "decay": 0.8}
    used = {}
    for revive in (0.0, 0.25):
        model = of_files(fitted(revive=revive, **wide).files)
        used[revive] = reconstruction(model, pictures(seed=9))["used"]
    assert used[0.25] > used[0.0] * 1.3


@pytest.mark.parametrize("patch", [4, 16])
def test_other_patches(patch: int) -> None:
    model = of_files(fitted(patch=patch, steps=2).files)
    assert model.patch == patch
    assert model.encode(pictures(1)).shape == (1, 32 // patch, 32 // patch)
    with pytest.raises(ConfigError, match=f"multiples of {patch} px, not 30 x 32"):
        model.encode(pictures(1)[:, :, :30])


def test_the_description_says_how_it_was_made(fits: dict[str, TokenizerFit]) -> None:
    words = json.loads(fits["fsq"].files[ABOUT])
    assert (words["kind"], words["codes"], words["dim"], words["levels"]) == ("fsq", 32, 2, [8, 4])
    assert words["fitted"]["options"]["steps"] == 60 and words["fitted"]["precision"] == "float32"
    assert words["versions"]["torch"] == torch.__version__.partition("+")[0]


def test_precision_is_asked_of_the_hardware_and_recorded() -> None:
    cpu = torch.device("cpu")
    assert half_precision("bfloat16", cpu) and not half_precision("float32", cpu)
    assert half_precision("auto", cpu) == half_precision("auto", cpu)
    files = fitted(steps=2, precision="bfloat16").files
    assert json.loads(files[ABOUT])["fitted"]["precision"] == "bfloat16"
    assert of_files(files).codebook.dtype == np.float32


def test_a_limit_of_time_fails_and_does_not_shorten() -> None:
    with pytest.raises(EnvironmentProblem, match=r"for 1 of 3 steps: allow more seconds"):
        fitted(steps=3, seconds=1e-9)
    assert fitted(steps=3, seconds=600).files[TENSORS] == fitted(steps=3).files[TENSORS]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "vqq"}, "unknown kind vqq; did you mean"),
        ({"precision": "float16"}, "unknown precision float16"),
        ({"patch": 6}, "patch=6 must be one of 4, 8, 16"),
        ({"crop": 20}, "crop=20 must be a multiple of patch=8"),
        ({"codes": 70_000}, "codes=70000: tokens are uint16"),
        ({"codes": 1}, "codes=1 must be at least 2"),
        ({"kind": "fsq", "codes": 22}, "codes=22 is no product of levels"),
        ({"kind": "lfq", "codes": 24}, "codes=24: kind=lfq has a power of two, as 16"),
        ({"decay": 1.0}, "decay=1.0 must be 0 to 0.9999"),
        ({"crop": 64}, r"crops of 64 px need at least one image as large"),
    ],
)
def test_options_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fitted(**changes)


def test_tensors_that_do_not_fit_the_settings_are_named(fits: dict[str, TokenizerFit]) -> None:
    from safetensors.numpy import load

    files = fits["cosine_vq"].files
    tensors = load(files[TENSORS])
    settings = TokenizerOptions(**SMALL).settings()
    first = "encoder.1.weight"
    for change, message in (
        ({"codebook": tensors["codebook"][:5]}, r"the codebook is \(5, 4\); \(32, 4\)"),
        ({"codebook": tensors["codebook"] * np.float32(np.nan)}, "finite"),
        (
            {first: tensors[first][:3]},
            r"tensor encoder\.1\.weight must be float32 \(16, 48, 3, 3\), and it is",
        ),
        ({first: tensors[first].astype(np.float16)}, "and it is float16"),
    ):
        with pytest.raises(ConfigError, match=message):
            of_files(write_parts(settings, tensors | change, {}))
    fewer = {name: tensor for name, tensor in tensors.items() if name != first}
    with pytest.raises(ConfigError, match=r"encoder\.1\.weight .* it is not there"):
        of_files(write_parts(settings, fewer, {}))
    for change, message in (
        ({"channels": "many"}, "name no channels up to 4096, but many"),
        ({"blocks": 10**9}, "name no blocks up to 64, but 1000000000"),
        ({"channels": 4096}, r"encoder\.1\.weight must be float32 \(4096, 48, 3, 3\)"),
        ({"levels": ["8"]}, "name no levels, but"),
        ({"patch": 5}, "patch=5 is none of 4, 8, 16"),
        ({"kind": "lfq", "dim": 40}, f"make {1 << 40} codes, and name 32"),
        ({"kind": "fsq", "levels": [8] * 30}, f"make {8**30} codes, and name 32"),
    ):
        with pytest.raises(ConfigError, match=message):
            of_files(write_parts(settings | change, tensors, {}))


def test_levels_one_below_the_other_must_be_whole(fits: dict[str, TokenizerFit]) -> None:
    with pytest.raises(ConfigError, match="3 rows are not 2 levels"):
        of_files(fits["rvq"].files).decode(np.zeros((1, 3, 4), np.uint16))
    with pytest.raises(ConfigError, match="has codes 0 to 31"):
        of_files(fits["rvq"].files).decode(np.full((1, 2, 4), 32, np.uint16))


def test_options_and_names_cost_no_torch() -> None:
    words = "import sys, datakit.models.tokenizer, datakit.train.tokenizer; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", words], check=False).returncode == 0


def test_without_torch_the_extra_is_named(
    fits: dict[str, TokenizerFit], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtra, match=r'"datakit\[torch\]"'):
        of_files(fits["vq"].files)
