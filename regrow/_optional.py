"""Optional packages: imported where they are used, or an error that names the extra."""

import importlib
from types import ModuleType

from regrow.errors import BackendUnavailableError


def require(name: str, *, extra: str) -> ModuleType:
    """Import an optional package.

    Args:
        name: Module to import, such as ``"cv2"`` or ``"scipy.ndimage"``.
        extra: Extra of regrow that brings the package, such as ``"robustness"``.

    Returns:
        The module.

    Raises:
        BackendUnavailableError: The package cannot be imported; the message says how to install it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        message = (
            f"this needs the package {name!r}, which cannot be imported ({error}); "
            f"install it with: pip install 'regrow[{extra}]'"
        )
        raise BackendUnavailableError(message) from error
