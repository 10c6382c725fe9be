"""What the trainer of tokenizers may be told: a frozen dataclass, checked when it is made, without torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from datakit.errors import ConfigError, did_you_mean
from datakit.models.token_codes import levels_for
from datakit.models.token_net import HALVINGS, KINDS
from datakit.models.tokenizer_files import check_codes
from datakit.train.retrieval_options import key

PRECISIONS = ("auto", "float32", "bfloat16")
LEARNED = ("cosine_vq", "vq", "rvq")  # kinds that keep a codebook; the others have one by formula


@dataclass(frozen=True, kw_only=True)
class TokenizerOptions:
    """The defaults take about a minute on one CPU thread and give 512 codes of 8 x 8 px."""

    kind: Literal["cosine_vq", "vq", "fsq", "rvq", "lfq"] = key("cosine_vq", "how vectors become codes")
    codes: int = key(512, "code numbers (of a level)", least=2)
    dim: int = key(8, "numbers a code's vector has; fsq and lfq: as many as `codes` asks for", least=1)
    patch: int = key(8, "px a token's side: 4, 8, 16")
    quantizers: int = key(2, "for kind=rvq: levels of tokens", least=1, most=16)
    channels: int = key(96, "of the nets", least=4)
    blocks: int = key(2, "residual blocks at the tokens' size, in each net", least=0)
    steps: int = key(600, "of training", least=1)
    batch_size: int = key(32, "crops a step", least=1)
    crop: int = key(64, "px of a crop's side", least=16)
    lr: float = key(
        2e-3, "peak of AdamW's, after a warm-up of a twentieth, falling to 0 on a cosine", least=0
    )
    commitment: float = key(0.25, "weight of the vectors' distance to their codes", least=0)
    decay: float = key(0.95, "of the running means that codes are", least=0, most=0.9999)
    revive: float = key(0.25, "codes used less than this share of the mean are set anew; 0: never", least=0)
    precision: Literal["auto", "float32", "bfloat16"] = key(
        "auto", "of the nets while they train; auto: bfloat16 on a CPU that multiplies it"
    )
    device: str = key("auto", "auto, cpu, cuda")
    seconds: float = key(0.0, "fail rather than take longer; 0: no limit", least=0)

    def __post_init__(self) -> None:
        for name, known in (("kind", KINDS), ("precision", PRECISIONS)):
            value = getattr(self, name)
            if value not in known:
                hint = did_you_mean(value, known) or f"; choose from {', '.join(known)}"
                raise ConfigError(f"unknown {name} {value}{hint}")
        for name, item in self.__dataclass_fields__.items():
            least, most = item.metadata.get("least"), item.metadata.get("most")
            value = getattr(self, name)
            if (least is not None and not value >= least) or (most is not None and not value <= most):
                raise ConfigError(f"{name}={value} must be {_limits(least, most)}")
        if self.patch not in HALVINGS:
            raise ConfigError(f"patch={self.patch} must be one of {', '.join(map(str, HALVINGS))}")
        if self.crop % self.patch:
            raise ConfigError(f"crop={self.crop} must be a multiple of patch={self.patch}")
        check_codes(self.codes)
        self.settings()

    def settings(self) -> dict[str, Any]:
        """What tells the nets and the codes of a fit; `dim` is what the kind makes of it."""
        levels = levels_for(self.codes) if self.kind == "fsq" else ()
        dim = len(levels) if levels else self.dim
        if self.kind == "lfq":
            dim = self.codes.bit_length() - 1
            if self.codes != 1 << dim:
                raise ConfigError(f"codes={self.codes}: kind=lfq has a power of two, as {1 << dim}")
        return {
            "kind": self.kind,
            "codes": self.codes,
            "dim": dim,
            "patch": self.patch,
            "channels": self.channels,
            "blocks": self.blocks,
            "levels": list(levels),
            "quantizers": self.quantizers if self.kind == "rvq" else 1,
        }

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def _limits(least: float | None, most: float | None) -> str:
    return f"at least {least:g}" if most is None else f"{least:g} to {most:g}"
