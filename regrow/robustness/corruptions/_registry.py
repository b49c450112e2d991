"""Names of the corruptions and what belongs to each."""

import os
from typing import Final

from regrow.robustness.corruptions import (
    _blur,
    _codec,
    _colour,
    _elastic,
    _fog,
    _frost,
    _motion,
    _noise,
    _snow,
    _spatter,
)
from regrow.robustness.corruptions._types import Corruption

_COMMON: Final = {
    "gaussian_noise": Corruption(_noise.draw_normal, _noise.gaussian_noise),
    "shot_noise": Corruption(_noise.draw_counts, _noise.shot_noise),
    "impulse_noise": Corruption(_noise.draw_impulses, _noise.impulse_noise),
    "defocus_blur": Corruption(None, _blur.defocus_blur),
    "glass_blur": Corruption(_blur.draw_shifts, _blur.glass_blur),
    "motion_blur": Corruption(_motion.draw_angle, _motion.motion_blur),
    "zoom_blur": Corruption(None, _blur.zoom_blur),
    "snow": Corruption(_snow.draw_snow, _snow.snow),
    "frost": Corruption(_frost.draw_crop, _frost.frost),
    "fog": Corruption(_fog.draw_cloud, _fog.fog),
    "brightness": Corruption(None, _colour.brightness),
    "contrast": Corruption(None, _colour.contrast),
    "elastic_transform": Corruption(_elastic.draw_elastic, _elastic.elastic_transform),
    "pixelate": Corruption(None, _codec.pixelate),
    "jpeg_compression": Corruption(None, _codec.jpeg_compression),
}
_EXTRA: Final = {
    "speckle_noise": Corruption(_noise.draw_normal, _noise.speckle_noise),
    "gaussian_blur": Corruption(None, _blur.gaussian_blur),
    "spatter": Corruption(_spatter.draw_liquid, _spatter.spatter),
    "saturate": Corruption(None, _colour.saturate),
}
CORRUPTIONS: Final = {**_COMMON, **_EXTRA}

COMMON: Final = tuple(_COMMON)
"""The 15 corruptions that published means are over."""
EXTRA: Final = tuple(_EXTRA)
"""The 4 extra ones, which the authors held out for validation."""
ALL: Final = COMMON + EXTRA
"""All 19, the common ones first."""
DETERMINISTIC: Final = tuple(name for name in ALL if CORRUPTIONS[name].draw is None)
"""Those that draw nothing: the same image gives the same result."""


def available(frost_dir: str | os.PathLike[str] | None = None) -> tuple[str, ...]:
    """Names of the corruptions that can run.

    Args:
        frost_dir: Folder with the frost textures, or None.

    Returns:
        All names in the published order, without ``"frost"`` where its textures are not there.
    """
    if frost_dir is not None and not _frost.missing_textures(frost_dir):
        return ALL
    return tuple(name for name in ALL if name != "frost")
