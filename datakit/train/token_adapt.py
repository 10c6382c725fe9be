"""TokenAdapt (SeiT++): token maps made image-like by f, transformed there, and brought back to codes by f⁻¹.

Token grids do not flip, rotate or shear as images do: a token's code holds its 8 x 8 px as they lie. f takes embedded
tokens (d, h, w) through one transformer layer with fixed positions and a transposed convolution to (d, 2h, 2w); an
affine A acts on that map; f⁻¹, a convolution of stride 2, one layer and a linear head, tells a code for each position.
SeiT++ publishes neither training code nor the loss. Here both are trained together on

    L = CE(f⁻¹(A(f(z(x)))), tokens of A(x))        A the identity in a share of the batches

so that f⁻¹ f is the identity on codes and A commutes with the tokenizer as well as it can. Frozen afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from datakit.errors import ConfigError
from datakit.train.runtime import pick_device, reproducible, seeded, torch_seed
from datakit.train.token_vit import layers, sincos

ROTATE, TRANSLATE, SHEAR = (
    30.0,
    0.2,
    15.0,
)  # degrees, shares of the side, degrees (SeiT++), each in half of the images
EACH = 0.5
MOST = 4096  # of the layers' width
ABSENT = -1  # a code that was dropped as unused, and that a moved image has

Affine = NDArray[
    np.float64
]  # (2, 3): from [-1, 1]² of what comes out to [-1, 1]² of what goes in (affine_grid)


def key(default: Any, help: str, **limits: float) -> Any:
    return field(default=default, metadata={"help": help, **limits})


@dataclass(frozen=True, kw_only=True)
class AdaptOptions:
    """SeiT++'s widths are 384 with 6 heads; the defaults train in two minutes on a CPU."""

    width: int = key(96, "of the transformer layers", least=8)
    heads: int = key(4, "of them", least=1)
    steps: int = key(300, "of training", least=1)
    batch_size: int = key(8, "grids a step", least=1)
    lr: float = key(2e-3, "of AdamW, falling to 0 on a cosine", least=0)
    identity: float = key(0.5, "share of the steps in which A is the identity", least=0, most=1)
    device: str = key("auto", "auto, cpu, cuda")

    def __post_init__(self) -> None:
        if (
            not (isinstance(self.width, int) and isinstance(self.heads, int))
            or not 1 <= self.heads <= self.width
        ):
            raise ConfigError(f"TokenAdapt: width={self.width} heads={self.heads}: whole numbers from 1 on")
        if self.width > MOST or self.width % 4 or self.width % self.heads:
            raise ConfigError(
                f"TokenAdapt: width={self.width} heads={self.heads}: a multiple of 4 and of heads, up to {MOST}"
            )


class TokenAdapt(nn.Module):
    """f and f⁻¹ over a codebook (K, d) and grids of `side` x `side`. `augmented` is what training uses."""

    table: Tensor
    positions: Tensor

    def __init__(
        self, codebook_KD: NDArray[np.float32], side: int, options: AdaptOptions | None = None
    ) -> None:
        super().__init__()
        options = options or AdaptOptions()
        table = torch.from_numpy(np.array(codebook_KD, np.float32))
        self.side, width = side, options.width
        self.register_buffer("table", (table - table.mean()) / table.std().clamp_min(1e-6))
        self.register_buffer("positions", sincos(side, width), persistent=False)
        dim, codes = table.shape[1], len(table)
        self.into = nn.Linear(dim, width)
        self.first = layers(1, width, options.heads)
        self.grow = nn.ConvTranspose2d(width, dim, 2, 2)
        self.shrink = nn.Conv2d(dim, width, 2, 2)
        self.second = layers(1, width, options.heads)
        self.tell = nn.Linear(width, codes)

    def f(self, ids_NHW: Tensor) -> Tensor:
        """(N, d, 2h, 2w), image-like."""
        count = len(ids_NHW)
        shown = self.into(functional.embedding(ids_NHW.flatten(1), self.table)) + self.positions
        map_NDHW = self.first(shown).tanh().transpose(1, 2).reshape(count, -1, self.side, self.side)
        grown: Tensor = self.grow(map_NDHW)
        return grown

    def f_inv(self, map_NDHW: Tensor) -> Tensor:
        """(N, K, h, w): logits of the code at each position."""
        count, _, height, width = map_NDHW.shape
        small = self.shrink(map_NDHW).flatten(2).transpose(1, 2)
        positions = (
            self.positions if height == 2 * self.side else sincos(height // 2, small.shape[2]).to(small)
        )
        logits = self.tell(self.second(small + positions))
        return logits.transpose(1, 2).reshape(count, -1, height // 2, width // 2)  # type: ignore[no-any-return]

    def round_trip(self, ids_NHW: Tensor) -> Tensor:
        """f⁻¹(f(z)) as codes: what is changed by doing nothing."""
        with torch.no_grad():
            return self.f_inv(self.f(ids_NHW)).argmax(dim=1)

    def augmented(self, ids_NHW: Tensor, side: int, generator: torch.Generator) -> Tensor:
        """int64 (N, side, side): a flip in half, an affine, a crop, each image its own, through f and back to codes."""
        with torch.no_grad():
            theta = torch.from_numpy(np.stack([drawn_affine(generator) for _ in range(len(ids_NHW))])).float()
            map_NDHW = self.f(ids_NHW)
            shape = [len(map_NDHW), map_NDHW.shape[1], 2 * side, 2 * side]
            return self.f_inv(moved(map_NDHW, theta, shape)).argmax(dim=1)


def moved(map_NDHW: Tensor, theta_N23: Tensor, shape: Sequence[int]) -> Tensor:
    """The map sampled bilinearly by one affine each, as wide as `shape` says."""
    grid = functional.affine_grid(theta_N23.to(map_NDHW), list(shape), align_corners=False)
    found: Tensor = functional.grid_sample(map_NDHW, grid, padding_mode="border", align_corners=False)
    return found


IDENTITY: Affine = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


def drawn_affine(generator: torch.Generator, *, scale: tuple[float, float] = (0.35, 1.0)) -> Affine:
    """A crop after shear, translation, rotation and a flip, each but the crop in half of the draws."""
    use = (torch.rand(4, generator=generator) < EACH).numpy()
    drawn = (2 * torch.rand(4, generator=generator) - 1).double().numpy()
    angle, shear = np.deg2rad(ROTATE * drawn[0] * use[0]), np.deg2rad(SHEAR * drawn[1] * use[1])
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    slant = np.array([[1, np.tan(shear), 0], [0, 1, 0], [0, 0, 1]])
    shift = np.eye(3)
    shift[:2, 2] = 2 * TRANSLATE * drawn[2:] * use[2]
    flip = np.diag([-1.0 if use[3] else 1.0, 1.0, 1.0])
    side = float(np.sqrt(scale[0] + (scale[1] - scale[0]) * float(torch.rand((), generator=generator))))
    place = (1 - side) * (2 * torch.rand(2, generator=generator).double().numpy() - 1)
    crop = np.array([[side, 0, place[0]], [0, side, place[1]], [0, 0, 1]])
    return np.asarray((flip @ shift @ turn @ slant @ crop)[:2])


def warped(images_NHWC: NDArray[np.uint8], affine: Affine) -> NDArray[np.uint8]:
    """uint8 images after A: what the tokenizer is shown for the right answers."""
    pixels = torch.from_numpy(np.ascontiguousarray(images_NHWC.transpose(0, 3, 1, 2))).float()
    theta = torch.from_numpy(affine).float().expand(len(pixels), -1, -1)
    found = moved(pixels, theta, pixels.shape).round().clamp(0, 255).byte()
    return np.ascontiguousarray(found.permute(0, 2, 3, 1).numpy())


def fit_token_adapt(
    ids_NHW: NDArray[np.uint16],
    codebook_KD: NDArray[np.float32],
    *,
    tokens_of: Callable[[NDArray[np.int64], Affine], NDArray[Any]] | None = None,
    options: AdaptOptions | None = None,
    seed: int,
) -> TokenAdapt:
    """f and f⁻¹ trained on grids (N, h, h) and their codebook.

    tokens_of(numbers, A): the packed ids of the images with these numbers after A, as the tokenizer gives them of
    `warped` pixels, -1 where no packed id stands for the tokenizer's code; without it, only the identity is trained,
    and A is trusted to the map. Raises ConfigError.
    """
    options = options or AdaptOptions()
    if ids_NHW.ndim != 3 or ids_NHW.shape[1] != ids_NHW.shape[2] or not len(ids_NHW):
        raise ConfigError(f"TokenAdapt takes square grids (N, h, h), not {ids_NHW.shape}")
    device = pick_device(options.device)
    ids = torch.from_numpy(ids_NHW.astype(np.int64))
    generator = torch.Generator().manual_seed(torch_seed(seed, "token adapt", "steps"))
    with reproducible(), seeded(seed, "token adapt", "weights"):
        model = TokenAdapt(codebook_KD, ids_NHW.shape[1], options).to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps)
        for _ in range(options.steps):
            rows = torch.randint(len(ids), (min(options.batch_size, len(ids)),), generator=generator)
            same = tokens_of is None or float(torch.rand((), generator=generator)) < options.identity
            affine = IDENTITY if same else drawn_affine(generator)
            wanted = ids[rows] if same or tokens_of is None else _answers(tokens_of, rows, affine)
            map_NDHW = model.f(ids[rows].to(device))
            if not same:
                theta = torch.from_numpy(affine).float().expand(len(rows), -1, -1)
                map_NDHW = moved(map_NDHW, theta, map_NDHW.shape)
            # Summed, and shared out by hand: the mean over no answer at all is not a number.
            missed = functional.cross_entropy(
                model.f_inv(map_NDHW), wanted.to(device), ignore_index=ABSENT, reduction="sum"
            )
            loss = missed / max(1, int((wanted != ABSENT).sum()))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return model.eval().requires_grad_(False)


def _answers(
    tokens_of: Callable[[NDArray[np.int64], Affine], NDArray[Any]], rows: Tensor, affine: Affine
) -> Tensor:
    return torch.from_numpy(tokens_of(rows.numpy(), affine).astype(np.int64))


def untouched(model: TokenAdapt, ids_NHW: NDArray[np.uint16], *, batch: int = 16) -> float:
    """Share of the tokens that f⁻¹ f gives back as they were."""
    ids = torch.from_numpy(ids_NHW.astype(np.int64))
    same = [
        (model.round_trip(ids[at : at + batch]) == ids[at : at + batch]).float().mean(dim=(1, 2))
        for at in range(0, len(ids), batch)
    ]
    return float(torch.cat(same).mean())
