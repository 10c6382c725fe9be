"""What a number of bytes buys: classifiers on tokens and on pixels stored in as many coded bytes.

Storage, not network or time, is held equal, as in SeiT (Park et al., ICCV 2023): the same budget of coded bytes for
the training images, the same body of the network and the same number of steps; what is stored differs. WebP at a low
resolution, which SeiT did not compare, is among the arms: at a kilobyte an image it is the rival (spec, 3.3). A
budget of 1 is one view of every training image in tokens; where the build has more views, larger budgets hold them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datakit.errors import ConfigError, did_you_mean
from datakit.rng import rng_for
from datakit.tokens.opened import TokenSet
from datakit.train.mtm import MtmOptions, Pretrained, pretrain
from datakit.train.token_adapt import TokenAdapt
from datakit.train.token_classifier import TokenOptions, train_pixel_classifier, train_token_classifier
from datakit.train.token_shrink import Shrunk, best_setting, jpeg_ladder, webp_ladder, webp_small

Ints = NDArray[np.int64]
Pixels = NDArray[np.uint8]

ARMS = {
    "full": "full pixels, as found",
    "subset": "a random subset, as found",
    "webp_subset": "a subset as 128 px WebP",
    "webp_low": "all as WebP of low resolution",
    "jpeg_low": "all as JPEG of low quality",
    "tokens": "tokens",
    "tokens_aug": "tokens, augmented",
    "tokens_adapt": "tokens, through TokenAdapt",
    "tokens_vit": "tokens, a small ViT",
    "tokens_mtm": "tokens, that ViT after MTM",
}
TOKENS = ("tokens", "tokens_aug", "tokens_adapt", "tokens_vit", "tokens_mtm")
VIT = ("tokens_vit", "tokens_mtm")  # the arm that MTM starts, and what it is to be compared with
# Token-EDA, Emb-Noise and ColorAdapt, as SeiT and SeiT++; and TokenAdapt in half of each batch.
AUGMENTS = {"tokens_aug": "eda,noise,color", "tokens_adapt": "eda,tokenadapt"}


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Images of a split with their tokens. `images(numbers)`: uint8 (side, side, 3) of each, framed as the tokens
    were; rows: of the build's rows; source_bytes: as found; train, test: numbers into all of these.
    """

    tokens: TokenSet
    images: Callable[[Ints], list[Pixels]]
    rows: Ints
    labels: Ints
    train: Ints
    test: Ints
    source_bytes: Ints
    classes: int
    adapt: TokenAdapt | None = None  # for the arm tokens_adapt

    @property
    def views(self) -> int:
        """Of each image, in the token folder."""
        return int(len(self.tokens) // self.tokens.about["images"])

    def ids(self, numbers: Ints, view: Ints | int = 0) -> NDArray[np.uint16]:
        """Packed ids (n, h, w) of a view of each, the first being the frame."""
        return self.tokens.read(self.rows[numbers] * self.views + view)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One arm at one budget. budget: times the tokens' own bytes for one view of all training images. side: px that
    pixel classifiers are trained at. steps: of training, the same for every arm. epochs are what that comes to.
    """

    name: str
    budget: float = 1.0
    side: int = 128
    steps: int = 400
    mtm_steps: int = 1000
    batch_size: int = 64
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.name not in ARMS:
            raise ConfigError(
                f"no arm {self.name}{did_you_mean(self.name, ARMS)}; there are {', '.join(ARMS)}"
            )


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What an arm stores: training images by number, their bytes, and how, in words. views: of tokens, which view of
    the image of the same place in `numbers`.
    """

    numbers: Ints
    coded_bytes: int
    setting: str
    views: Ints | None = None
    shrunk: Shrunk | None = None  # how pixels are stored; None: as found


def budgets_of(arm: str, budgets: Sequence[float], views: int) -> list[float]:
    """Those at which the arm stores something else: full pixels are all there is, and tokens no more than all views."""
    if arm == "full":
        return [1.0]
    if arm not in TOKENS:
        return list(budgets)
    whole = [budget for budget in budgets if budget >= views]
    return [budget for budget in budgets if budget < views or budget == min(whole)]


def token_bytes(tokens: TokenSet) -> tuple[float, int]:
    """(bytes of blocks a view, bytes that all share: the codebook and what the codec learned)."""
    files = tokens.files
    shared = sum(size for name, size in files.items() if name in ("codebook.safetensors", "model.bin"))
    return files["blocks.bin"] / max(1, len(tokens)), shared


def budget_bytes(corpus: Corpus, budget: float) -> int:
    """The coded bytes that an arm may spend on its training images."""
    each, shared = token_bytes(corpus.tokens)
    # Up to a whole byte: at a budget of 1 the last image must not fall to a rounding.
    return int(np.ceil(budget * (each * len(corpus.train) + shared)))


def run_arm(corpus: Corpus, arm: Arm, *, seeds: Sequence[int]) -> dict[str, Any]:
    """The arm as JSON: name, budget, allowed and spent bytes, images, setting, top1 of each seed in [0, 1], chance,
    history of top1 by epoch, mtm. Nothing of it is a time: a build's bytes are the same on a slow day.

    The subset is drawn once, by the first seed; seeds differ in initial weights, order and augmentation. An arm that
    cannot spend its budget, as all images are stored already, says so by what it spent.
    """
    chosen = store_in(corpus, arm, seed=seeds[0])
    train, test = arm.name in TOKENS, corpus.test
    runs = (_token_runs if train else _pixel_runs)(corpus, arm, chosen, seeds)
    _, counts = np.unique(corpus.labels[test], return_counts=True)
    return {
        "arm": arm.name,
        "budget": arm.budget,
        "allowed": budget_bytes(corpus, arm.budget) if arm.name != "full" else None,
        "spent": chosen.coded_bytes,
        "images": len(np.unique(chosen.numbers)),
        "of": len(corpus.train),
        "tested": len(test),
        "setting": chosen.setting,
        "seeds": list(seeds),
        "top1": [run["top1"] for run in runs],
        "history": [run["history"] for run in runs],
        "mtm": [run["mtm"] for run in runs if "mtm" in run],
        "chance": float(counts.max() / counts.sum()),
    }


def store_in(corpus: Corpus, arm: Arm, *, seed: int) -> Chosen:
    """The most that the arm can store within its budget. Raises ConfigError where that is not one image a class."""
    order = _rounds(corpus, seed)
    allowed = budget_bytes(corpus, arm.budget)
    if arm.name == "full":
        total = int(corpus.source_bytes[corpus.train].sum())
        chosen = Chosen(numbers=corpus.train, coded_bytes=total, setting="as found")
    elif arm.name == "subset":
        chosen = _prefix(order, corpus.source_bytes[order], allowed, "as found")
    elif arm.name in TOKENS:
        chosen = _tokens(corpus, order, allowed)
    else:
        chosen = _shrunk(corpus, arm, order, allowed)
    if len(set(corpus.labels[chosen.numbers].tolist())) < 2:
        raise ConfigError(
            f"{allowed:,} bytes hold {len(chosen.numbers)} images of the arm {arm.name}: too few to train on; "
            "give larger budgets, or more images"
        )
    return chosen


def _tokens(corpus: Corpus, order: Ints, allowed: int) -> Chosen:
    """The first view of as many images as the budget holds; then the second of each, and so on."""
    each, shared = token_bytes(corpus.tokens)
    count = max(0, int((allowed - shared) / each + 1e-9))  # a hair for the rounding of a mean
    count = min(count, len(order) * corpus.views)
    turn, at = np.divmod(np.arange(count), len(order))
    numbers = order[at]
    place = np.lexsort((turn, numbers))
    words = "tokens" if count <= len(order) else f"tokens, {count / len(order):.3g} views an image"
    return Chosen(
        numbers=numbers[place],
        coded_bytes=int(np.ceil(count * each)) + shared,
        setting=words,
        views=turn[place],
    )


def _shrunk(corpus: Corpus, arm: Arm, order: Ints, allowed: int) -> Chosen:
    ladder = {"webp_subset": [webp_small()], "webp_low": webp_ladder(), "jpeg_low": jpeg_ladder()}[arm.name]
    shrunk, sizes = best_setting(ladder, lambda numbers: corpus.images(numbers), order, allowed)
    return replace(_prefix(order, sizes, allowed, shrunk.words), shrunk=shrunk)


def _rounds(corpus: Corpus, seed: int) -> Ints:
    """Training images in the order in which a budget takes them: class by class in turn, each in a drawn order."""
    labels = corpus.labels[corpus.train]
    rng = rng_for(seed, "token arms", "order")
    drawn = rng.permutation(len(corpus.train))
    turn = np.empty(len(drawn), np.int64)
    for label in np.unique(labels):
        members = drawn[labels[drawn] == label]
        turn[members] = np.arange(len(members))
    mixed = np.lexsort((rng.permutation(len(drawn)), turn))
    return corpus.train[mixed]


def _prefix(order: Ints, sizes: NDArray[Any], allowed: float, setting: str) -> Chosen:
    """The first images that fit."""
    total = np.cumsum(sizes)
    count = int(np.searchsorted(total, allowed, side="right"))
    spent = int(np.ceil(total[count - 1])) if count else 0
    return Chosen(numbers=np.sort(order[:count]), coded_bytes=spent, setting=setting)


def _token_runs(corpus: Corpus, arm: Arm, chosen: Chosen, seeds: Sequence[int]) -> list[dict[str, Any]]:
    tokens = corpus.tokens
    ids = corpus.ids(chosen.numbers, 0 if chosen.views is None else chosen.views)
    tested = corpus.ids(corpus.test)
    options = TokenOptions(
        model="vit" if arm.name in VIT else "small",
        augment=AUGMENTS.get(arm.name, "none"),
        epochs=_epochs(arm, len(ids)),
        batch_size=arm.batch_size,
        device=arm.device,
    )
    runs = []
    for seed in seeds:
        start = _start(tokens, ids, arm, seed) if arm.name == "tokens_mtm" else None
        result = train_token_classifier(
            ids, corpus.labels[chosen.numbers], tokens.vectors, tested, corpus.labels[corpus.test],
            options=options, seed=seed, synonyms_KS=tokens.synonyms, start=start, adapt=corpus.adapt,
        )  # fmt: skip
        told = {} if start is None else {"mtm": {"masked_ce": start.masked_ce, "unigram": start.unigram}}
        runs.append(_run(result) | told)
    return runs


def _start(tokens: TokenSet, ids: NDArray[np.uint16], arm: Arm, seed: int) -> Pretrained:
    """MTM on the same images that the classifier is trained on: it buys no byte more."""
    side = min(tokens.grid) * 7 // 8 // 4 * 4
    options = MtmOptions(steps=arm.mtm_steps, side=side, device=arm.device)
    return pretrain(ids, tokens.codes, options=options, seed=seed, codebook_KD=tokens.codebook)


def _pixel_runs(corpus: Corpus, arm: Arm, chosen: Chosen, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Test images are stored as the training images are: what is deployed sees what was trained on."""
    from datakit.train.token_shrink import as_stored

    train, test = (
        as_stored(corpus.images, numbers, chosen.shrunk, arm.side)
        for numbers in (chosen.numbers, corpus.test)
    )
    options = TokenOptions(
        epochs=_epochs(arm, len(train)),
        batch_size=arm.batch_size,
        device=arm.device,
    )
    labels, tested = corpus.labels[chosen.numbers], corpus.labels[corpus.test]
    return [
        _run(train_pixel_classifier(train, labels, test, tested, options=options, seed=seed))
        for seed in seeds
    ]


def _epochs(arm: Arm, images: int) -> int:
    """As many as give `steps`, so that a small subset is seen more often and no arm is trained longer."""
    return max(1, round(arm.steps / max(1, -(-images // arm.batch_size))))


def _run(result: Any) -> dict[str, Any]:
    return {
        "top1": float(result.top1),
        "history": [float(value) for value in result.top1_by_epoch],
    }
