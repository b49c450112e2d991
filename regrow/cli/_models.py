"""Models by the names that commands take."""

import difflib

from torch import nn

from regrow._optional import require
from regrow.models import NAMES, build


def find_model(name: str, n_classes: int | None) -> tuple[nn.Module, tuple[int, ...] | None]:
    """A model by name, and the shape of its usual input where there is one.

    Args:
        name: One of ``regrow.models.NAMES``, of torchvision's, or ``"package.module:function"``.
        n_classes: Number of classes; None: 1000 for torchvision's models, otherwise 10.

    Returns:
        The model, and the shape (C, H, W) or None.

    Raises:
        ValueError: There is no such model.
    """
    if name in NAMES or ":" in name:
        return build(name, n_classes or 10), (3, 32, 32) if name in NAMES else None
    models = require("torchvision.models", extra="robustness")
    known = models.list_models()
    if name not in known:
        # (Some names are both ours and torchvision's.)
        near = difflib.get_close_matches(name, dict.fromkeys([*NAMES, *known]), n=3)
        hint = f"; near it are {', '.join(near)}" if near else ""
        raise ValueError(
            f"model {name!r} is neither ours nor torchvision's{hint}; your own is named as "
            "package.module:function"
        )
    return models.get_model(name, weights=None, num_classes=n_classes or 1000), (3, 224, 224)
