import pytest

from regrow.study import Cell, StudyFolder, open_study

SETTINGS = {"methods": ["dense", "set"], "recipe": {"epochs": 2, "lr": 0.1}, "seeds": 3}
CELL = Cell("set", 0.5, 0)


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_study_starts_in_a_new_or_empty_folder(tmp_path):
    for out in (tmp_path / "a" / "b", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        folder = open_study(out, SETTINGS)
        assert folder.read_config() == {"settings": SETTINGS}
    open_study(tmp_path / "new", SETTINGS, resume=True)


def test_a_study_is_gone_on_with_only_when_asked_and_only_with_its_settings(tmp_path):
    folder = open_study(tmp_path, SETTINGS)
    folder.update_config(notes=["n"])
    folder.finish(CELL, {"accuracy": 0.5})
    before = contents(tmp_path)
    with pytest.raises(FileExistsError, match="already holds this study: go on with it"):
        open_study(tmp_path, SETTINGS)
    other = {**SETTINGS, "recipe": {"epochs": 3, "lr": 0.1}, "seeds": 5, "amp": True}
    with pytest.raises(
        ValueError,
        match=r"recipe\.epochs is 2 there and 3 here; seeds is 3 there and 5 here; "
        "amp is None there and True here",
    ):
        open_study(tmp_path, other, resume=True)
    assert contents(tmp_path) == before
    again = open_study(tmp_path, SETTINGS, resume=True)
    assert again.is_done(CELL)
    assert again.read_result(CELL) == {"cell": vars(CELL), "accuracy": 0.5}
    assert not again.is_done(Cell("set", 0.5, 1))
    assert again.read_config() == {"settings": SETTINGS, "notes": ["n"]}


def test_other_peoples_files_are_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    for resume in (False, True):
        with pytest.raises(FileExistsError, match="not empty and holds no study"):
            open_study(tmp_path, SETTINGS, resume=resume)
    with pytest.raises(FileExistsError, match="is a file"):
        open_study(tmp_path / "thesis.tex", SETTINGS)
    assert list(contents(tmp_path)) == [tmp_path / "thesis.tex"]


def test_leftovers_of_a_killed_writer_do_not_count(tmp_path):
    (tmp_path / ".config.json.77.partial").write_text("{")
    open_study(tmp_path, SETTINGS)
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


def test_damaged_or_foreign_files_are_named(tmp_path):
    folder = StudyFolder(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"holds no study: there is no config\.json"):
        folder.read_config()
    folder.config.write_text("[]")
    with pytest.raises(ValueError, match="no study's configuration"):
        folder.read_config()
    folder.finish(CELL, {})
    other = Cell("set", 0.5, 9)
    folder.cell(CELL).rename(folder.cell(other))
    with pytest.raises(ValueError, match=r"not the result of set-sparsity0\.5-seed9"):
        folder.read_result(other)
