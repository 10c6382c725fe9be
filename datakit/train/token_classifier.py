"""Classifiers on tokens, and on pixels by the same loop: what the tokens of a store are worth.

AdamW, the rate up over a tenth of the steps and down on a cosine, label smoothing; training crops of embedded maps,
tests by the centre. Not run on a GPU: the device is an argument, and only the CPU was tried.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from datakit.errors import ConfigError, did_you_mean
from datakit.train import token_augment as augment
from datakit.train.mtm import Pretrained
from datakit.train.runtime import pick_device, reproducible, seeded, torch_seed
from datakit.train.stem_adapter import SmallNet, token_model
from datakit.train.token_adapt import TokenAdapt
from datakit.train.token_data import centre_crop, embed, random_resized_crop
from datakit.train.token_vit import TokenViT

AUGMENTS = ("none", "eda", "noise", "color", "cutmix", "flip", "tokenadapt")
NOISE, COLOR = 0.5, 0.25  # chances that a batch gets Emb-Noise, or ColorAdapt (SeiT++); else neither
WARMUP = 0.1  # share of the steps
LR = {
    "small": 1e-2,
    "vit": 4e-3,
}  # the best of 2e-3 to 2e-2, and of 1e-3 to 4e-3, on 1,800 photographs of groceries
LR_OF_TIMM = 1e-3
EVAL_BATCH = 256
PIXELS = 4  # px that a pixel-unshuffle folds into one position, of a side divisible by it

Batch = tuple[Tensor, Callable[[Tensor], Tensor]]  # inputs, and logits → loss


def key(default: Any, help: str, **limits: float) -> Any:
    return field(default=default, metadata={"help": help, **limits})


@dataclass(frozen=True, kw_only=True)
class TokenOptions:
    """Of one training. SeiT's: 300 epochs of AdamW 7.5e-4 a batch of 512, decay .1, smoothing .1, CutMix always."""

    model: str = key("small", "small, vit (which MTM can start), or a model of timm behind the Stem-Adapter")
    augment: str = key("none", "none, or of: eda, noise, color, cutmix, flip, tokenadapt; with commas")
    epochs: int = key(20, "passes over the images", least=1)
    batch_size: int = key(64, "images a step", least=2)
    lr: float = key(0.0, "of AdamW at its peak; 0: 0.01 for small, 0.004 for vit, 0.001 for timm's", least=0)
    weight_decay: float = key(0.05, "of AdamW", least=0)
    smoothing: float = key(0.1, "of labels", least=0, most=0.9)
    noise: float = key(0.25, "deviation of Emb-Noise; SeiT++'s 1 is for 300 epochs", least=0)
    scale: float = key(
        0.35, "least share of the grid's area in a training crop; SeiT's is 0.08", least=0.01, most=1
    )
    crop: int = key(0, "positions of a crop's side; 0: 7/8 of the grid's, 28 of 32", least=0)
    device: str = key("auto", "auto, cpu, cuda")

    def __post_init__(self) -> None:
        for word in self.words:
            if word not in AUGMENTS:
                raise ConfigError(
                    f"no augmentation {word}{did_you_mean(word, AUGMENTS)}; there are {', '.join(AUGMENTS)}"
                )

    @property
    def words(self) -> list[str]:
        return [word.strip() for word in self.augment.split(",") if word.strip()]

    @property
    def peak(self) -> float:
        """The rate of learning at its peak."""
        return self.lr or LR.get(self.model, LR_OF_TIMM)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class TokenResult:
    """top1 in [0, 1] after the last epoch; top1_by_epoch, loss_by_epoch; seconds and images a second of training."""

    top1: float
    top1_by_epoch: list[float]
    loss_by_epoch: list[float]
    seconds: float
    images_per_second: float
    predictions: NDArray[np.int64]


def train_token_classifier(
    ids_NHW: NDArray[np.uint16],
    labels_N: NDArray[np.int64],
    codebook_KD: NDArray[np.float32],
    test_ids: NDArray[np.uint16],
    test_labels: NDArray[np.int64],
    *,
    options: TokenOptions,
    seed: int,
    synonyms_KS: NDArray[np.uint16] | None = None,
    start: Pretrained | None = None,
    adapt: TokenAdapt | None = None,
) -> TokenResult:
    """Train on ids and judge on others. start: what MTM learned, for model=vit. adapt: for augment=tokenadapt.

    Equal arguments give equal results on one machine's CPU: one thread. Raises ConfigError.
    """
    _check(ids_NHW, labels_N, test_ids, test_labels)
    table = _table(codebook_KD) if start is None else torch.from_numpy(start.table.copy())
    nearest = None if synonyms_KS is None else torch.from_numpy(synonyms_KS.astype(np.int64))
    side = _side(options, ids_NHW.shape[1], start)
    if "tokenadapt" in options.words and adapt is None:
        raise ConfigError("augment=tokenadapt needs a TokenAdapt that was trained: give adapt=")

    def views(ids: Tensor, generator: torch.Generator) -> Tensor:
        if "eda" in options.words:
            ids = augment.token_eda(ids, nearest, generator)
        flip, scale = "flip" in options.words, (options.scale, 1.0)
        if adapt is None or "tokenadapt" not in options.words:
            return random_resized_crop(embed(ids, table), side, generator, scale=scale, flip=flip)
        # Half of the batch plain, half through TokenAdapt, as SeiT++ does.
        half = len(ids) // 2
        plain = random_resized_crop(embed(ids[:half], table), side, generator, scale=scale, flip=flip)
        return torch.cat([plain, embed(adapt.augmented(ids[half:], side, generator), table)])

    classes = int(max(labels_N.max(), test_labels.max())) + 1
    with reproducible(), seeded(seed, "token classifier", "weights"):
        model = _model(options, table.shape[1], classes, side, start)
        train, test = (torch.from_numpy(ids.astype(np.int64)) for ids in (ids_NHW, test_ids))
        shown = lambda ids: centre_crop(embed(ids, table), side)  # noqa: E731
        return _run(model, (train, labels_N), (test, test_labels), views, shown, options, seed)


def train_pixel_classifier(
    images_NHWC: NDArray[np.uint8],
    labels_N: NDArray[np.int64],
    test_images: NDArray[np.uint8],
    test_labels: NDArray[np.int64],
    *,
    options: TokenOptions,
    seed: int,
) -> TokenResult:
    """The same loop on uint8 (N, S, S, 3): the small net behind a pixel-unshuffle by 4, crops of 7/8 of the side,
    mirrored in half. Raises ConfigError.
    """
    _check(images_NHWC, labels_N, test_images, test_labels)
    side = images_NHWC.shape[1] * 7 // 8 // (2 * PIXELS) * 2 * PIXELS
    if options.model != "small":
        raise ConfigError(f"model={options.model}: pixels are compared on the small net alone")

    def views(images: Tensor, generator: torch.Generator) -> Tensor:
        floats, scale = _floats(images), (options.scale, 1.0)
        return random_resized_crop(floats, side, generator, scale=scale, flip=True, sampling="bilinear")

    classes = int(max(labels_N.max(), test_labels.max())) + 1
    with reproducible(), seeded(seed, "token classifier", "weights"):
        model = SmallNet(3, classes, unshuffle=PIXELS)
        train, test = (
            torch.from_numpy(images.transpose(0, 3, 1, 2)) for images in (images_NHWC, test_images)
        )
        shown = lambda images: centre_crop(_floats(images), side)  # noqa: E731
        return _run(model, (train, labels_N), (test, test_labels), views, shown, options, seed)


def _run(
    model: nn.Module,
    train: tuple[Tensor, NDArray[np.int64]],
    test: tuple[Tensor, NDArray[np.int64]],
    views: Callable[[Tensor, torch.Generator], Tensor],
    shown: Callable[[Tensor], Tensor],
    options: TokenOptions,
    seed: int,
) -> TokenResult:
    """The loop. views: of a batch of samples, drawn anew; shown: as they are judged."""
    device = pick_device(options.device)
    # Channels last: a third less time in the convolutions of a CPU.
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    samples, labels = train[0], torch.from_numpy(train[1])
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.peak, weight_decay=options.weight_decay)
    each = -(-len(samples) // options.batch_size)
    schedule = _schedule(optimizer, options.epochs * each)
    generator = torch.Generator().manual_seed(torch_seed(seed, "token classifier", "batches"))
    losses, accuracies, seconds = [], [], 0.0
    predictions = np.empty(0, np.int64)
    for _ in range(options.epochs):
        started = time.perf_counter()
        model.train()
        sums = 0.0
        for rows in _batches(len(samples), options.batch_size, generator):
            inputs, loss_of = _augmented(views(samples[rows], generator), labels[rows], options, generator)
            loss = loss_of(model(inputs.to(device, memory_format=torch.channels_last)))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            sums += float(loss.detach()) * len(rows)
        seconds += time.perf_counter() - started
        losses.append(sums / len(samples))
        predictions = _predicted(model, test[0], shown, device)
        accuracies.append(float(np.mean(predictions == test[1])))
    speed = options.epochs * len(samples) / max(seconds, 1e-9)
    return TokenResult(top1=accuracies[-1], top1_by_epoch=accuracies, loss_by_epoch=losses, seconds=seconds,
                       images_per_second=speed, predictions=predictions)  # fmt: skip


def _augmented(maps: Tensor, labels: Tensor, options: TokenOptions, generator: torch.Generator) -> Batch:
    """Batch-level augmentations: one of Emb-Noise, ColorAdapt and none; then CutMix, whose labels are mixed."""
    drawn = float(torch.rand((), generator=generator))
    if "noise" in options.words and drawn < NOISE:
        maps = augment.emb_noise(maps, generator, colour=options.noise, pixel=options.noise)
    elif "color" in options.words and NOISE <= drawn < NOISE + COLOR:
        maps = augment.color_adapt(maps, generator)
    smoothing = options.smoothing
    if "cutmix" not in options.words:
        return maps, lambda logits: functional.cross_entropy(
            logits, labels.to(logits.device), label_smoothing=smoothing
        )
    maps, partner, share = augment.cutmix(maps, generator)

    def mixed(logits: Tensor) -> Tensor:
        own, other = (
            functional.cross_entropy(
                logits, one.to(logits.device), label_smoothing=smoothing, reduction="none"
            )
            for one in (labels, labels[partner])
        )
        weight = share.to(logits.device)
        return (weight * own + (1 - weight) * other).mean()

    return maps, mixed


def _batches(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """All in a drawn order; a last one of one sample joins the batch before, since batch norms cannot take it."""
    order = torch.randperm(count, generator=generator)
    begins = list(range(0, count, size))
    if len(begins) > 1 and count - begins[-1] == 1:
        begins.pop()
    for begin, end in zip(begins, [*begins[1:], count], strict=True):
        yield order[begin:end]


def _predicted(
    model: nn.Module, samples: Tensor, shown: Callable[[Tensor], Tensor], device: torch.device
) -> NDArray[np.int64]:
    model.eval()
    with torch.no_grad():
        found = [
            model(shown(samples[at : at + EVAL_BATCH]).to(device)).argmax(dim=1).cpu().numpy()
            for at in range(0, len(samples), EVAL_BATCH)
        ]
    return np.concatenate(found).astype(np.int64)


def _schedule(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    warm = max(1, int(WARMUP * steps))
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warm, 0.5 * (1 + float(np.cos(np.pi * min(1.0, step / steps))))),
    )


def _model(options: TokenOptions, dim: int, classes: int, side: int, start: Pretrained | None) -> nn.Module:
    if start is not None and options.model != "vit":
        raise ConfigError(f"model={options.model}: masked token modelling starts model=vit")
    if options.model == "small":
        return SmallNet(dim, classes)
    if options.model != "vit":
        return token_model(options.model, dim=dim, classes=classes, side=side)
    shape = {"side": side, "patch": 4}
    if start is not None:
        told = start.options
        shape = {
            "side": side,
            "patch": told.patch,
            "width": told.width,
            "depth": told.depth,
            "heads": told.heads,
        }
    model = TokenViT(dim, classes, **shape)
    if start is not None:
        model.load_state_dict(start.state, strict=False)
    return model


def _side(options: TokenOptions, grid: int, start: Pretrained | None) -> int:
    """Positions of a crop's side, a multiple of 4: two strides of the small net, a patch of the ViT."""
    if start is not None:
        return start.options.side
    return options.crop or max(4, grid * 7 // 8 // 4 * 4)


def _table(codebook_KD: NDArray[np.float32]) -> Tensor:
    """The codebook, centred and scaled to a deviation of 1: noise of deviation 1 is then as large as colours."""
    table = torch.from_numpy(np.array(codebook_KD, np.float32))
    return (table - table.mean()) / table.std().clamp_min(1e-6)


def _floats(images_NCHW: Tensor) -> Tensor:
    """-1 to 1; in place, as fresh memory costs more than the arithmetic."""
    return images_NCHW.float().mul_(1 / 127.5).sub_(1)


def _check(train: Any, labels: Any, test: Any, test_labels: Any) -> None:
    if len(train) != len(labels) or len(test) != len(test_labels):
        raise ConfigError(
            f"{len(labels)} and {len(test_labels)} labels for {len(train)} and {len(test)} images"
        )
    if len(train) < 2 or not len(test):
        raise ConfigError(f"{len(train)} images to train on and {len(test)} to test: two and one at least")
    if int(labels.min()) < 0 or int(test_labels.min()) < 0:
        raise ConfigError("images without a label are among those to learn: leave them out")
