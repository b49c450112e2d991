import numpy as np
import pytest

from regrow.study import _atomic as atomic
from regrow.study import read_json, write_array, write_arrays, write_bytes, write_json, write_text


def files(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_files_are_written_whole_and_nothing_is_left_beside_them(tmp_path):
    write_text(tmp_path / "new" / "a.txt", "grüße\r\n")
    write_bytes(tmp_path / "b.bin", b"\x00\xff")
    write_json(tmp_path / "c.json", {"b": [1, 2.5, None, True], "a": "ü"})
    write_array(tmp_path / "d.npy", np.arange(6).reshape(2, 3))
    write_arrays(tmp_path / "e.npz", {"x-1": np.eye(2), "y": np.zeros(0, np.uint8)})
    assert (tmp_path / "new" / "a.txt").read_bytes() == "grüße\r\n".encode()
    assert (tmp_path / "b.bin").read_bytes() == b"\x00\xff"
    assert read_json(tmp_path / "c.json") == {"b": [1, 2.5, None, True], "a": "ü"}
    assert (np.load(tmp_path / "d.npy") == np.arange(6).reshape(2, 3)).all()
    with np.load(tmp_path / "e.npz") as arrays:
        assert arrays.files == ["x-1", "y"]
        assert arrays["y"].dtype == np.uint8
    assert files(tmp_path) == ["a.txt", "b.bin", "c.json", "d.npy", "e.npz"]


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_write_that_breaks_off_leaves_the_old_file(tmp_path, monkeypatch, moment):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail(*args, **kwargs):
        raise OSError("no space left")

    monkeypatch.setattr(atomic.os if moment == "fsync" else type(path), moment, fail)
    with pytest.raises(OSError, match="no space"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert files(tmp_path) == ["a.txt"]


def test_content_is_on_the_disk_before_the_name_changes(tmp_path, monkeypatch):
    calls = []
    kind = type(tmp_path)
    fsync, replace = atomic.os.fsync, kind.replace
    monkeypatch.setattr(atomic.os, "fsync", lambda fd: (calls.append("fsync"), fsync(fd)))
    monkeypatch.setattr(kind, "replace", lambda a, b: (calls.append("replace"), replace(a, b)))
    write_text(tmp_path / "a.txt", "x")
    assert calls == ["fsync", "replace"]


def test_leftovers_of_killed_writers_are_removed_and_nothing_else(tmp_path):
    (tmp_path / "cells").mkdir()
    for name in (".a.json.1.partial", "cells/.b.csv.7.partial", "cells/b.csv", ".h", "x.partial"):
        (tmp_path / name).write_text("x")
    atomic.remove_partial_files(tmp_path)
    assert files(tmp_path) == [".h", "b.csv", "x.partial"]


def test_json_that_is_damaged_or_not_a_number_is_refused(tmp_path):
    (tmp_path / "a.json").write_text('{"a": 1')
    with pytest.raises(ValueError, match=r"a\.json holds no JSON"):
        read_json(tmp_path / "a.json")
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "b.json", {"a": float("nan")})
    assert not (tmp_path / "b.json").exists()
    with pytest.raises(ValueError, match="allow_pickle"):
        write_array(tmp_path / "c.npy", np.array([object()]))
