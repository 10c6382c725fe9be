"""MTM, masked token modelling: what is hidden of a grid, told from what is left (SeiT++, after MAGE, Li et al. 2023).

Patches of tokens are masked in a ratio r ~ N(0.45, 0.25) cut to [0.4, 1]; of all patches 40 % (masked ones) are not
shown to the encoder at all, and the rest of the masked ones are shown as one learned vector. A decoder gets the
encoder's output with another learned vector at the places left out, and tells every token of the masked patches; the
loss is their cross-entropy alone. Embeddings are learned, beginning from the codebook. Not run on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from datakit.errors import ConfigError
from datakit.train.runtime import pick_device, reproducible, seeded, torch_seed
from datakit.train.token_vit import TokenViT, layers, sincos

DROPPED = 0.4  # share of all patches that the encoder does not see
MEAN, DEVIATION, LEAST, MOST = 0.45, 0.25, 0.4, 1.0  # of the masking ratio
BETAS = (0.9, 0.95)
HELD = 0.1  # share of the grids that the loss is measured on and that are not trained on
TOLD = 4096  # masked tokens a step that the loss is taken over
ROUNDS = 4  # maskings of each held-out grid


def key(default: Any, help: str, **limits: float) -> Any:
    return field(default=default, metadata={"help": help, **limits})


@dataclass(frozen=True, kw_only=True)
class MtmOptions:
    """SeiT++ pre-trains a ViT-B for 400 epochs with patches of 2 x 2 tokens; the defaults take a minute on a CPU."""

    steps: int = key(300, "of training", least=1)
    batch_size: int = key(32, "grids a step", least=1)
    lr: float = key(
        4e-3, "of AdamW (0.9, 0.95), up over a tenth of the steps, falling to 0 on a cosine", least=0
    )
    weight_decay: float = key(0.05, "of AdamW", least=0)
    side: int = key(28, "tokens of a crop's side", least=2)
    patch: int = key(4, "tokens of a patch's side", least=1)
    width: int = key(96, "of the encoder", least=4)
    depth: int = key(3, "layers of the encoder", least=1)
    heads: int = key(4, "of each layer", least=1)
    decoder_depth: int = key(1, "layers of the decoder", least=1)
    dim: int = key(32, "of the learned embeddings, without a codebook", least=1)
    device: str = key("auto", "auto, cpu, cuda")


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """table float32 (K, d): the learned embeddings; state: of the encoder, a TokenViT's but its head.

    masked_ce: nats a masked token, on grids held out; unigram: the entropy of how often codes come, in nats, which a
    model that saw nothing of the picture has; history: training loss by step.
    """

    table: NDArray[np.float32]
    state: dict[str, Tensor]
    options: MtmOptions
    masked_ce: float
    unigram: float
    history: list[float]


class MaskedTokens(nn.Module):
    """Encoder and decoder; `forward` gives the loss of a batch of crops of ids."""

    positions: Tensor

    def __init__(self, codes: int, dim: int, options: MtmOptions) -> None:
        super().__init__()
        self.options, self.codes = options, codes
        self.table = nn.Embedding(codes, dim)
        self.encoder = TokenViT(
            dim, 1, side=options.side, patch=options.patch, width=options.width, depth=options.depth,
            heads=options.heads,
        )  # fmt: skip
        self.hidden = nn.Parameter(torch.randn(options.width) * 0.02)
        self.absent = nn.Parameter(torch.randn(options.width) * 0.02)
        self.decoder = layers(options.decoder_depth, options.width, options.heads)
        self.norm = nn.LayerNorm(options.width)
        self.tell = nn.Linear(options.width, options.patch**2 * dim)
        self.bias = nn.Parameter(torch.zeros(codes))
        self.register_buffer(
            "positions", sincos(options.side // options.patch, options.width), persistent=False
        )

    def forward(self, ids_NHW: Tensor, generator: torch.Generator, *, most: int | None = None) -> Tensor:
        """The loss over all masked tokens; over `most` of them, drawn, where there are more: half the time of a step
        goes into their logits.
        """
        count, patches = len(ids_NHW), len(self.positions)
        masked, left_out = drawn_masks(count, patches, generator)
        shown = self.encoder.patches(self.table(ids_NHW).permute(0, 3, 1, 2))
        shown = torch.where(masked[:, :, None], self.hidden + self.positions, shown)
        # As many are left out of every grid, so that the rest is a tensor.
        order = left_out.int().argsort(dim=1, stable=True)
        kept = patches - int(left_out[0].sum())
        seen = order[:, :kept, None].expand(-1, -1, shown.shape[2])
        encoded = self.encoder.norm(self.encoder.layers(shown.gather(1, seen)))
        whole = self.absent.expand(count, patches, -1).scatter(1, seen, encoded) + self.positions
        told = self.tell(self.norm(self.decoder(whole))[masked]).reshape(-1, self.table.embedding_dim)
        wanted = self._patched(ids_NHW)[masked].reshape(-1)
        if most is not None and len(wanted) > most:
            chosen = torch.randperm(len(wanted), generator=generator)[:most].to(wanted.device)
            told, wanted = told[chosen], wanted[chosen]
        # One vector a token, compared with all embeddings: a head of codes for every place would be far larger.
        return functional.cross_entropy(torch.addmm(self.bias, told, self.table.weight.T), wanted)

    def _patched(self, ids_NHW: Tensor) -> Tensor:
        """(N, L, patch²) ids."""
        size, each = self.options.patch, self.options.side // self.options.patch
        found = ids_NHW.reshape(-1, each, size, each, size).permute(0, 1, 3, 2, 4)
        return found.reshape(len(ids_NHW), each * each, size * size)


def drawn_masks(count: int, patches: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(masked, left out), bool (N, patches): one ratio for the batch, and in every grid 40 % of all are left out, of
    the masked ones.
    """
    ratio = MEAN + DEVIATION * float(torch.randn((), generator=generator))
    while not LEAST <= ratio <= MOST:
        ratio = MEAN + DEVIATION * float(torch.randn((), generator=generator))
    number, dropped = int(np.ceil(ratio * patches)), int(DROPPED * patches)
    place = torch.rand((count, patches), generator=generator).argsort(dim=1).argsort(dim=1)
    return place < max(1, number), place < min(dropped, max(1, number))


def pretrain(
    ids_NHW: NDArray[np.uint16],
    codes: int,
    *,
    options: MtmOptions | None = None,
    seed: int,
    codebook_KD: NDArray[np.float32] | None = None,
) -> Pretrained:
    """Train on uint16 (N, h, w) below `codes`; a tenth of the grids, at least one, is held out for measuring.

    Equal arguments give equal weights on one machine's CPU: one thread. Raises ConfigError for grids that are too
    small, or fewer than two.
    """
    options = options or MtmOptions()
    if len(ids_NHW) < 2 or min(ids_NHW.shape[1:]) < options.side or options.side % options.patch:
        raise ConfigError(
            f"{len(ids_NHW)} grids of {ids_NHW.shape[1]} x {ids_NHW.shape[2]} tokens: masked token modelling wants "
            f"two or more, of {options.side} x {options.side}, in patches of {options.patch}"
        )
    device = pick_device(options.device)
    ids = torch.from_numpy(ids_NHW.astype(np.int64))
    held = max(1, int(HELD * len(ids)))
    order = torch.randperm(len(ids), generator=_generator(seed, "held"))
    with reproducible(), seeded(seed, "mtm", "weights"):
        dim = options.dim if codebook_KD is None else codebook_KD.shape[1]
        model = MaskedTokens(codes, dim, options).to(device)
        # It begins where knowing nothing but how often codes come would leave it.
        counts = np.bincount(ids_NHW.reshape(-1), minlength=codes)
        model.bias.data.copy_(torch.from_numpy(np.log((counts + 0.5) / (counts + 0.5).sum())))
        if codebook_KD is not None:
            model.table.weight.data.copy_(_unit_scale(codebook_KD))
        history = _fit(model, ids[order[held:]], options, seed)
        with torch.no_grad():
            measured = _measured(model.eval(), ids[order[:held]], options, seed)
    shares = counts[counts > 0] / counts.sum()
    state = {
        name: value.cpu()
        for name, value in model.encoder.state_dict().items()
        if not name.startswith("head.")
    }
    return Pretrained(
        table=model.table.weight.detach().cpu().numpy().copy(), state=state, options=options, masked_ce=measured,
        unigram=float(-(shares * np.log(shares)).sum()), history=history,
    )  # fmt: skip


def _fit(model: MaskedTokens, ids: Tensor, options: MtmOptions, seed: int) -> list[float]:
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=options.lr, betas=BETAS, weight_decay=options.weight_decay
    )
    warm = max(1, options.steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warm, 0.5 * (1 + np.cos(np.pi * step / options.steps))),
    )
    generator, history = _generator(seed, "steps"), []
    model.train()
    for _ in range(options.steps):
        chosen = torch.randint(len(ids), (options.batch_size,), generator=generator)
        crop = _cropped(ids[chosen], options.side, generator).to(model.bias.device)
        loss = model(crop, generator, most=TOLD)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        history.append(float(loss.detach()))
    return history


def _measured(model: MaskedTokens, ids: Tensor, options: MtmOptions, seed: int) -> float:
    generator, losses = _generator(seed, "measured"), []
    for _ in range(ROUNDS):
        for begin in range(0, len(ids), options.batch_size):
            crop = _cropped(ids[begin : begin + options.batch_size], options.side, generator)
            losses.append(float(model(crop.to(model.bias.device), generator)))
    return float(np.mean(losses))


def _cropped(ids_NHW: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """A window of each grid, of whole tokens: ids cannot be scaled."""
    height, width = ids_NHW.shape[1:]
    top = int(torch.randint(height - side + 1, (), generator=generator))
    left = int(torch.randint(width - side + 1, (), generator=generator))
    return ids_NHW[:, top : top + side, left : left + side]


def _unit_scale(codebook_KD: NDArray[np.float32]) -> Tensor:
    """The codebook with a mean square of 1 / d: as a table of embeddings begins that is also the head."""
    table = torch.from_numpy(np.array(codebook_KD, np.float32))
    scale = table.square().mean().sqrt().clamp_min(1e-8)
    return torch.as_tensor(table / scale / table.shape[1] ** 0.5)


def _generator(seed: int, name: str) -> torch.Generator:
    return torch.Generator().manual_seed(torch_seed(seed, "mtm", name))
