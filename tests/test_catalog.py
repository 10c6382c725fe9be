"""A catalog's TOML: what is wrong with it is said by file and key, before anything is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from datakit import catalog
from datakit.errors import CatalogError
from datakit.recipe import CatalogUse

TOML = 'title = "Toy"\ndescription = "Shapes."\nreader = "imagefolder"\n'


def test_a_toml_fills_a_catalog(tmp_path: Path) -> None:
    path = tmp_path / "toy.toml"
    path.write_text(TOML + 'per_shard = 7\n[pools.main]\nwhere.kind = ["a", "b"]\n')
    found = catalog.load(str(path))
    assert (found.name, found.title, found.per_shard) == ("toy", "Toy", 7)
    assert [found.pool_of({"kind": kind}) for kind in ("a", "b", "ab")] == ["main", "main", None]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            TOML + "[pools.main]\nminimages = 3",
            r"unknown key pools\.main\.minimages; did you mean min_images",
        ),
        (TOML + "[pools.main]\nmin_images = 2.5", r"pools\.main\.min_images is 2\.5: must be a whole number"),
        (TOML + "[pools]\nmain = 3", r"pools\.main is 3: must be a table"),
        (TOML + "pools = 3", "pools is 3: must be a table"),
        (TOML + "[pools.near]", "pool near is none of main"),
        (TOML + '[pools.main]\nwhere.kind = "ab"', r"pools\.main\.where\.kind is 'ab': must be a list"),
        (TOML + "per_shard = 0", "per_shard is 0: must be a whole number from 1 on"),
        (TOML + 'per_shard = "10"', "per_shard is '10': must be a whole number"),
        (TOML + "per_shard = true", "per_shard is True: must be a whole number"),
        (TOML + 'name = "other"', "unknown key name"),
        (TOML + "licence = 3", "licence is 3: must be a table"),
        (TOML.replace('"Toy"', "3"), "title is 3: must be a text"),
        (TOML.partition("reader")[0], "reader is missing"),
        (TOML + "# caf\xe9", "cannot read the catalog"),
        (TOML + "=", "cannot read the catalog"),
    ],
)
def test_what_is_wrong_with_a_toml_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "toy.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(CatalogError, match=message) as caught:
        catalog.load(str(path))
    assert str(path) in str(caught.value)


def test_a_source_may_be_a_pattern_longer_than_a_name(tmp_path: Path) -> None:
    toy = catalog.Catalog(name="toy", title="", description="", reader="webdataset", needs_source=True)
    for source in ("::".join(["shard.tar"] * 50), f"{{{'a' * 300},b}}.tar", f"{'a' * 300}*"):
        assert catalog.root_of(CatalogUse(name="toy", source=source), toy) == Path(source).absolute()
    for source in (str(tmp_path / "gone"), "a" * 300):
        with pytest.raises(CatalogError, match="no such file or folder"):
            catalog.root_of(CatalogUse(name="toy", source=source), toy)
