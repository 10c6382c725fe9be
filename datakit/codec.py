"""Images decoded at the size that is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from datakit.image import decode

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def cover(
    data: bytes, side: int, *, box: tuple[float, float, float, float] | None = None
) -> NDArray[np.uint8]:
    """uint8 (side, side, 3): the part `box` (left, top, right, bottom; shares in [0, 1]) of the image, or its centre
    square, scaled to `side` px.
    """
    import numpy as np
    from PIL import Image as pil

    picture: Any = pil.fromarray(decode(data))
    width, height = picture.size
    if box is None:
        short = min(width, height)
        left, top = (width - short) / 2, (height - short) / 2
        place = (left, top, left + short, top + short)
    else:
        place = (box[0] * width, box[1] * height, box[2] * width, box[3] * height)
    return np.asarray(picture.resize((side, side), pil.Resampling.BILINEAR, box=place))
