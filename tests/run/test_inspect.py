"""Questions to what is no build, or no question."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from datakit.errors import ConfigError, StoreError
from datakit.run.inspect import show, why


def test_a_file_is_no_finished_build(tmp_path: Path) -> None:
    file = tmp_path / "afile"
    file.write_text("x")
    for ask in (lambda: why("x", file), lambda: show(str(file)), lambda: show(f"{file}/below")):
        with pytest.raises(StoreError, match="is no finished build"):
            ask()


@pytest.mark.parametrize("text", ["[1]", "{", "\xff"])
def test_a_damaged_manifest_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(StoreError, match=r"manifest\.json is damaged"):
        show(str(tmp_path))


def test_an_unknown_key_is_not_taken_for_a_folder(tmp_path: Path) -> None:
    for word, said in (("recip=fg_ood", "did you mean recipe?"), ("x=1", "show takes recipe=NAME")):
        with pytest.raises(ConfigError, match=re.escape(said)):
            show(word)
    (tmp_path / "lr=0.1").mkdir()
    with pytest.raises(StoreError, match="is no finished build"):
        show(str(tmp_path / "lr=0.1"))
