"""The page that shows a study, made from the files in its folder."""

import os
from pathlib import Path
from typing import Any

from regrow.robustness._answer import answer
from regrow.robustness._config import read_config
from regrow.robustness._examples import read_examples
from regrow.robustness._pictures import (
    accuracy_picture,
    curve_picture,
    example_picture,
    gain_picture,
)
from regrow.robustness._presentation import tables
from regrow.robustness._results import Results, read_results
from regrow.robustness._summary import Summary, accuracies_by_arm, summarise
from regrow.study import (
    Html,
    StudyFolder,
    definitions,
    details,
    figure,
    page,
    table,
    text,
    write_text,
)

QUESTION = "Does dynamic sparse training beat dense training on corrupted images?"
_PROTOCOL = (
    "Every arm is trained by the same recipe with the same number of weight steps, and measured "
    "with the weights of its last epoch; the test images choose nothing. Runs of one seed share "
    "initial weights, batches and corrupted images, and are compared in pairs. Intervals are "
    "Student's t at 95 % over those pairs, for each arm on its own: with many arms, one in forty "
    "would lie above 0 by chance. Accuracies are means over corruptions and severities."
)


def write_report(root: str | os.PathLike[str]) -> Path:
    """Write ``report.html`` into a study's folder, from the tables and settings there.

    The page is one file: it needs no network, no script and no other file.

    Args:
        root: The folder of a study with at least one complete run: ``results.csv``, ``runs.csv``
            and ``config.json``, and where they are there ``curves.csv`` and ``examples.npz``.

    Returns:
        Path of the page.

    Raises:
        FileNotFoundError: The folder holds no study.
        ValueError: A file is damaged, or no run is complete.
    """
    folder = StudyFolder(Path(root))
    config = read_config(folder)
    results = read_results(folder.root)
    summary = summarise(results)
    path = folder.root / "report.html"
    write_text(path, page(QUESTION, _parts(folder.root, config, results, summary)))
    return path


def _parts(root: Path, config: dict[str, Any], results: Results, summary: Summary) -> list[Html]:
    parts = [text("h1", QUESTION), text("p", answer(summary), style="answer")]
    parts += [text("p", note, style="note") for note in config.get("notes", [])]
    accuracies, *others = tables(summary)
    for one in (accuracies, *others):
        parts.append(text("h2", one.title))
        parts.append(table(one.header, one.rows, n_left=2, styles=one.styles))
    parts.append(text("p", _PROTOCOL, style="note"))
    parts += _pictures(root, results, summary)
    parts += [text("h2", "Settings"), *_settings(config)]
    return parts


def _pictures(root: Path, results: Results, summary: Summary) -> list[Html]:
    bars = (
        ""
        if summary.n_seeds == 1
        else " Bars: left and middle, lowest to highest seed; right, 95 % interval over paired "
        "seeds."
    )
    parts = [
        text("h2", "Accuracy against sparsity"),
        figure(
            accuracy_picture(summary),
            f"Means over corruptions, severities and seeds.{bars}",
            description="Accuracy of each arm against its sparsity",
        ),
    ]
    sparsities = sorted({arm.sparsity for arm in summary.arms if arm.method != "dense"})
    accuracies = accuracies_by_arm(results.results)
    gains = [(s, gain_picture(summary, accuracies, sparsity=s)) for s in sparsities]
    curves = [(s, curve_picture(results.curves, sparsity=s)) for s in sparsities or [0.0]]
    for title, caption, pictures in (
        (
            "Gain for each corruption and severity",
            "Accuracy less that of dense training, mean over paired seeds. Blue: the arm is "
            "better; red: dense training is.",
            gains,
        ),
        ("Training", "Means over the seeds, on training images.", curves),
    ):
        drawn = [(sparsity, svg) for sparsity, svg in pictures if svg is not None]
        if drawn:
            parts.append(text("h2", title))
        for sparsity, svg in drawn:
            what = f"Sparsity {sparsity:g}. {caption}"
            shown = figure(svg, what, description=f"{title}, sparsity {sparsity:g}")
            parts.append(shown if len(drawn) == 1 else details(f"Sparsity {sparsity:g}", shown))
    examples = example_picture(read_examples(root), summary)
    if examples is not None:
        caption = "The first test image, clean and under every corruption of the study."
        parts.append(text("h2", "Corruptions"))
        parts.append(figure(examples, caption, description="Examples of the corruptions"))
    return parts


def _settings(config: dict[str, Any]) -> list[Html]:
    entries = list(_flat(config.get("settings", {})))
    entries += _flat({name: config.get(name) for name in ("weight_steps", "rewiring", "widths")})
    environment = list(_flat(config.get("environment", {})))
    n_sums = sum(len(sets) for sets in config.get("checksums", {}).values())
    if n_sums:
        entries.append(("corrupted sets", f"{n_sums}, their SHA-256 in config.json"))
    return [definitions(entries), details("Versions and machine", definitions(environment))]


def _flat(value: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Settings as term and text, those of an inner dict behind its name."""
    entries: list[tuple[str, str]] = []
    for name, item in value.items():
        term = f"{prefix}{name.replace('_', ' ')}"
        if isinstance(item, dict):
            entries += _flat(item, f"{term}: ")
        elif isinstance(item, list):
            entries.append((term, ", ".join(map(str, item))))
        elif item is not None:
            entries.append((term, str(item)))
    return entries
