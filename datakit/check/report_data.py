"""What the report page is made of: plain frozen data, JSON-able but for the pictures' pixels.

Pictures are given once, in `ReportData.pictures`; classes, tiers and duplicates name them by index. Tiers are id, near,
mid, far, coarse, outlier; others are shown in grey. Shares and metrics are in [0, 1], printed as per cent.
Everything but the title may be missing: the page says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datakit.image import Image, Pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One picture of the pool: uint8 (height, width, 3) RGB, or an encoded `Image`; the page shows a small copy."""

    image: Pixels | Image
    key: str = ""
    caption: str = ""  # shown on hover and read aloud; the class name, say


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitRow:
    """A published split, by its name in the tree: train, val, test, val_ood, near_ood … outliers, reserve."""

    name: str
    samples: int
    description: str = ""
    classes: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TierRow:
    """A tier and its distances to the nearest ID class, one value a class or an image, in the unit `distance`."""

    name: str
    definition: str = ""
    classes: int = 0
    images: int = 0
    distances: Sequence[float] = ()
    distance: str = "distance to the nearest ID class"
    pictures: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassRow:
    """A class; `counts` images by published split; role id, ood, val_ood, outlier or unused.

    attr_distance: 1 - cosine to its nearest ID class. pictures: of an ID class those of test first.
    """

    name: str
    role: str
    tier: str | None = None
    taxonomy: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    nearest_id_class: str | None = None
    tax_distance: float | None = None
    attr_distance: float | None = None
    pictures: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DuplicatePair:
    """Two near-identical pictures; `hamming` in bits of the 64-bit pHash, `action` what was done, in words."""

    keys: tuple[str, str]
    pictures: tuple[int, int]
    splits: tuple[str, str] = ("", "")
    hamming: int | None = None
    flipped: bool = False
    similarity: float | None = None
    action: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricRow:
    """One measurement; the positive class is in the names of the fields where it matters."""

    seed: int
    method: str
    detector: str
    tier: str
    n_id: int
    n_ood: int
    auroc: float
    auroc_low: float | None = None
    auroc_high: float | None = None
    aupr_in: float | None = None
    aupr_out: float | None = None
    tnr_at_95tpr_id: float | None = None
    fpr_at_95tpr_id: float | None = None
    fpr_at_95tpr_ood: float | None = None
    oscr: float | None = None
    n_ood_classes: int | None = None
    auroc_macro: float | None = None  # mean over the OOD classes
    auroc_class_low: float | None = None  # interval over whole OOD classes
    auroc_class_high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SummaryRow:
    """Mean and sample standard deviation over `seeds` runs, by the metric fields' names of `MetricRow`."""

    method: str
    detector: str
    tier: str
    seeds: int
    mean: Mapping[str, float]
    std: Mapping[str, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyRow:
    seed: int
    method: str
    accuracy: float  # of ID test
    n: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NullRow:
    """AUROC of ID validation against ID test: 0.5 if the protocol has no shortcut."""

    seed: int
    method: str
    detector: str
    auroc: float
    limit: float = 0.05  # allowed distance from 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeRow:
    """A linear or k-NN probe on fixed features: `metric` names what `value` in [0, 1] is."""

    seed: int
    probe: str
    metric: str
    value: float
    tier: str = ""
    n: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveRow:
    """One training curve: a value an epoch."""

    seed: int
    method: str
    name: str
    values: Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRow:
    """Scores behind a histogram and an ROC curve; higher = more in-distribution."""

    seed: int
    method: str
    detector: str
    tier: str
    id_scores: Sequence[float]
    ood_scores: Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """The reference loop's results; the first row's method and detector are the headline unless `headline` does."""

    rows: tuple[MetricRow, ...] = ()
    summary: tuple[SummaryRow, ...] = ()  # made from `rows` where empty
    headline: tuple[str, str] | None = None
    accuracies: tuple[AccuracyRow, ...] = ()
    null_control: tuple[NullRow, ...] = ()
    probes: tuple[ProbeRow, ...] = ()
    curves: tuple[CurveRow, ...] = ()
    scores: tuple[ScoreRow, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeRow:
    """What became of some samples that came in: kept, dropped or failed."""

    status: str
    count: int
    reason: str = ""
    keys: tuple[str, ...] = ()  # examples


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogRow:
    title: str
    checksum: str = ""
    licence: str = ""
    homepage: str = ""
    citation: str = ""
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LicenceRow:
    spdx: str
    images: int
    attribution: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """Everything on the page. `findings` as of `Finding.to_json()`; `config` the resolved words of the build."""

    title: str
    subtitle: str = ""
    command: str = ""
    recipe: str = ""
    seeds: tuple[int, ...] = ()
    splits: tuple[SplitRow, ...] = ()
    tiers: tuple[TierRow, ...] = ()
    classes: tuple[ClassRow, ...] = ()
    attributes: str = "attribute vectors"  # what `attr_distance` of the classes was measured on
    pictures: tuple[Picture, ...] = ()
    duplicates: tuple[DuplicatePair, ...] = ()
    duplicate_pairs: int | None = None  # how many there are, where `duplicates` is a choice of them
    findings: tuple[Mapping[str, Any], ...] = ()
    validation: Validation | None = None
    outcomes: tuple[OutcomeRow, ...] = ()
    conversions: Mapping[str, int] = field(default_factory=dict)
    catalogs: tuple[CatalogRow, ...] = ()
    licences: tuple[LicenceRow, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, object] = field(default_factory=dict)
