"""Telling a person how far a study is and how long it will take."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TextIO, final

from regrow._optional import require

_SECONDS_BETWEEN_LINES = 30.0


class Progress(Protocol):
    """Where a study says what it does."""

    def say(self, text: str) -> None:
        """Show a line or several."""

    def begin(self, total: float) -> None:
        """Start to count ``total`` units of work, of about equal duration."""

    def advance(self, amount: float, status: str) -> None:
        """Count work as done, and say what is being done."""

    def finish(self) -> None:
        """Stop counting."""


@final
class SilentProgress:
    """Says nothing."""

    def say(self, text: str) -> None:
        """Ignore a line: the log has it too."""

    def begin(self, total: float) -> None:
        """Count nothing."""

    def advance(self, amount: float, status: str) -> None:
        """Count nothing."""

    def finish(self) -> None:
        """Count nothing."""


@final
class TerminalProgress:
    """A progress bar with the time left on a terminal; elsewhere a line every half minute.

    Args:
        stream: Where to write; standard error by default, so that a study's answer on standard
            output can be kept alone.
        seconds_between_lines: How often at most a line is written where there is no terminal.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        seconds_between_lines: float = _SECONDS_BETWEEN_LINES,
    ) -> None:
        console = require("rich.console", extra="robustness")
        self._console = console.Console(
            file=stream, stderr=stream is None, highlight=False, soft_wrap=True, markup=False
        )
        self._seconds_between_lines = seconds_between_lines
        self._bar: Any = None
        self._total = self._done = 0.0
        self._started = self._last_line = 0.0

    def say(self, text: str) -> None:
        """Show a line, above the bar where there is one."""
        self._console.print(text, markup=False)

    def begin(self, total: float) -> None:
        """Show the bar, or remember when work began."""
        self._total, self._done = total, 0.0
        self._started = self._last_line = time.monotonic()
        if self._console.is_terminal:
            self._bar = _bar(self._console)
            self._task = self._bar.add_task("starting", total=total)
            self._bar.start()

    def advance(self, amount: float, status: str) -> None:
        """Move the bar, or write a line if the last one is long ago."""
        self._done += amount
        if self._bar is not None:
            self._bar.update(self._task, advance=amount, description=status)
            return
        now = time.monotonic()
        if now - self._last_line >= self._seconds_between_lines and self._done > 0:
            self._last_line = now
            left = (now - self._started) * (self._total / self._done - 1)
            share = min(100, int(100 * self._done / self._total))
            self.say(f"{share:3d} %, about {duration(left)} left: {status}")

    def finish(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _bar(console: object) -> object:
    progress = require("rich.progress", extra="robustness")
    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(bar_width=None),
        progress.TaskProgressColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left:"),
        progress.TimeRemainingColumn(),
        console=console,
        transient=True,
        expand=True,
        # A short window, so that the estimate follows when another program takes a core.
        speed_estimate_period=60.0,
    )


@contextmanager
def counting(progress: Progress, total: float) -> Iterator[None]:
    """Count work inside a block, and take the bar away however it ends.

    Args:
        progress: Where to count.
        total: Units of work.
    """
    progress.begin(total)
    try:
        yield
    finally:
        progress.finish()


def duration(seconds: float) -> str:
    """Words for a time: ``"40 s"``, ``"3 min"``, ``"2 h 5 min"``, ``"3 d 4 h"``."""
    seconds = max(0.0, seconds)
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"
