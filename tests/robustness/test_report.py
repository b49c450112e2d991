import re
import shutil

import pytest

from regrow.robustness import write_report
from regrow.robustness._examples import read_examples

HEADINGS = [
    "Accuracy in % on corrupted and on clean images, mean of 2 seeds",
    "Difference to dense training in percentage points",
    "Difference to static sparse training in percentage points",
    "Costs of a run",
    "Accuracy against sparsity",
    "Gain for each corruption and severity",
    "Training",
    "Corruptions",
    "Settings",
]


def test_the_page_is_made_again_from_the_files_alone(study, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(study.folder, copy, ignore=shutil.ignore_patterns("cells", "report.html"))
    assert write_report(copy) == copy / "report.html"
    page = (copy / "report.html").read_text()
    assert page == study.report.read_text()
    for heading in HEADINGS:
        assert heading in page
    assert page.count("<img ") == 4
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "<script" not in page
    for method in ("mest-random", "granet-gradient", "dense-equal-parameters"):
        assert method in page


def test_a_page_without_curves_and_examples_lacks_only_those(study, tmp_path):
    for name in ("config.json", "results.csv", "runs.csv"):
        shutil.copy(study.folder / name, tmp_path / name)
    page = write_report(tmp_path).read_text()
    assert page.count("<img ") == 2
    assert "Costs of a run" in page


def test_several_sparsities_are_folded(study, tmp_path, make_results):
    from regrow.robustness._results import write_results

    arms = {("dense", 0.0): {0: (0.9, 0.5, 0.4)}}
    for sparsity in (0.3, 0.5):
        arms["set", sparsity] = {0: (0.9, 0.6, 0.4)}
    write_results(make_results(arms), tmp_path)
    shutil.copy(study.folder / "config.json", tmp_path / "config.json")
    page = write_report(tmp_path).read_text()
    assert "<summary>Sparsity 0.3</summary>" in page
    assert "<summary>Sparsity 0.5</summary>" in page
    assert "one seed" in page


def test_folders_without_a_study_are_named(tmp_path, study):
    with pytest.raises(FileNotFoundError, match="holds no study"):
        write_report(tmp_path)
    shutil.copy(study.folder / "config.json", tmp_path / "config.json")
    with pytest.raises(FileNotFoundError, match=r"results\.csv"):
        write_report(tmp_path)
    shutil.copy(study.folder / "runs.csv", tmp_path / "runs.csv")
    text = (study.folder / "results.csv").read_text()
    (tmp_path / "results.csv").write_text(text.replace(",brightness,1,", ",brightness,one,"))
    with pytest.raises(ValueError, match=r"results\.csv, line \d+: invalid literal"):
        write_report(tmp_path)
    (tmp_path / "results.csv").write_text(text.splitlines()[0] + "\n")
    with pytest.raises(ValueError, match="no run is complete"):
        write_report(tmp_path)
    (tmp_path / "results.csv").write_text(text)
    (tmp_path / "examples.npz").write_bytes(b"PK nonsense")
    with pytest.raises(ValueError, match=r"examples\.npz is damaged"):
        write_report(tmp_path)


def test_examples_are_of_the_first_image(study, arrays):
    examples = read_examples(study.folder)
    assert (examples["clean", 0] == arrays[1][0][0]).all()
    assert len(examples) == 5
