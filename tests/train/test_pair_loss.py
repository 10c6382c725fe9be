"""The losses of pairs, against loops over one anchor at a time; kin are never negatives."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from datakit.errors import ConfigError
from datakit.train.nested_heads import NestedHeads, nested_cross_entropy
from datakit.train.pair_loss import PairLoss, cosines, info_nce, nested, ranking

MARGIN = 0.2
APART = torch.arange(6)
LOSSES: dict[str, PairLoss] = {
    "infonce": lambda a, b, group: info_nce(a, b, group, scale=10.0),
    **{
        name: lambda a, b, group, name=name: ranking(a, b, group, margin=MARGIN, negatives=name)  # type: ignore[misc]
        for name in ("batch_all", "hardest", "semi_hard")
    },
}


def pairs(n: int = 6, dim: int = 5) -> tuple[Tensor, Tensor]:
    drawn = torch.randn(2, n, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return drawn[0] + drawn[1], drawn[1]


def by_hand(pick: Callable[[float, list[float]], float], group: list[int]) -> float:
    """Mean over all anchors of both directions, of `pick(similarity of the pair, those of its negatives)`."""
    left, right = pairs()
    found = []
    for cosine in (cosines(left, right), cosines(right, left)):
        for i in range(len(cosine)):
            others = [float(cosine[i, j]) for j in range(len(cosine)) if group[j] != group[i]]
            found.append(pick(float(cosine[i, i]), others))
    return sum(found) / len(found)


def hinge(pair: float, negative: float) -> float:
    return max(0.0, MARGIN - pair + negative)


PICKS: dict[str, Callable[[float, list[float]], float]] = {
    "batch_all": lambda pair, others: sum(hinge(pair, other) for other in others),
    "hardest": lambda pair, others: max((hinge(pair, other) for other in others), default=0.0),
    "semi_hard": lambda pair, others: max(
        (hinge(pair, other) for other in others if other < pair), default=0.0
    ),
}


@pytest.mark.parametrize("group", [[0, 1, 2, 3, 4, 5], [0, 0, 1, 2, 1, 1], [7] * 6])
@pytest.mark.parametrize("negatives", PICKS)
def test_a_ranking_loss_is_its_definition(negatives: str, group: list[int]) -> None:
    left, right = pairs()
    loss = ranking(left, right, torch.tensor(group), margin=MARGIN, negatives=negatives)
    assert float(loss) == pytest.approx(by_hand(PICKS[negatives], group), abs=1e-12)


def test_the_three_samplings_differ() -> None:
    values = {name: float(LOSSES[name](*pairs(), APART)) for name in PICKS}
    assert values["batch_all"] > values["hardest"] > values["semi_hard"] >= 0
    with pytest.raises(ConfigError, match="negatives=hard: must be one of batch_all, hardest, semi_hard"):
        ranking(*pairs(), APART, margin=MARGIN, negatives="hard")


def test_infonce_is_cross_entropy_both_ways() -> None:
    left, right = pairs()
    logit = cosines(left, right) * 10
    ways = [-torch.log_softmax(way, dim=1).diagonal().mean() for way in (logit, logit.T)]
    assert float(LOSSES["infonce"](left, right, APART)) == pytest.approx(float(sum(ways)) / 2)


@pytest.mark.parametrize("name", LOSSES)
def test_two_pairs_of_one_group_neither_pull_nor_push(name: str) -> None:
    """One image with two captions: each is all but as near as the other, and that must cost nothing."""
    image, captions = torch.tensor([[1.0, 0.0]]).repeat(2, 1), torch.tensor([[1.0, 0.1], [1.0, 0.2]])
    assert float(LOSSES[name](image, captions, torch.tensor([3, 3]))) == 0
    assert float(LOSSES[name](image, captions, torch.tensor([3, 4]))) > 0, "between strangers it costs"


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("group", [[0, 1, 2, 3, 4, 5], [0] * 6], ids=["strangers", "kin"])
def test_gradients_are_finite(name: str, group: list[int]) -> None:
    left, right = (side.requires_grad_() for side in pairs())
    LOSSES[name](left, right, torch.tensor(group)).backward()  # type: ignore[no-untyped-call]
    for side in (left, right):
        assert side.grad is not None and bool(torch.isfinite(side.grad).all())


@pytest.mark.parametrize("name", LOSSES)
def test_lengths_do_not_matter(name: str) -> None:
    left, right = pairs()
    once, longer = LOSSES[name](left, right, APART), LOSSES[name](left * 9, right * 0.1, APART)
    assert float(once) == pytest.approx(float(longer))


def test_the_nested_loss_is_the_sum_over_renormalised_prefixes() -> None:
    left, right = pairs()
    loss_of = LOSSES["infonce"]
    parts = [loss_of(left[:, :m], right[:, :m], APART) for m in (2, 3, 5)]
    assert float(nested(loss_of, (2, 3, 5))(left, right, APART)) == pytest.approx(float(sum(parts)))
    weighed = nested(loss_of, (2, 3, 5), (1.0, 0.0, 0.5))(left, right, APART)
    assert float(weighed) == pytest.approx(float(parts[0] + 0.5 * parts[2]))
    unit = torch.nn.functional.normalize(left, dim=1)
    assert float(nested(loss_of, (2, 5))(unit, right, APART)) == pytest.approx(float(parts[0] + parts[2]))


@pytest.mark.parametrize("shared", [False, True])
def test_heads_see_their_prefix_alone(shared: bool) -> None:
    heads = NestedHeads((2, 4), 3, shared=shared)
    z = torch.randn(5, 4, requires_grad=True)
    logits = heads(z)
    assert [tuple(logit.shape) for logit in logits] == [(5, 3), (5, 3)]
    logits[0].sum().backward()
    assert z.grad is not None and bool((z.grad[:, 2:] == 0).all()) and bool((z.grad[:, :2] != 0).any())
    assert sum(p.numel() for p in heads.parameters()) == (15 if shared else 15 + 9)


def test_the_loss_of_the_heads_is_the_weighed_sum() -> None:
    logits = [torch.randn(5, 3), torch.randn(5, 3)]
    label = torch.tensor([0, 1, 2, 0, 1])
    ones, parts = nested_cross_entropy(logits, label)
    assert float(ones) == pytest.approx(float(parts.sum()))
    weighed, _ = nested_cross_entropy(logits, label, (0.0, 2.0))
    assert float(weighed) == pytest.approx(2 * float(parts[1]))
