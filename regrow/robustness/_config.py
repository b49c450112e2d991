"""The configuration of a study of robustness, checked before anything in it is used."""

from typing import Any

from regrow.study import StudyFolder

_DICTS = ("environment", "rewiring", "widths", "checksums")
_LISTS = ("notes", "sessions")
_ADVICE = "restore the file, or run the study again in another folder"


def read_config(folder: StudyFolder) -> dict[str, Any]:
    """What the configuration of a study holds.

    Args:
        folder: The study's folder.

    Returns:
        ``settings``, and what the study has added: ``environment``, ``sessions`` (each with its
        ``versions``), ``threads``, ``notes``, ``checksums``, ``weight_steps``, ``rewiring`` and
        ``widths``, as far as they are there.

    Raises:
        FileNotFoundError: The folder holds no study.
        ValueError: The file is damaged; the message names it.
    """
    config = folder.read_config()
    reason = _objection(config)
    if reason:
        raise ValueError(f"{folder.config} is damaged: {reason}; {_ADVICE}")
    return config


def _objection(config: dict[str, Any]) -> str:
    for name in _DICTS:
        none = name == "rewiring" and config.get(name) is None  # dense training alone
        if not none and not isinstance(config.get(name, {}), dict):
            return f"{name} must be an object"
    for name in _LISTS:
        if not isinstance(config.get(name, []), list):
            return f"{name} must be a list"
    threads = config.get("threads", 1)
    if type(threads) is not int or not 1 <= threads <= 4096:
        return "threads must be an integer of at least 1"
    if not all(isinstance(note, str) for note in config.get("notes", [])):
        return "notes must be texts"
    if not all(isinstance(s, dict) and "versions" in s for s in config.get("sessions", [])):
        return "each of sessions must have versions"
    for sets in config.get("checksums", {}).values():
        if not isinstance(sets, dict) or not all(isinstance(sha, str) for sha in sets.values()):
            return "checksums must be texts by set of images"
    return ""
