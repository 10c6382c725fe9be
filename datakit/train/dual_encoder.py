"""A small dual encoder: two towers over fixed image features and sentence vectors, trained on captions to one space.

After the embedding networks of Wang et al. (Learning Two-Branch Neural Networks for Image-Text Matching) and VSE++:
either InfoNCE or a ranking loss whose negatives are stated; nested sizes if asked for. Importing this costs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datakit.models.projection import Features, Projection
from datakit.rng import rng_for
from datakit.train.mrl import Labels, check_vectors, group_numbers, torch_loop
from datakit.train.pair_metrics import CURVE_KS, chance_recall, cross_ranks, once_a_group, rank_row
from datakit.train.retrieval_options import DualOptions

__all__ = ["Captioned", "DualOptions", "DualResult", "train_dual_encoder"]

LEAST_GROUPS = 4  # with captions: two to learn from and two to measure
DIRECTIONS = ("image_to_text", "text_to_image")
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Captioned:
    """Images and their captions, as vectors.

    images_ND (N, D), texts_MT (M, T): of any two encoders. image_of_M: the image that a caption is of; one may have
    several, or none. group_N: images of one thing: they and all their captions are never negatives of each other,
    and all of them are right answers to each other. Raises ValueError where these do not fit together.
    """

    images_ND: Features
    texts_MT: Features
    image_of_M: Ints
    group_N: Ints

    def __post_init__(self) -> None:
        check_vectors(self.images_ND, len(self.group_N), "groups")
        check_vectors(self.texts_MT, len(self.image_of_M), "captions' images")
        if self.image_of_M.min() < 0 or self.image_of_M.max() >= len(self.images_ND):
            raise ValueError(f"captions name images that are not among the {len(self.images_ND)}")

    @property
    def group_of_M(self) -> Ints:
        return self.group_N[self.image_of_M]

    def part(self, image_N: NDArray[np.bool_]) -> Captioned:
        """The chosen images and their captions."""
        caption_M = image_N[self.image_of_M]
        at_N = np.cumsum(image_N) - 1
        return Captioned(
            images_ND=self.images_ND[image_N],
            texts_MT=self.texts_MT[caption_M],
            image_of_M=at_N[self.image_of_M[caption_M]],
            group_N=self.group_N[image_N],
        )


@dataclass(frozen=True, kw_only=True)
class DualResult:
    """Two trained towers and how they did on groups that they never saw.

    image, text  projections to the joint space, for numpy
    history      epoch (from 1), loss, scale (of infonce), and of each direction image_to_text, text_to_image
                 DIRECTION_r1, _r5, _r10, _median_rank on the held-out part; empty of those where nothing is held out
    by_dim       dim and the same of each nested size, after the last epoch
    ranks        by direction: rank of the first right answer to each held-out query, from 1
    groups       by direction: the group of each of those queries, as a number
    chance       by direction: r1, r5, r10 and others up to r100, R@k of a random order
    settings     options, device, sizes, torch's version
    """

    image: Projection
    text: Projection
    history: list[dict[str, float]]
    by_dim: list[dict[str, float]]
    ranks: dict[str, list[int]]
    groups: dict[str, list[int]]
    chance: dict[str, dict[str, float]]
    settings: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """All but the weights."""
        names = ("history", "by_dim", "ranks", "groups", "chance", "settings")
        return {name: getattr(self, name) for name in names}


def train_dual_encoder(
    images_ND: Features,
    texts_MT: Features,
    image_of_M: NDArray[Any],
    *,
    seed: int,
    groups_N: Labels | None = None,
    held_N: NDArray[np.bool_] | None = None,
    options: DualOptions | None = None,
) -> DualResult:
    """Train on captions, each once an epoch with its image, and measure on held-out groups after every epoch.

    groups_N: see `Captioned`; each image its own if None. held_N: images never trained on, whole groups; drawn by
    the seed from those with captions, as many as options.held_out says, if None. The weights to use are the last
    epoch's: choosing one by the held-out part would flatter it. Equal arguments give equal bits on one machine's CPU.
    Raises ValueError for data that do not fit, a held-out part that cuts a group or leaves nothing to train on,
    MissingExtra without torch, ConfigError for a device that is not there.
    """
    options = options or DualOptions()
    group_N = group_numbers(groups_N, len(images_ND))
    whole = Captioned(
        images_ND=images_ND, texts_MT=texts_MT, image_of_M=np.asarray(image_of_M, np.int64), group_N=group_N
    )
    if held_N is None:
        held_N = np.isin(group_N, hold_out(whole.group_of_M, options.held_out, seed=seed))
    if cut := np.intersect1d(group_N[held_N], group_N[~held_N]).size:
        raise ValueError(f"the held-out part cuts {cut} groups: both sides would show the same things")
    training = whole.part(~held_N)
    held = Held.of(whole.part(held_N)) if held_N.any() else None
    if options.shuffled:
        training = deal_anew(training, seed=seed)
    loop = torch_loop("dual_fit", "a dual encoder")
    fitted = loop.fit(training, held, options, seed=seed)
    return DualResult(
        image=fitted.image,
        text=fitted.text,
        history=fitted.history,
        by_dim=[{"dim": m, **held.measure(fitted.image, fitted.text, m)} for m in options.dims]
        if held
        else [],
        ranks={n: r.tolist() for n, r in held.ranks(fitted.image, fitted.text).items()} if held else {},
        groups={n: asking.tolist() for n, (asking, _) in held.sides().items()} if held else {},
        chance=held.chance() if held else {},
        settings={
            "options": options.as_json(),
            "device": fitted.device,
            "torch": torch_loop("runtime", "a dual encoder").version(),
            "train": {"images": len(training.images_ND), "captions": len(training.texts_MT)},
            "held_out": held.sizes() if held else {},
        },
    )


@dataclass(frozen=True, kw_only=True)
class Held:
    """The held-out part: a caption that a group has twice counts once."""

    data: Captioned

    @classmethod
    def of(cls, data: Captioned) -> Held:
        rows = once_a_group(data.texts_MT, data.group_of_M)
        return cls(
            data=Captioned(
                images_ND=data.images_ND,
                texts_MT=data.texts_MT[rows],
                image_of_M=data.image_of_M[rows],
                group_N=data.group_N,
            )
        )

    def ranks(self, image: Projection, text: Projection, dim: int | None = None) -> dict[str, Ints]:
        """By direction; images whose group has no caption ask nothing."""
        data, asked_N = self.data, np.isin(self.data.group_N, self.data.group_of_M)
        images_ND, texts_MD = image.transform(data.images_ND, dim), text.transform(data.texts_MT, dim)
        return {
            "image_to_text": cross_ranks(
                images_ND[asked_N], texts_MD, data.group_N[asked_N], data.group_of_M
            ),
            "text_to_image": cross_ranks(texts_MD, images_ND, data.group_of_M, data.group_N),
        }

    def measure(self, image: Projection, text: Projection, dim: int | None = None) -> dict[str, float]:
        rows = [rank_row(ranks, name) for name, ranks in self.ranks(image, text, dim).items()]
        return {name: value for row in rows for name, value in row.items()}

    def sides(self) -> dict[str, tuple[Ints, Ints]]:
        """By direction: the groups of those who ask, and of those who are asked."""
        data, asked_N = self.data, np.isin(self.data.group_N, self.data.group_of_M)
        return {
            "image_to_text": (data.group_N[asked_N], data.group_of_M),
            "text_to_image": (data.group_of_M, data.group_N),
        }

    def chance(self) -> dict[str, dict[str, float]]:
        return {
            name: {
                f"r{k}": chance_recall((asking[:, None] == asked[None, :]).sum(axis=1), len(asked), k)
                for k in CURVE_KS
            }
            for name, (asking, asked) in self.sides().items()
        }

    def sizes(self) -> dict[str, int]:
        return {"images": len(self.data.images_ND), "captions": len(self.data.texts_MT)}


def hold_out(group_M: Ints, share: float, *, seed: int) -> Ints:
    """`share` of the groups that captions are of, at least two where any are asked for, drawn by the seed."""
    groups = np.unique(group_M)
    count = max(2, round(share * len(groups))) if share > 0 else 0
    if count and count > len(groups) - 2:
        raise ValueError(f"{len(groups)} groups are too few to hold {count} out and learn from the rest")
    return rng_for(seed, "dual encoder", "held out").permutation(groups)[:count]


def deal_anew(data: Captioned, *, seed: int) -> Captioned:
    """The control: every group gets the captions of another group, whole, none its own."""
    groups = rng_for(seed, "dual encoder", "shuffled").permutation(np.unique(data.group_of_M))
    giver = dict(zip(groups.tolist(), np.roll(groups, 1).tolist(), strict=True))
    rows = {group: np.flatnonzero(data.group_of_M == group) for group in groups.tolist()}
    text_M = np.empty(len(data.texts_MT), dtype=np.int64)
    for group, own in rows.items():
        # a giver with fewer captions gives them round and round
        text_M[own] = np.resize(rows[giver[group]], len(own))
    return Captioned(
        images_ND=data.images_ND,
        texts_MT=data.texts_MT[text_M],
        image_of_M=data.image_of_M,
        group_N=data.group_N,
    )
