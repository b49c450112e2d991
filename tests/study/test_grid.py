import pytest

from regrow.study import Cell, grid


def test_a_grid_is_listed_seed_by_seed_and_dense_only_once_a_seed():
    cells = grid(["dense", "rigl"], [0.3, 0.5], seeds=[0, 7])
    assert cells == [
        Cell("dense", 0.0, 0),
        Cell("rigl", 0.3, 0),
        Cell("rigl", 0.5, 0),
        Cell("dense", 0.0, 7),
        Cell("rigl", 0.3, 7),
        Cell("rigl", 0.5, 7),
    ]
    assert len({cell.name for cell in cells}) == len(cells)


def test_names_tell_close_sparsities_apart():
    near = 0.1 + 0.2
    assert Cell("set", 0.3, 0).name != Cell("set", near, 0).name
    assert Cell("set", 0.3, 0).name == "set-sparsity0.3-seed0"


@pytest.mark.parametrize(
    ("methods", "sparsities", "seeds", "message"),
    [
        ([], [0.5], [0], "methods is empty"),
        (["set"], [], [0], "sparsities is empty"),
        (["set"], [0.5], [], "seeds is empty"),
        (["set", "set"], [0.5], [0], "only once"),
        (["set"], [0.5, 0.5], [0], "only once"),
        (["set"], [0.5], [1, 1], "only once"),
        (["set"], [1.0], [0], r"sparsity must lie in \[0, 1\)"),
        (["set"], [0.5], [-1], "seed must be at least 0"),
    ],
)
def test_bad_grids_are_refused(methods, sparsities, seeds, message):
    with pytest.raises(ValueError, match=message):
        grid(methods, sparsities, seeds=seeds)
