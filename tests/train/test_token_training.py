"""Training on tokens: maps, augmentations, adapters, masked token modelling, each by the property that it is for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("timm")

from datakit.errors import ConfigError  # noqa: E402
from datakit.train import token_augment as augment  # noqa: E402
from datakit.train.mtm import MaskedTokens, MtmOptions, drawn_masks, pretrain  # noqa: E402
from datakit.train.stem_adapter import SmallNet, token_model  # noqa: E402
from datakit.train.token_adapt import (  # noqa: E402
    AdaptOptions,
    drawn_affine,
    fit_token_adapt,
    untouched,
    warped,
)
from datakit.train.token_classifier import (  # noqa: E402
    TokenOptions,
    train_pixel_classifier,
    train_token_classifier,
)
from datakit.train.token_data import (  # noqa: E402
    TokenDataset,
    centre_crop,
    crop,
    draw_boxes,
    embed,
    one_hot,
    random_resized_crop,
)

CODES, DIM = 24, 6


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def codebook() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((CODES, DIM)).astype(np.float32)


def smooth_grids(count: int, side: int = 16, seed: int = 0) -> np.ndarray:
    """Ids whose neighbours are alike: a wave quantised to codes."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    waves = [np.sin(2 * np.pi * (a * x + b * y + c)) for a, b, c in rng.uniform(0, 1, (count, 3))]
    return ((np.stack(waves) + 1) / 2 * (CODES - 1)).round().astype(np.uint16)


def ids_of(count: int = 6, side: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.randint(CODES, (count, side, side), generator=seeded(seed))


def test_embedding_first_is_one_hot_first(codebook: np.ndarray) -> None:
    ids, table = ids_of(), torch.from_numpy(codebook)
    boxes, flips = draw_boxes(len(ids), seeded()), torch.tensor([True, False] * 3)
    first = crop(embed(ids, table), boxes, 28, flips)
    last = torch.einsum("nkhw,kd->ndhw", crop(one_hot(ids, CODES), boxes, 28, flips), table)
    assert (first - last).abs().max() < 1e-5
    assert first.shape == (6, DIM, 28, 28)


def test_a_crop_of_all_of_a_map_is_the_map(codebook: np.ndarray) -> None:
    maps = embed(ids_of(), torch.from_numpy(codebook))
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(6, -1)
    assert torch.allclose(crop(maps, whole, 32), maps, atol=1e-5)
    assert torch.allclose(crop(maps, whole, 32, torch.ones(6, dtype=torch.bool)), maps.flip(3), atol=1e-5)
    assert (centre_crop(maps, 28) == maps[:, :, 2:30, 2:30]).all()


def test_crops_lie_inside_and_differ() -> None:
    boxes = draw_boxes(500, seeded())
    assert (boxes >= 0).all() and (boxes[:, 0] + boxes[:, 2] <= 1 + 1e-6).all()
    area = boxes[:, 2] * boxes[:, 3]
    assert area.min() >= 0.08 - 1e-3 and area.max() <= 1 + 1e-6 and area.std() > 0.1
    maps = torch.rand((4, 3, 16, 16))
    assert not torch.equal(random_resized_crop(maps, 8, seeded(0)), random_resized_crop(maps, 8, seeded(1)))
    assert torch.equal(random_resized_crop(maps, 8, seeded(0)), random_resized_crop(maps, 8, seeded(0)))


def test_a_data_set_gives_ids_or_embedded_maps(codebook: np.ndarray) -> None:
    ids = smooth_grids(5)
    plain = TokenDataset(ids, np.arange(5))
    assert plain[3][0].dtype == torch.int64 and (plain[3][0].numpy() == ids[3]).all() and plain[-1][1] == 4
    maps, label = TokenDataset(ids, np.arange(5), codebook, emit="embedded")[2]
    assert maps.dtype == torch.float16 and maps.shape == (DIM, 16, 16) and label == 2
    assert np.allclose(maps.permute(1, 2, 0).numpy(), codebook[ids[2]], atol=1e-2)
    with pytest.raises(ConfigError, match="need a codebook"):
        TokenDataset(ids, emit="embedded")


def test_eda_keeps_shape_and_range_and_changes_about_half() -> None:
    ids = ids_of(200, 16)
    nearest = torch.stack([(torch.arange(CODES) + step) % CODES for step in range(1, 6)], dim=1)
    found = augment.token_eda(ids, nearest, seeded())
    assert found.shape == ids.shape and found.dtype == ids.dtype and found.min() >= 0 and found.max() < CODES
    changed = (found != ids).flatten(1).any(dim=1).float().mean()
    assert 0.3 < changed < 0.65
    assert torch.equal(found, augment.token_eda(ids, nearest, seeded()))


def test_synonyms_are_synonyms() -> None:
    ids = ids_of(4, 16)
    nearest = torch.stack([(torch.arange(CODES) + step) % CODES for step in range(1, 6)], dim=1)
    found = augment.synonyms(ids, nearest, seeded())
    step = (found - ids) % CODES
    assert step.max() <= 5 and 0.2 < (step > 0).float().mean() < 0.3


def test_a_patch_swap_moves_tokens_and_loses_none() -> None:
    ids = ids_of(40, 16)
    found = augment.patch_swap(ids, seeded())
    assert torch.equal(found.flatten(1).sort(dim=1).values, ids.flatten(1).sort(dim=1).values)
    assert (found != ids).flatten(1).any(dim=1).float().mean() > 0.5


def test_emb_noise_has_a_part_of_the_map_and_one_of_the_position() -> None:
    maps = torch.zeros((400, 3, 8, 8))
    shared = augment.emb_noise(maps, seeded(), pixel=0.0, share=1.0)
    assert shared.std(dim=(2, 3)).max() < 1e-6 and abs(float(shared[:, :, 0, 0].std()) - 1) < 0.1
    both = augment.emb_noise(maps, seeded(), share=1.0)
    assert abs(float(both.var()) - 2) < 0.2
    some = augment.emb_noise(maps, seeded(), share=0.5)
    assert 0.4 < float((some != 0).flatten(1).any(dim=1).float().mean()) < 0.6


def test_color_adapt_takes_its_partners_moments() -> None:
    maps = torch.randn((8, 4, 12, 12), generator=seeded()) * torch.rand((8, 4, 1, 1)) + torch.randn(
        (8, 4, 1, 1)
    )
    partner = torch.arange(8).roll(3)
    found = augment.color_adapt(maps, seeded(), share=1.0, partner_N=partner)
    assert (found.mean(dim=(2, 3)) - maps[partner].mean(dim=(2, 3))).abs().max() < 1e-3
    assert (found.std(dim=(2, 3)) - maps[partner].std(dim=(2, 3))).abs().max() < 1e-3


def test_color_adapt_of_constant_maps_is_finite() -> None:
    maps = torch.full((4, 3, 8, 8), 2.0)
    maps[1] = torch.randn((3, 8, 8), generator=seeded())
    assert augment.color_adapt(maps, seeded(), share=1.0).isfinite().all()


@pytest.mark.parametrize("count", [2, 3, 17])
def test_nobody_is_its_own_partner(count: int) -> None:
    for seed in range(20):
        partner = augment.derangement(count, seeded(seed))
        assert (partner != torch.arange(count)).all() and len(set(partner.tolist())) == count


def test_cutmix_says_what_share_is_the_images_own() -> None:
    maps = torch.arange(50.0)[:, None, None, None].expand(-1, 2, 16, 16)
    found, partner, share = augment.cutmix(maps, seeded())
    own = (found[:, 0] == torch.arange(50.0)[:, None, None]).float().mean(dim=(1, 2))
    assert torch.allclose(own, share, atol=1e-6) and 0.2 < share.mean() < 0.8
    other = found[:, 0] != torch.arange(50.0)[:, None, None]
    assert (found[:, 0][other] == partner[:, None, None].expand(-1, 16, 16)[other].float()).all()
    ids, _, _ = augment.cutmix(ids_of(8, 16), seeded())
    assert ids.dtype == torch.int64 and ids.shape == (8, 16, 16)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet18", "convnext_atto"])
def test_an_adapter_stands_before_an_unchanged_network(name: str) -> None:
    import timm

    model = token_model(name, dim=DIM, classes=7).eval()
    with torch.no_grad():
        assert model(torch.randn((2, DIM, 28, 28))).shape == (2, 7)
    plain = {key: value.shape for key, value in timm.create_model(name, num_classes=7).state_dict().items()}
    ours = {key: value.shape for key, value in model.state_dict().items()}
    stems = ("patch_embed", "stem", "conv1")
    rest = [key for key in plain if not key.startswith(stems) and "norm_pre" not in key]
    assert [key for key in rest if ours.get(key) != plain[key]] == []


def test_a_network_without_a_stem_is_refused() -> None:
    with pytest.raises(ConfigError, match="timm makes no model"):
        token_model("no_such_net", dim=4, classes=2)


def two_classes(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids of class 0 lie among the lower codes at the left, those of class 1 at the right."""
    rng = np.random.default_rng(count)
    labels = np.arange(count) % 2
    ids = rng.integers(0, CODES, (count, 16, 16)).astype(np.uint16)
    for grid, label in zip(ids, labels, strict=True):
        half = slice(0, 8) if label == 0 else slice(8, 16)
        grid[:, half] = rng.integers(0, 4, (16, 8))
    return ids, labels


@pytest.mark.parametrize("model", ["small", "vit"])
def test_a_classifier_learns_from_tokens_and_the_same_way_twice(model: str, codebook: np.ndarray) -> None:
    ids, labels = two_classes(96)
    other, truth = two_classes(40)
    options = TokenOptions(model=model, epochs=6, batch_size=16, scale=0.8)
    runs = [
        train_token_classifier(ids, labels, codebook, other, truth, options=options, seed=0) for _ in range(2)
    ]
    assert runs[0].top1 > 0.8 and runs[0].loss_by_epoch == runs[1].loss_by_epoch
    shuffled = np.random.default_rng(0).permutation(labels)
    control = train_token_classifier(ids, shuffled, codebook, other, truth, options=options, seed=0)
    assert control.top1 < 0.8


def test_every_augmentation_trains(codebook: np.ndarray) -> None:
    ids, labels = two_classes(32)
    nearest = np.zeros((CODES, 5), np.uint16)
    options = TokenOptions(augment="eda,noise,color,cutmix,flip", epochs=2, batch_size=8)
    result = train_token_classifier(
        ids, labels, codebook, ids, labels, options=options, seed=0, synonyms_KS=nearest
    )
    assert np.isfinite(result.loss_by_epoch).all()
    with pytest.raises(ConfigError, match="did you mean noise"):
        TokenOptions(augment="nois")
    with pytest.raises(ConfigError, match="needs a TokenAdapt"):
        options = TokenOptions(augment="tokenadapt", epochs=1)
        train_token_classifier(ids, labels, codebook, ids, labels, options=options, seed=0)


def test_pixels_are_learned_by_the_same_loop() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(48) % 2
    images = rng.integers(0, 255, (48, 64, 64, 3)).astype(np.uint8)
    images[labels == 1, 16:48, 16:48] //= 6
    result = train_pixel_classifier(
        images, labels, images, labels, options=TokenOptions(epochs=8, batch_size=16), seed=0
    )
    assert result.top1 > 0.9


def test_the_two_nets_have_one_body() -> None:
    tokens, pixels = SmallNet(DIM, 5), SmallNet(3, 5, unshuffle=4)
    assert str(tokens.body) == str(pixels.body)
    assert tokens(torch.randn((2, DIM, 28, 28))).shape == pixels(torch.randn((2, 3, 112, 112))).shape


def test_masks_leave_out_forty_per_cent_and_only_masked_patches() -> None:
    for seed in range(30):
        masked, left_out = drawn_masks(5, 50, seeded(seed))
        assert (left_out.sum(dim=1) == 20).all() and (masked | ~left_out).all()
        assert 20 <= int(masked[0].sum()) <= 50 and len(set(masked.sum(dim=1).tolist())) == 1


SMALL = MtmOptions(steps=250, batch_size=16, side=16, patch=2, width=64, depth=1, dim=8, lr=5e-3)


def test_masked_tokens_are_told_from_their_neighbours_and_not_where_there_are_none() -> None:
    grids = smooth_grids(120)
    learned = pretrain(grids, CODES, options=SMALL, seed=0)
    assert learned.masked_ce < 0.9 * learned.unigram
    flat = np.random.default_rng(0).permutation(grids.reshape(-1)).reshape(grids.shape)
    control = pretrain(flat, CODES, options=SMALL, seed=0)
    assert control.masked_ce > 0.97 * control.unigram


def test_a_sample_of_the_masked_tokens_has_the_loss_of_all() -> None:
    torch.manual_seed(0)
    model = MaskedTokens(CODES, DIM, SMALL)
    ids = ids_of(16, SMALL.side)
    with torch.no_grad():
        assert float(model(ids, seeded(3), most=200)) != float(model(ids, seeded(3)))
        some, every = (
            [float(model(ids, seeded(seed), most=most)) for seed in range(60)] for most in (200, None)
        )
    assert abs(np.mean(some) - np.mean(every)) < 4 * np.std(some) / 60**0.5


def test_what_masked_modelling_learned_starts_a_classifier(codebook: np.ndarray) -> None:
    ids, labels = two_classes(48)
    start = pretrain(ids, CODES, options=MtmOptions(steps=5, batch_size=8, side=12, width=32, depth=1), seed=0,
                     codebook_KD=codebook)  # fmt: skip
    options = TokenOptions(model="vit", epochs=1, batch_size=16)
    kept = train_token_classifier(ids, labels, codebook, ids, labels, options=options, seed=0, start=start)
    fresh = train_token_classifier(ids, labels, codebook, ids, labels, options=options, seed=0)
    assert kept.loss_by_epoch != fresh.loss_by_epoch
    with pytest.raises(ConfigError, match="starts model=vit"):
        train_token_classifier(
            ids, labels, codebook, ids, labels, options=TokenOptions(), seed=0, start=start
        )


def test_grids_that_are_too_small_are_refused() -> None:
    with pytest.raises(ConfigError, match="masked token modelling wants"):
        pretrain(smooth_grids(4, side=8), CODES, options=SMALL, seed=0)


def test_token_adapt_gives_tokens_back_untouched(codebook: np.ndarray) -> None:
    grids = smooth_grids(40, side=8)
    options = AdaptOptions(width=32, steps=200, lr=5e-3)
    model = fit_token_adapt(grids, codebook, options=options, seed=0)
    assert untouched(model, smooth_grids(10, side=8, seed=1)) > 0.95
    barely = fit_token_adapt(grids, codebook, options=AdaptOptions(width=32, steps=1), seed=0)
    assert untouched(barely, grids) < 0.5
    moved = model.augmented(torch.from_numpy(grids[:6].astype(np.int64)), 7, seeded())
    assert moved.shape == (6, 7, 7) and moved.max() < CODES


def test_token_adapt_learns_what_the_tokenizer_says_of_a_moved_image(codebook: np.ndarray) -> None:
    """With the answers of the pixels the map's own flip is worth more than without."""
    rng = np.random.default_rng(0)
    images = np.kron(rng.choice([0, 255], (24, 8, 8, 1)), np.ones((1, 4, 4, 3))).astype(np.uint8)

    def tokenized(pixels: np.ndarray) -> np.ndarray:
        return (pixels.reshape(-1, 8, 4, 8, 4, 3).mean(axis=(2, 4, 5)) / 256 * CODES).astype(np.uint16)

    def tokens_of(numbers: np.ndarray, affine: np.ndarray) -> np.ndarray:
        return tokenized(warped(images[numbers], affine))

    model = fit_token_adapt(tokenized(images), codebook, tokens_of=tokens_of,
                            options=AdaptOptions(width=32, steps=40), seed=0)  # fmt: skip
    assert model.round_trip(torch.from_numpy(tokenized(images).astype(np.int64))).shape == (24, 8, 8)


def test_an_affine_is_one_of_those_that_were_promised() -> None:
    for seed in range(50):
        affine = drawn_affine(seeded(seed))
        assert affine.shape == (2, 3) and 0.3 < abs(np.linalg.det(affine[:, :2])) < 1.1


def test_images_are_moved_as_maps_are() -> None:
    images = np.random.default_rng(0).integers(0, 255, (2, 8, 8, 3), np.uint8)
    flip: Callable[..., np.ndarray] = lambda: np.array([[-1.0, 0, 0], [0, 1.0, 0]])  # noqa: E731
    assert (warped(images, flip()) == images[:, :, ::-1]).all()
    assert (warped(images, np.array([[1.0, 0, 0], [0, 1.0, 0]])) == images).all()
