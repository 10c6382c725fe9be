"""What the trainers of embeddings may be told: frozen dataclasses, checked when they are made, without torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from datakit.errors import ConfigError, did_you_mean
from datakit.models.projection import nested_sizes

LOSSES = ("infonce", "ranking")
NEGATIVES = ("batch_all", "hardest", "semi_hard")


def key(default: Any, help: str, **limits: float) -> Any:
    return field(default=default, metadata={"help": help, **limits})


@dataclass(frozen=True, kw_only=True)
class MrlOptions:
    """Of a nested projection head; the defaults take half a minute on one CPU thread for 4,000 vectors of 1,280."""

    dims: tuple[int, ...] = key(nested_sizes(256), "nested sizes, ascending; the last is the whole", least=1)
    weights: tuple[float, ...] = key((), "c_m of each size's loss; empty: 1 for all", least=0)
    shared: bool = key(False, "MRL-E: one matrix for all sizes' heads instead of one each")
    hidden: int = key(0, "units between features and embedding; 0: a linear map", least=0)
    dropout: float = key(0.0, "share of inputs and hidden units left out in a step", least=0, most=0.9)
    temperature: float = key(0.07, "of the contrastive loss, where there are no labels", least=0.005)
    epochs: int = key(30, "passes over the rows", least=1)
    batch_size: int = key(128, "rows a step", least=2)
    lr: float = key(1e-3, "of AdamW, falling to 0 on a cosine", least=0)
    weight_decay: float = key(1e-2, "of AdamW", least=0)
    device: str = key("auto", "auto, cpu, cuda")

    def __post_init__(self) -> None:
        check_dims(self.dims, self.weights)
        _check_numbers(self)

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"dims": list(self.dims), "weights": list(self.weights)}


@dataclass(frozen=True, kw_only=True)
class DualOptions:
    """Of a dual encoder: two towers over fixed vectors, to one joint space."""

    dims: tuple[int, ...] = key(
        (256,), "sizes of the joint space; several: nested, trained together", least=1
    )
    weights: tuple[float, ...] = key((), "c_m of each size's loss; empty: 1 for all", least=0)
    hidden: int = key(512, "units of each tower's hidden layer; 0: linear maps", least=0)
    dropout: float = key(0.2, "share of inputs and hidden units left out in a step", least=0, most=0.9)
    loss: Literal["infonce", "ranking"] = key("infonce", "contrastive, or a hinge on a margin")
    temperature: float = key(0.07, "for loss=infonce: where it starts; it is learned", least=0.01)
    margin: float = key(
        0.2, "for loss=ranking: cosine by which a pair must beat its negatives", least=0, most=2
    )
    negatives: Literal["batch_all", "hardest", "semi_hard"] = key(
        "hardest", "for loss=ranking: which of the batch count, see train/pair_loss.py"
    )
    epochs: int = key(30, "passes over the captions", least=1)
    batch_size: int = key(128, "captions a step, each with its image", least=2)
    lr: float = key(1e-3, "of AdamW, falling to 0 on a cosine", least=0)
    weight_decay: float = key(1e-2, "of AdamW", least=0)
    held_out: float = key(0.2, "share of the groups kept for measuring, never trained on", least=0, most=0.9)
    shuffled: bool = key(False, "the control: captions dealt out anew among the training groups")
    device: str = key("auto", "auto, cpu, cuda")

    def __post_init__(self) -> None:
        check_dims(self.dims, self.weights)
        _check_numbers(self)
        for name, known in (("loss", LOSSES), ("negatives", NEGATIVES)):
            value = getattr(self, name)
            if value not in known:
                hint = did_you_mean(value, known) or f"; choose from {', '.join(known)}"
                raise ConfigError(f"unknown {name} {value}{hint}")

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"dims": list(self.dims), "weights": list(self.weights)}


def check_dims(dims: tuple[int, ...], weights: tuple[float, ...]) -> None:
    if not dims or list(dims) != sorted(set(dims)) or dims[0] < 1:
        raise ConfigError(f"dims={dims}: nested sizes must ascend, each once, from 1 on")
    if weights and len(weights) != len(dims):
        raise ConfigError(f"weights={weights}: one for each of the {len(dims)} nested sizes, or none")


def _check_numbers(options: MrlOptions | DualOptions) -> None:
    """The limits that the fields' metadata state hold for a caller in Python too."""
    for name, item in options.__dataclass_fields__.items():
        value = getattr(options, name)
        numbers = value if isinstance(value, tuple) else (value,)
        least, most = item.metadata.get("least"), item.metadata.get("most")
        for number in numbers:
            if (least is not None and not number >= least) or (most is not None and not number <= most):
                limits = f"at least {least:g}" if most is None else f"{least:g} to {most:g}"
                raise ConfigError(f"{name}={number} must be {limits}")
