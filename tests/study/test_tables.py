import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrow.study import read_csv, write_csv

fields = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\r\0"))


@given(rows=st.lists(st.fixed_dictionaries({"a": fields, "b": st.floats(allow_nan=False)})))
def test_rows_come_back_whatever_they_hold(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    write_csv(path, rows, columns=["b", "a"])
    back = read_csv(path, columns=["a", "b"])
    assert [(row["a"], float(row["b"])) for row in back] == [(row["a"], row["b"]) for row in rows]


def test_none_is_an_empty_field_and_columns_keep_their_order(tmp_path):
    write_csv(tmp_path / "t.csv", [{"x": None, "y": 0.1}], columns=["y", "x"])
    assert (tmp_path / "t.csv").read_text() == "y,x\n0.1,\n"


def test_rows_with_other_columns_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"a row has columns \['x'\]"):
        write_csv(tmp_path / "t.csv", [{"x": 1}], columns=["x", "y"])
    assert not (tmp_path / "t.csv").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [("a\n1\n", "lacks the columns b"), ("a,b\n1\n", "line 2"), ("a,b\n1,2,3\n", "line 2")],
)
def test_damaged_tables_are_refused(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_csv(tmp_path / "t.csv", columns=["a", "b"])
