"""JSON and tables cut short, with bits flipped, or with lies in them: one clear error.

It names the file, and what a report is made of is refused before anything is written.
"""

import contextlib
import copy
import json

import numpy as np
import pytest
from damage import damaged, damages, places, read_or_refuse
from hypothesis import given, settings
from hypothesis import strategies as st

from regrow.robustness import Results, read_results, write_report
from regrow.robustness._config import read_config
from regrow.robustness._examples import read_examples
from regrow.robustness._presentation import terminal_text
from regrow.robustness._results import write_results
from regrow.robustness._rows import check_accuracies
from regrow.robustness._summary import summarise
from regrow.study import StudyFolder, read_csv, read_json, write_arrays, write_json


@pytest.mark.parametrize(
    "text",
    ["", "{", "[" * 100_000, "[" * 60 + "]" * 60, '{"a":' * 200 + "1" + "}" * 200, "NaN",
     "[1e999]", "-Infinity", "1" * 5000, '"\\ud800"', '{"\\udfff": 1}', "\ufeff{}", "{'a': 1}",
     "\x00", '{"a": 1,}'],
)  # fmt: skip
def test_json_that_is_none(folder, text):
    path = folder / "bad.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"bad\.json holds no JSON"):
        read_json(path)


def test_json_of_any_kind_is_read_as_it_was_written(folder):
    value = {"a": [1, 2.5, None, True, {"ü": "\n"}], "b": -(10**30), "": []}
    write_json(folder / "good.json", value)
    assert read_json(folder / "good.json") == value


@pytest.mark.parametrize(
    "text",
    ["", "a\n1", "a,a,b\n1,2,3", 'a,b\n"1,2', "a,b\n1", "a,b\n1,2,3", 'a,b\n1,"' + "x" * 200_000,
     'a,b\n1,2"3"4\n"5"6,7'],
)  # fmt: skip
def test_tables_that_are_none(folder, text):
    path = folder / "bad.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"bad\.csv"):
        read_csv(path, columns=["a", "b"])
    path.write_bytes(b"a,b\n\xff\xfe,2\n")
    with pytest.raises(ValueError, match=r"bad\.csv"):
        read_csv(path, columns=["a", "b"])


def results(n_seeds=2):
    accuracies, runs, curves = [], [], []
    for method, sparsity in (("dense", 0.0), ("rigl", 0.5)):
        for seed in range(n_seeds):
            head = {"data": "bars", "model": "net", "method": method, "sparsity": sparsity,
                    "seed": seed}  # fmt: skip
            accuracies += [
                {**head, "corruption": kind, "severity": severity, "accuracy": 0.5, "n_images": 9}
                for kind, severity in (("clean", 0), ("fog", 1))
            ]
            names = ["nnz", "parameters", "live_parameters", "rewirings", "weight_steps",
                     "training_flops", "inference_flops", "bytes"]  # fmt: skip
            shares = dict.fromkeys(["counted_sparsity", "exploration", "seconds"], 0.5)
            runs.append({**head, **dict.fromkeys(names, 7), **shares})
            curves.append({**head, "epoch": 1, "loss": 1.0, "accuracy": 0.5, "lr": 0.1,
                           "rewirings": 1, "exploration": 0.6})  # fmt: skip
    return Results(accuracies, runs, curves)


CONFIG = {
    "settings": {"study": "robustness", "data": {"name": "bars"}, "severities": [1]},
    "environment": {"versions": {"torch": "2"}},
    "sessions": [{"versions": {"torch": "2"}}],
    "threads": 2,
    "weight_steps": 6,
    "rewiring": None,
    "widths": {"0.5": [3, 4]},
    "notes": ["Without frost: there is no folder of it."],
    "checksums": {"seed 0": {"fog-1": "0" * 64}},
}


@pytest.fixture(scope="module")
def study(folder):
    root = folder / "study"
    root.mkdir()
    write_results(results(), root)
    write_json(root / "config.json", CONFIG)
    image = np.full((32, 32, 3), 7, dtype=np.uint8)
    write_arrays(root / "examples.npz", {"clean-0": image, "fog-1": image})
    return root


CELL_JUNK = ["", "nan", "inf", "-1", "1e400", "9" * 5000, "x", "0.5", "dense", "rigl", "2", "\x00",
             "\u0663", "a" * 1000, "99", "<b>", "clean", "fog", "1_0", "1e300"]  # fmt: skip


@settings(max_examples=150)
@given(data=st.data())
def test_mutated_tables_are_refused_or_summarised(folder, study, data):
    root = folder / "tables"
    root.mkdir(exist_ok=True)
    name = data.draw(st.sampled_from(["results.csv", "runs.csv", "curves.csv"]))
    for one in ("results.csv", "runs.csv", "curves.csv"):
        (root / one).write_bytes((study / one).read_bytes())
    if data.draw(st.booleans()):
        (root / name).write_bytes(damaged((study / name).read_bytes(), data.draw(damages)))
    else:
        lines = (study / name).read_text().splitlines()
        row = data.draw(st.integers(1, len(lines) - 1))
        fields = lines[row].split(",")
        fields[data.draw(st.integers(0, len(fields) - 1))] = data.draw(st.sampled_from(CELL_JUNK))
        lines[row] = ",".join(fields)
        (root / name).write_text("\n".join(lines) + "\n")
    found = read_or_refuse(lambda: read_results(root), name)
    if found is not None:
        # Runs that cannot be compared are refused too, by a sentence that names no file.
        with contextlib.suppress(ValueError):
            terminal_text(summarise(found))


def set_at(value, path, new):
    value = copy.deepcopy(value)
    parent = value
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = new
    return value


@pytest.mark.parametrize(
    "junk", [None, 3, "x", [], [3], {"a": 3}, {"a": [None]}, True, [[[]]]], ids=repr
)
def test_configurations_with_junk_are_refused_or_shown(folder, junk):
    from regrow.robustness._report import _settings

    root = folder / "configured"
    root.mkdir(exist_ok=True)
    for path in places(CONFIG):
        write_json(root / "config.json", set_at(CONFIG, path, junk))
        config = read_or_refuse(lambda: read_config(StudyFolder(root)), "config.json")
        if config is not None:
            _settings(config)
            assert all(isinstance(note, str) for note in config.get("notes", []))


@settings(max_examples=8)
@given(
    changes=damages,
    name=st.sampled_from(["results.csv", "config.json", "curves.csv", "examples.npz"]),
)
def test_a_report_is_whole_or_as_it_was(folder, study, changes, name):
    root = folder / "report"
    root.mkdir(exist_ok=True)
    for path in study.iterdir():
        (root / path.name).write_bytes(path.read_bytes())
    (root / "report.html").write_text("as it was")
    (root / name).write_bytes(damaged((study / name).read_bytes(), changes))
    before = sorted(path.name for path in root.iterdir())
    try:
        write_report(root)
    except ValueError:
        assert (root / "report.html").read_text() == "as it was"
    else:
        assert (root / "report.html").read_text().rstrip().endswith("</html>")
    assert sorted(path.name for path in root.iterdir()) == before


def test_the_command_says_in_one_line_what_is_wrong(folder, study):
    from click.testing import CliRunner

    from regrow.cli._report import report

    root = folder / "commanded"
    root.mkdir()
    for path in study.iterdir():
        (root / path.name).write_bytes(path.read_bytes())
    for name, content in (
        ("examples.npz", b"PK\x03\x04 nonsense"),
        ("config.json", b"[" * 10**5),
        ("runs.csv", b"\xff\xfe\x00"),
        ("results.csv", b"x" * 200_000),
    ):
        kept = (root / name).read_bytes()
        (root / name).write_bytes(content)
        result = CliRunner().invoke(report, [str(root)])
        assert result.exit_code == 2
        assert name in result.output
        assert len(result.output.strip().splitlines()) == 1
        assert not (root / "report.html").exists()
        (root / name).write_bytes(kept)


@settings(max_examples=100)
@given(rows=st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["corruption", "severity", "accuracy"]), inner),
    ),
))  # fmt: skip
def test_measurements_of_an_earlier_session(rows):
    try:
        checked = check_accuracies(rows)
    except ValueError:
        return
    assert all(set(row) == {"corruption", "severity", "accuracy"} for row in checked)
    assert all(0 <= row["accuracy"] <= 1 and 0 <= row["severity"] <= 5 for row in checked)


def test_what_was_read_is_as_json_says(study):
    """The files here are whole: else every test above could pass by refusing all."""
    assert read_config(StudyFolder(study)) == json.loads((study / "config.json").read_text())
    assert len(read_results(study).results) == 8
    assert len(read_examples(study)) == 2
    assert "rigl" in terminal_text(summarise(read_results(study)))
