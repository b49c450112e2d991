import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrow.accounting import in_units, text_table


def test_table_by_hand():
    rows = [("a", "1", "x"), ("long name", "1,000", "")]
    assert text_table(("name", "n", "why"), rows, last_left=True) == (
        "name           n  why\n"
        "---------  -----  ---\n"
        "a              1  x\n"
        "long name  1,000"
    )  # fmt: skip
    one = text_table(("n", "m", "why"), [("1", "22", "x")], n_left=0)
    assert one.splitlines()[2] == "1  22    x"


def test_titles_of_several_lines():
    table = text_table(["arm", "accuracy\nin %"], [["dense", "9.5"], ["set", "10.25"]])
    assert table == (
        "       accuracy\narm        in %\n-----  --------\ndense       9.5\nset       10.25"
    )


def test_table_without_rows():
    assert text_table(("a", "b"), []) == "a  b\n-  -"


def test_rows_of_another_length():
    with pytest.raises(ValueError, match="3 columns, the header 2"):
        text_table(("a", "b"), [("1", "2", "3")])


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"), (7, "7"), (999, "999"), (999.4, "999"), (1000, "1 k"), (999_499, "999 k"),
        (999_500, "1 M"), (8_178_368_512, "8.18 G"), (3.2e18, "3.2e+03 P"), (12.34, "12.3"),
        (-8_178_368_512, "-8.18 G"),
    ],
)  # fmt: skip
def test_numbers_with_prefixes(number, text):
    assert in_units(number) == text


def test_numbers_with_units():
    assert in_units(23_683_644, "B") == "23.7 MB"
    assert in_units(12, "B") == "12 B"


@given(st.integers(1, 10**17))
def test_three_digits_are_kept(number):
    digits, _, prefix = in_units(number).partition(" ")
    scale = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}[prefix]
    assert float(digits) * scale == pytest.approx(number, rel=0.0051)
