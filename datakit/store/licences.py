"""Terms of the data: as the Hub names them, and as the file LICENSE of a store."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from datakit.store.layout import Licence, StoreInfo

# SPDX identifiers that the Hub knows, under the name it knows them by.
_HUB_OWN = {
    "odc-by-1.0": "odc-by", "odbl-1.0": "odbl", "pddl-1.0": "pddl", "gfdl-1.3": "gfdl",
    "gpl-2.0-only": "gpl-2.0", "gpl-3.0-only": "gpl-3.0", "agpl-3.0-only": "agpl-3.0",
}  # fmt: skip
_HUB = {
    *_HUB_OWN.values(),
    "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "c-uda", "cc0-1.0", "cc-by-2.0", "cc-by-2.5",
    "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0",
    "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0",
    "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cdla-sharing-1.0", "cdla-permissive-1.0",
    "cdla-permissive-2.0", "gpl-2.0", "gpl-3.0", "mpl-2.0", "ofl-1.1", "unlicense", "zlib", "isc",
}  # fmt: skip


def hub_licence(licences: Sequence[Licence]) -> dict[str, Any]:
    """`license` as the Hub names it, all where there are several; `other` where it does not know one."""
    found: list[str] = []
    for licence in licences:
        for part in re.split(r"\s+(?:AND|OR)\s+", licence.spdx.replace("(", "").replace(")", "")):
            name = _HUB_OWN.get(part.lower(), part.lower())
            if name not in _HUB:
                title = ", ".join(licence.title for licence in licences)
                return {"license": "other", "license_name": _slug(title), "license_link": "LICENSE"}
            found.append(name)
    unique = list(dict.fromkeys(found))
    return {"license": unique[0] if len(unique) == 1 else unique}


def licence_text(info: StoreInfo) -> str:
    """The file LICENSE: which terms hold for the images, whose they are, and where each image says so."""
    lines = [f"Licences of the data of {info.title}", ""]
    if len(info.licences) > 1:
        lines += [
            "Parts of the images are under different terms. The metadata say which hold for an image.",
            "",
        ]
    for licence in info.licences:
        title = " - ".join(dict.fromkeys(part for part in (licence.spdx, licence.name) if part))
        lines += [title, "=" * len(title)]
        lines += [f"Images: {licence.samples}"] if licence.samples is not None else []
        lines += [part for part in (licence.link, licence.attribution, licence.text) if part] + [""]
    return "\n".join(lines)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")
