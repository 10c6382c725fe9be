"""Who may import what: the table of the design, held by the sources themselves."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# library → (where it may be imported, where it may stand at the top of a file)
ANYWHERE = ("datakit/", "recipes/")
ARRAYS = tuple(
    f"datakit/{part}/"
    for part in ("run", "sources", "store", "stages", "models", "check", "train", "index", "serve", "tokens")
)
CLUSTER = ("datakit/run/cluster.py", "datakit/run/dask.py")
REPORT, TRAIN, TIMM = "datakit/check/report", "datakit/train/", "datakit/models/timm_model.py"
SERVE = "datakit/serve/"
PICTURES = (
    "datakit/image.py",
    "datakit/store/sheet.py",
    "datakit/codec.py",
    "datakit/scaled.py",
    "datakit/stages/",
    "datakit/models/",
    REPORT,
)
TABLE: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "numpy": (ANYWHERE, ARRAYS),
    "pyarrow": (ANYWHERE, ARRAYS),
    "PIL": (PICTURES, (REPORT,)),
    "simplejpeg": (("datakit/codec.py", "datakit/scaled.py"), ()),
    "faiss": (("datakit/stages/", "datakit/check/", "datakit/index/"), ()),
    "torch": (
        (
            "datakit/models/",
            TRAIN,
            "datakit/store/torch.py",
            "datakit/codec.py",
            "datakit/run/doctor.py",
            "datakit/store/adapters.py",
            "datakit/index/torch_search.py",
            "datakit/tokens/seit.py",
        ),
        (TRAIN, TIMM, "datakit/store/torch.py"),
    ),
    "torchvision": (("datakit/models/", TRAIN), (TRAIN,)),
    "timm": (("datakit/models/", TRAIN), (TRAIN, TIMM)),
    "pytorch_ood": ((TRAIN,), (TRAIN,)),
    "datasets": (("datakit/sources/hf.py", "datakit/store/"), ()),
    "webdataset": (("datakit/store/",), ()),
    "onnxruntime": (("datakit/models/",), ()),
    "onnx": (("datakit/models/",), ()),
    "jinja2": ((REPORT, SERVE), (REPORT, SERVE)),
    "starlette": ((SERVE,), (SERVE,)),
    "uvicorn": ((SERVE,), ("datakit/serve/patience.py",)),
    "open_clip": (("datakit/models/",), ()),
    "sentence_transformers": (("datakit/models/",), ()),
    "tokenizers": (("datakit/models/",), ()),
    "pcodec": (("datakit/tokens/",), ()),
    "constriction": (("datakit/tokens/",), ()),
    "zstandard": (("datakit/tokens/",), ()),
    "safetensors": (("datakit/models/", "datakit/tokens/"), ()),
    "vector_quantize_pytorch": (("datakit/models/", TRAIN), (TRAIN,)),
    "dask": ((*CLUSTER, "datakit/index/"), CLUSTER),
    "distributed": ((*CLUSTER, "datakit/index/"), CLUSTER),
}


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """(library, whether at the top of the file, outside of TYPE_CHECKING) of every import."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = {id(node) for node in tree.body}
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            for name in node.names:
                yield name.name.partition(".")[0], id(node) in top
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0], id(node) in top


def offences(root: Path = ROOT) -> Iterator[str]:
    for path in sorted([*root.glob("datakit/**/*.py"), *root.glob("recipes/*.py")]):
        name = path.relative_to(root).as_posix()
        for library, at_top in imports(path):
            where, top = TABLE.get(library, (ANYWHERE, ANYWHERE))
            if not name.startswith(where):
                yield f"{name} imports {library}"
            elif at_top and not name.startswith(top):
                yield f"{name} imports {library} at its top"


def test_every_library_is_imported_only_where_it_is_owned() -> None:
    assert not list(offences())


@pytest.mark.parametrize(
    ("name", "line", "found"),
    [
        ("datakit/cli.py", "import torch", ["datakit/cli.py imports torch"]),
        (
            "datakit/stages/x.py",
            "from datasets import load_dataset",
            ["datakit/stages/x.py imports datasets"],
        ),
        ("datakit/stages/x.py", "import faiss", ["datakit/stages/x.py imports faiss at its top"]),
        ("datakit/stages/x.py", "def f():\n    import faiss", []),
    ],
)
def test_an_import_in_the_wrong_place_would_be_found(
    name: str, line: str, found: list[str], tmp_path: Path
) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.write_text(line + "\n")
    assert list(offences(tmp_path)) == found
