"""What a result depends on beside its settings: versions, commit, machine."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import numpy as np
import torch

_PACKAGES = ("regrow", "scipy", "opencv-python-headless", "opencv-python", "pillow", "torchvision")


def environment(device: torch.device | str = "cpu") -> dict[str, object]:
    """Describe the software and the machine, for a study's ``config.json``.

    Args:
        device: Where models are trained.

    Returns:
        JSON values: versions of python, torch, numpy and of the packages that results depend on;
        the commit of regrow where it runs from a git checkout, with ``-dirty`` where files differ
        from it, and None elsewhere; platform, number of cores, threads of torch, device.
    """
    device = torch.device(device)
    versions: dict[str, str] = {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
    }
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    return {
        "versions": versions,
        "commit": _commit(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(device),
        "device_name": name,
    }


def _commit() -> str | None:
    """The commit of the checkout that holds this file, if git tracks the file."""
    here = Path(__file__).resolve()
    # An installed package may lie inside an unrelated repository, which does not track it.
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is None:
        return None
    commit = _git(here.parent, "rev-parse", "HEAD")
    status = _git(here.parent, "status", "--porcelain", "--untracked-files=no")
    return f"{commit}-dirty" if commit and status else commit


def _git(folder: Path, *arguments: str) -> str | None:
    """Standard output of a git command, or None where it fails or there is no git."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
