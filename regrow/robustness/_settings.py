"""All that a robustness study's numbers depend on."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, final

import torch

from regrow._checks import check_choice, check_count
from regrow.robustness.corruptions import ALL, COMMON
from regrow.study import ALLOCATIONS, METHODS, SCHEDULED, WEIGHT_STEPS, Cell, Recipe, grid

DEFAULT_METHODS = ("dense", "dense-equal-parameters", "static", "set", "rigl")
DEFAULT_SEVERITIES = (1, 3, 5)
N_SEVERITIES = 5


@final
@dataclass(frozen=True)
class Settings:
    """What is compared, and how.

    Args:
        methods: Names of `regrow.study.METHODS`.
        sparsities: Target sparsities in [0, 1).
        seeds: Number of paired seeds; they are 0, 1, ...
        recipe: How every arm is trained.
        rewirings: How often methods that rewire do so.
        interval: Weight steps between rewirings, in place of their number.
        weight_step: What a rewiring step does to the weights.
        allocation: How much each layer gets.
        corruptions: Names of the corruptions.
        severities: Severities in 1..5.
        device: Where to train, such as ``"cpu"`` or ``"cuda"``.
        amp: Whether in mixed precision.

    Raises:
        TypeError: A value is of another type.
        ValueError: A value is unknown, out of range or given twice.
    """

    methods: tuple[str, ...]
    sparsities: tuple[float, ...]
    seeds: int
    recipe: Recipe
    rewirings: int
    interval: int | None
    weight_step: str
    allocation: str
    corruptions: tuple[str, ...]
    severities: tuple[int, ...]
    device: str
    amp: bool

    def __post_init__(self) -> None:
        for method in self.methods:
            check_choice(method, "method", METHODS)
        check_count(self.seeds, "seeds")
        check_choice(self.weight_step, "weight_step", WEIGHT_STEPS)
        check_choice(self.allocation, "allocation", ALLOCATIONS)
        if not self.corruptions or len(set(self.corruptions)) != len(self.corruptions):
            raise ValueError(f"corruptions must be named once each, got {self.corruptions}")
        if not self.severities or len(set(self.severities)) != len(self.severities):
            raise ValueError(f"severities must be named once each, got {self.severities}")
        for severity in self.severities:
            if check_count(severity, "severity") > N_SEVERITIES:
                raise ValueError(f"severity must be 1, 2, 3, 4 or 5, got {severity}")
        _check_device(self.device)
        if not self.cells():
            raise ValueError("there is nothing to train")

    def cells(self) -> list[Cell]:
        """All runs, seed by seed."""
        return grid(self.methods, self.sparsities, seeds=range(self.seeds))

    @property
    def rewires(self) -> bool:
        """Whether any method changes its topology."""
        return any(method in SCHEDULED for method in self.methods)

    def as_json(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }


def _check_device(device: str) -> None:
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise ValueError(f"device {device!r} is none that torch knows: {error}") from error
    if kind not in ("cpu", "cuda"):
        raise ValueError(f"device must be cpu or cuda, got {device!r}")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device!r} was asked for, but torch sees no GPU; use cpu")


def choose_corruptions(
    asked: str | Sequence[str], *, available: Sequence[str], missing: str
) -> tuple[tuple[str, ...], str | None]:
    """The corruptions that a study uses.

    Args:
        asked: ``"all"``, ``"common"`` or names.
        available: Names that can be had.
        missing: Why others cannot, for the message.

    Returns:
        Names, in the order of the benchmark, and a sentence on what had to be left out, if any.

    Raises:
        ValueError: A name is unknown, or was asked for by name and cannot be had.
    """
    # Published sets may bring corruptions of their own; they stand behind the benchmark's.
    known = [*ALL, *(name for name in available if name not in ALL)]
    if isinstance(asked, str) and asked in ("all", "common"):
        wanted = list(COMMON) if asked == "common" else known
        left_out = [name for name in wanted if name not in available]
        note = f"Without {', '.join(left_out)}: {missing}." if left_out else None
        return tuple(name for name in wanted if name in available), note
    names = [asked] if isinstance(asked, str) else list(asked)
    for name in names:
        check_choice(name, "corruption", known)
        if name not in available:
            raise ValueError(f"corruption {name!r} cannot be had: {missing}")
    if len(set(names)) != len(names):
        raise ValueError(f"corruptions must be named once each, got {', '.join(names)}")
    return tuple(name for name in known if name in names), None
