"""What the doctor answers: findings, each with the line to change."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import final

_WIDTH = 96


@final
@dataclass(frozen=True)
class Finding:
    """One invariant that the set-up breaks.

    Args:
        check: Short name of the invariant, such as ``"copied-model"``; stable between versions.
        message: What was seen: layers, counts, and in which call of ``step``.
        fix: The line to write instead. ``regrow.rigl`` stands for whichever method is used.
    """

    check: str
    message: str
    fix: str


@final
@dataclass(frozen=True)
class Diagnosis:
    """The answer of ``doctor``; ``print`` it.

    Args:
        findings: What is broken, causes before consequences; empty where nothing is.
        notes: What was not put back or could not be looked at.
        n_calls: How often ``step`` ran to its end.
    """

    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    n_calls: int

    @property
    def is_healthy(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def __str__(self) -> str:
        head = f"regrow.doctor: {self.n_calls} training steps run and taken back, "
        lines = [head + ("nothing found" if self.is_healthy else f"found {len(self.findings)}:")]
        for number, finding in enumerate(self.findings, start=1):
            lines += ["", _wrapped(finding.message, f"{number}. [{finding.check}] ", "   ")]
            lines += ["   write instead:"]
            lines += [f"       {line}" for line in finding.fix.splitlines()]
        if self.notes:
            lines += ["", *(_wrapped(note, "note: ", "      ") for note in self.notes)]
        return "\n".join(lines)


def _wrapped(text: str, first: str, rest: str) -> str:
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )
