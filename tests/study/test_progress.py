import io

import pytest

from regrow.study import TerminalProgress, counting, duration
from regrow.study import _progress as module


class Clock:
    now = 0.0

    def monotonic(self):
        return self.now


def test_without_a_terminal_a_line_now_and_then_says_what_is_left(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    stream = io.StringIO()
    progress = TerminalProgress(stream, seconds_between_lines=30)
    progress.say("[bold]5 arms[/bold] " + "x" * 300)
    with counting(progress, 100.0):
        for _ in range(100):
            clock.now += 1.0
            progress.advance(1.0, "set 0.5")
    lines = stream.getvalue().splitlines()
    assert lines[0] == "[bold]5 arms[/bold] " + "x" * 300
    assert lines[1:] == [
        " 30 %, about 70 s left: set 0.5",
        " 60 %, about 40 s left: set 0.5",
        " 90 %, about 10 s left: set 0.5",
    ]
    assert "\x1b" not in stream.getvalue()


def test_on_a_terminal_there_is_a_bar_and_it_goes_away_after_an_error(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    stream = io.StringIO()
    progress = TerminalProgress(stream)

    def work():
        with counting(progress, 10.0):
            progress.advance(5.0, "[set] 0.5")
            progress.say("a note")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        work()
    assert "50%" in stream.getvalue()
    assert "[set] 0.5" in stream.getvalue()
    assert "left:" in stream.getvalue()
    assert progress._bar is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-1, "0 s"), (0, "0 s"), (89, "89 s"), (90, "2 min"), (200, "3 min"), (5400, "1 h 30 min"),
     (7500, "2 h 5 min"), (3 * 86400 + 4 * 3600, "3 d 4 h")],
)  # fmt: skip
def test_durations_in_words(seconds, words):
    assert duration(seconds) == words
