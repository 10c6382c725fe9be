"""Images as tokens: `datakit build recipe=vq_tokens`, 20 minutes on the embedded drawings and two cores, or three with
`validate=check`; then `datakit tokens train builds/vq_tokens/tokens`, which trains a classifier without a pixel.

In the manner of SeiT (Park et al., ICCV 2023) and SeiT++ (Lee et al., ECCV 2024): a tokenizer turns each image into a
grid of codes, which are ranked by frequency, packed in blocks close to their entropy, and trained on directly: about
1 % of the bytes of photographs. The tokenizer is trained here (cosine VQ, FSQ, RVQ, LFQ, or k-means of patches without
torch) or read from a file. A loop compares classifiers at equal coded bytes, and WebP at low resolution is among them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from datakit.catalog import load
from datakit.check.tokens import check_adapt, check_arms, check_tokens, code_sizes
from datakit.check.tokens_page import token_page
from datakit.config import as_dict, changed
from datakit.errors import ConfigError, did_you_mean, need
from datakit.index.stages import keep_rows, rows_where
from datakit.models.tokenizer import weights_of
from datakit.recipe import CatalogUse, Recipe, Step, Store, catalogs
from datakit.stage import Files, Ref
from datakit.stages.image import common_format, intake
from datakit.stages.place import all_classes, describe_class, place
from datakit.stages.tokens import token_files, tokenize, view_count
from datakit.tokens.codec import CODECS
from datakit.train.token_arms import ARMS, budgets_of
from datakit.train.token_stages import PATCHES, fit_adapt, fit_codes, token_arm, token_split
from datakit.values import to_text

DESCRIPTION = (
    "Images with their tokens: a grid of codes each, packed, and the codebook and tokenizer that made them."
)
KINDS = ("cosine_vq", "vq", "fsq", "rvq", "lfq", PATCHES)
TRAIN = "train"
ADAPTED = "tokens_adapt"  # the arm that is trained through TokenAdapt
JSON = ("name", "class_name", "taxonomy", "captions", "source_url", "licence", "attribution")


def key(default: Any, help: str, **limits: float) -> Any:
    return field(default=default, metadata={"help": help, **limits})


@dataclass(frozen=True, kw_only=True)
class Intake:
    min_side: int = key(16, "px; smaller images are left out, counted", least=0)
    svg_side: int = key(256, "px at which drawings are rendered", least=1)
    quality: int = key(95, "of JPEG, for images that must be encoded again", least=1, most=100)


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    codes: int = key(512, "K, of a tokenizer trained here", least=2, most=65536)
    dim: int = key(8, "of a code's vector", least=1)
    patch: int = key(8, "px of a token's side: 4, 8 or 16", least=1)
    steps: int = key(600, "of training", least=1)
    images: int = key(2000, "that it is trained on, at most", least=1)
    device: str = key("cpu", "of encoding: cpu, cuda or auto; not run on a GPU")


@dataclass(frozen=True, kw_only=True)
class Pack:
    codec: str = key(
        "pco", "bits (mapped), planes (fast), ans (an image at a time), pco, zstd, radix, context (small)"
    )
    block: int = key(256, "images a block, which is what a random read decodes", least=1)
    keep_unused: bool = key(False, "keep the codes that no image has")


@dataclass(frozen=True, kw_only=True)
class Adapt:
    train: bool = key(False, "train TokenAdapt's f and f⁻¹ too, and keep them in adapt/")
    width: int = key(96, "of their transformer layers; SeiT++'s are 384", least=8, most=4096)
    steps: int = key(300, "of training", least=1)
    images: int = key(512, "that they are trained on, at most", least=1)


@dataclass(frozen=True, kw_only=True)
class Loop:
    label: str = key("class_name", "the column that is learned")
    arms: tuple[str, ...] = key((), "what is compared; all, where none is named")
    budgets: tuple[float, ...] = key(
        (0.25, 1.0, 4.0), "times the coded bytes of one view in tokens", least=0.01
    )
    seeds: tuple[int, ...] = key((0, 1, 2), "of training", least=0, most=2**32 - 1)
    images: int = key(3000, "of the classifiers' training and test, at most", least=8)
    least: int = key(8, "images of a class that is learned", least=2)
    side: int = key(128, "px at which pixel classifiers are trained", least=32)
    steps: int = key(400, "of each training", least=1)
    mtm_steps: int = key(1000, "of masked token modelling before it", least=1)
    device: str = key("auto", "auto, cpu, cuda")


@dataclass(frozen=True, kw_only=True)
class Config:
    catalog: str = key("emoji", "where the images come from; `datakit catalogs` lists them")
    source: str = key("", "the catalog's local copy")
    store: str = key("", "a store already built, instead of a catalog")
    options: tuple[str, ...] = key((), "the catalog's reader's options, as name=value")
    where: str = key("", "only images whose columns hold it: \"pool = 'main' and width > 64\"")
    intake: Intake = field(default_factory=Intake)
    tokenizer: str = key(
        "train:cosine_vq", "train:<kind>, or a file: file:, vitvqgan:, vqgan:, titok:, cosmos:"
    )
    fit: Tokenizer = field(default_factory=Tokenizer)
    size: int = key(256, "px of the frame that is tokenized", least=8)
    frame: Literal["crop", "square"] = key(
        "crop", "the centre square, or all of it pressed into one, as SeiT does"
    )
    views: str = key("full", "full, tencrop, or crops:<k>: the frame and k random crops")
    pack: Pack = field(default_factory=Pack)
    adapt: Adapt = field(default_factory=Adapt)
    validate: Literal["none", "check", "train"] = key("train", "train: the loop at equal bytes as well")
    loop: Loop = field(default_factory=Loop)
    seed: int = key(0, "of the tokenizer, of views and of the loop's split", least=0, most=2**32 - 1)
    per_shard: int = key(1000, "samples a published shard, at most", least=1)


def recipe(config: Config) -> Recipe:
    check_words(config)
    main = load("webdataset" if config.store else config.catalog)

    # Images made fit to publish.
    found = catalogs(use(config))
    format = found.reduce(common_format())
    images = found.map(intake(format=format, **as_dict(config.intake)))
    if config.where:
        images = images.map(keep_rows(keep=images.reduce(rows_where(where=config.where))))
    images = images.annotate(describe_class(caption="caption"))
    classes = images.reduce(all_classes())

    # A tokenizer, and the codes that it gives each view of each image; packed, ranked, with the codebook.
    frame: dict[str, Any] = {"size": config.size, "fit": config.frame}
    made_by = tokenizer_of(config, images, frame)
    cut = frame | {"views": config.views}
    tokens = images.annotate(tokenize(**made_by, **cut, seed=config.seed, device=config.fit.device))
    packing: dict[str, Any] = {
        "codec": config.pack.codec,
        "per_block": config.pack.block,
        "keep_unused": config.pack.keep_unused,
    }
    packed = tokens.reduce(token_files(**without_weights(made_by), **cut, **packing, classes=classes))

    # Exact? As small as their entropy? What do the codecs make of them, and what is left of the picture?
    told = {"packed": packed, **without_weights(made_by), **frame}
    checks = [tokens.reduce(check_tokens(**told, views=config.views, seed=config.seed))]
    sizes = images.reduce(code_sizes(packed=packed))

    # What moves tokens as images are moved.
    adapt: Ref[Files] | None = None
    if config.adapt.train:
        options = {"width": config.adapt.width, "steps": config.adapt.steps}
        adapt = images.reduce(
            fit_adapt(**told, options=options, images=config.adapt.images, seed=config.seed)
        )
        checks.append(images.reduce(check_adapt(packed=packed, adapt=adapt, seed=config.seed)))

    # Classifiers at equal coded bytes.
    arms: list[Ref[dict[str, Any]]] = []
    if config.validate == "train":
        arms = trained_arms(config, images, packed, frame, adapt)
        checks.append(images.reduce(check_arms(arms=arms)))

    published = images.annotate(place(classes=classes)).repartition(by="publish", per_shard=config.per_shard)
    title = f"{main.title}: tokens"
    page = token_page(
        **told,
        sizes=sizes,
        findings=checks,
        arms=arms,
        words=changed(config),
        title=title,
        seed=config.seed,
    )
    return Recipe(
        store=Store(
            step=published,
            image_format=format,
            class_names=classes,
            caption="said",
            json=JSON,
            title=title,
            description=DESCRIPTION,
            split_notes={"train": "all images, where the source has no splits"},
            keywords=("vector quantization", "image tokens", "storage-efficient training"),
        ),
        checks=checks,
        files={
            "tokens/": packed,
            **({"adapt/": adapt} if adapt is not None else {}),
            "report/index.html": images.reduce(page),
        },
    )


def tokenizer_of(config: Config, images: Step, frame: dict[str, Any]) -> dict[str, Any]:
    """How the stages are told of the tokenizer: as the files of a step that trains it, or by name."""
    kind = trained_kind(config)
    if not kind:
        return {"name": config.tokenizer, "weights": weights_of(config.tokenizer)}
    fit = config.fit
    options = (
        {"patch": fit.patch} if kind == PATCHES else {"patch": fit.patch, "dim": fit.dim, "steps": fit.steps}
    )
    learned = fit_codes(
        kind=kind, codes=fit.codes, options=options, images=fit.images, seed=config.seed, **frame
    )
    return {"tokenizer": images.reduce(learned)}


def without_weights(made_by: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in made_by.items() if name != "weights"}


def trained_arms(
    config: Config, images: Step, packed: Ref[Files], frame: dict[str, Any], adapt: Ref[Files] | None
) -> list[Ref[dict[str, Any]]]:
    """One step an arm and budget."""
    loop = config.loop
    split = images.reduce(token_split(label=loop.label, seed=config.seed, least=loop.least, most=loop.images))
    options = {"side": loop.side, "steps": loop.steps, "mtm_steps": loop.mtm_steps, "device": loop.device}
    return [
        images.reduce(
            token_arm(
                packed=packed,
                split=split,
                arm=arm,
                budget=budget,
                options=options,
                seeds=loop.seeds,
                **frame,
                adapt=adapt if arm == ADAPTED else None,
            )
        )
        for arm in arms_of(config)
        for budget in budgets_of(arm, loop.budgets, view_count(config.views))
    ]


def arms_of(config: Config) -> tuple[str, ...]:
    """What is compared; all that the build can, where none is named."""
    return config.loop.arms or tuple(arm for arm in ARMS if arm != ADAPTED or config.adapt.train)


def trained_kind(config: Config) -> str:
    """The kind of a tokenizer trained here; empty for one that is read."""
    prefix, _, kind = config.tokenizer.partition(":")
    return kind if prefix == TRAIN else ""


def check_words(config: Config) -> None:
    """What no key's type and limits say. Raises ConfigError, MissingExtra before any work."""
    if config.store and config.source:
        raise ConfigError("store= is the source itself: give it, or catalog= and source=")
    kind = trained_kind(config)
    if config.tokenizer.startswith(TRAIN) and kind not in KINDS:
        raise ConfigError(
            f"tokenizer={config.tokenizer}{did_you_mean(kind, KINDS)}; train: one of {', '.join(KINDS)}"
        )
    if config.pack.codec not in CODECS:
        raise ConfigError(
            f"pack.codec={config.pack.codec}{did_you_mean(config.pack.codec, CODECS)}; there are {', '.join(CODECS)}"
        )
    view_count(config.views)
    if kind and config.size % config.fit.patch:
        raise ConfigError(f"size={config.size} is no multiple of fit.patch={config.fit.patch}")
    need("packed tokens", "tokens", ("constriction", "pcodec", "safetensors", "zstandard"))
    if config.validate == "train" or config.adapt.train or (kind and kind != PATCHES):
        need(
            f"tokenizer={config.tokenizer}, adapt.train and validate=train",
            "torch",
            ("torch", "timm", "vector_quantize_pytorch"),
        )
    for name, values in (
        ("arms", arms_of(config)),
        ("budgets", config.loop.budgets),
        ("seeds", config.loop.seeds),
    ):
        if not values or len(set(values)) < len(values):
            raise ConfigError(f"loop.{name}={to_text(values)}: give one or more, each once")
    if unknown := next((arm for arm in config.loop.arms if arm not in ARMS), None):
        raise ConfigError(f"no arm {unknown}{did_you_mean(unknown, ARMS)}; there are {', '.join(ARMS)}")

    if config.adapt.train and kind == "rvq":
        raise ConfigError("adapt.train=true: TokenAdapt takes square grids, and train:rvq stacks its levels")
    if config.adapt.train and config.adapt.width % 4:
        raise ConfigError(f"adapt.width={config.adapt.width}: a multiple of 4, as many as there are heads")
    if ADAPTED in config.loop.arms and not config.adapt.train:
        raise ConfigError(
            f"loop.arms={ADAPTED} wants adapt.train=true: there is no TokenAdapt to train through"
        )


def use(config: Config) -> CatalogUse:
    """The catalog, or the store, as the engine is told of it."""
    if config.store:
        return CatalogUse(name="webdataset", source=config.store)
    options = tuple((word.partition("=")[0], word.partition("=")[2]) for word in config.options)
    return CatalogUse(name=config.catalog, source=config.source, options=options)
