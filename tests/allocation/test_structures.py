"""Whole numbers of units where layers have structures: steps, mixtures, and what fixes itself."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import sparsities, structured, topologies
from structure_cases import CASES

from regrow.allocation import allocate_counts, erdos_renyi_kernel, explicit, uniform
from regrow.errors import InfeasibleSparsityError, SparsityError
from regrow.topology import (
    NM,
    Block,
    ConstantFanIn,
    InChannel,
    Kernel,
    OutChannel,
    Topology,
    Transposed,
    Unstructured,
    random_topology,
    unit_size,
)

RULES = {"uniform": uniform(), "erk": erdos_renyi_kernel()}


@st.composite
def structured_models(draw, *, fixed=None):
    """Name -> shape and name -> structure; with ``fixed`` only those (not) fixing their own."""
    chosen = draw(st.lists(structured(fixed=fixed), min_size=1, max_size=6))
    shapes = {f"l{i}": shape for i, (_, shape) in enumerate(chosen)}
    return shapes, {f"l{i}": structure for i, (structure, _) in enumerate(chosen)}


def step_of(structure, shape):
    """Elements that a layer's count moves by at the least."""
    n = structure.n_groups(shape) if structure.even_groups else 1
    return n * unit_size(structure, shape)


def allocated(shapes, sparsity, rule, structures):
    """Counts, or None where a layer would get nothing."""
    try:
        return allocate_counts(shapes, sparsity, rule, structure=structures)
    except InfeasibleSparsityError as error:
        least = error.largest_feasible
        assert least is not None
        assert min(allocate_counts(shapes, least, rule, structure=structures).values()) >= 1
        return None


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=200)
@given(structured_models(fixed=False), sparsities)
def test_the_total_is_within_half_a_step_of_the_budget(rule, model, sparsity):
    shapes, structures = model
    counts = allocated(shapes, sparsity, RULES[rule], structures)
    if counts is None:
        return
    assert list(counts) == list(shapes)
    budget = (1 - sparsity) * sum(math.prod(shape) for shape in shapes.values())
    live = sum(n * unit_size(structures[name], shapes[name]) for name, n in counts.items())
    largest = max(step_of(structures[name], shapes[name]) for name in shapes)
    assert abs(live - budget) <= max(largest / 2, 0.5) + 0.5
    for name, count in counts.items():
        structure, shape = structures[name], shapes[name]
        assert type(count) is int
        assert 1 <= count <= structure.n_units(shape)
        if structure.even_groups:
            assert count % structure.n_groups(shape) == 0, "a whole number for each group"
        if rule == "uniform":
            share = (1 - sparsity) * structure.n_units(shape)
            step = structure.n_groups(shape) if structure.even_groups else 1
            assert abs(count - share) <= step + 1e-6
        topology = random_topology(
            shape, count, generator=torch.Generator().manual_seed(0), structure=structure
        )
        assert topology.n_active == count


@pytest.mark.parametrize(
    "name", [n for n, c in CASES.items() if c.structure.fixed_sparsity is None]
)
@given(st.integers(1, 5), sparsities)
def test_layers_of_one_kind_come_as_near_as_steps_allow(name, n, sparsity):
    case = CASES[name]
    shapes = {f"l{i}": case.fits[0] for i in range(n)}
    structures = dict.fromkeys(shapes, case.structure)
    counts = allocated(shapes, sparsity, uniform(), structures)
    if counts is None:
        return
    size = unit_size(case.structure, case.fits[0])
    budget = round((1 - sparsity) * sum(math.prod(shape) for shape in shapes.values()))
    step = step_of(case.structure, case.fits[0])
    assert abs(sum(counts.values()) * size - budget) <= step / 2
    assert max(counts.values()) - min(counts.values()) <= step // size


def test_steps_by_hand():
    """Rows of 4 and 6 outputs: at 0.7 shares of 9.6 and 10.8 weights, 2.4 and 1.8 for each row."""
    shapes = {"a": (4, 8), "b": (6, 6)}
    counts = allocate_counts(shapes, 0.7, uniform(), structure=ConstantFanIn())
    # 20.4 in all: 8 + 6 = 14 with rows of 2 and 1; 6 more go to b, whose remainder is larger.
    assert counts == {"a": 8, "b": 12}
    # Kernels of nine and single weights: 14.4 of 144 and 1.6 of 16. One kernel and one weight
    # make 10 of 16; a second kernel would come 3 above, another weight 5 below.
    shapes = {"conv": (4, 4, 3, 3), "fc": (4, 4)}
    assert allocate_counts(shapes, 0.9, uniform(), structure=Kernel()) == {"conv": 2, "fc": 1}


# -- what fixes itself -----------------------------------------------------------------------


@given(structured_models(), sparsities)
def test_layers_that_fix_themselves_do_and_the_others_meet_the_sparsity(model, sparsity):
    shapes, structures = model
    free = {n: shapes[n] for n in shapes if structures[n].fixed_sparsity is None}
    budget = (1 - sparsity) * sum(math.prod(shape) for shape in free.values())
    if not free or abs(budget % 1 - 0.5) < 1e-6:
        return  # half an element rounds to even, and what fixes itself may make it odd
    counts = allocated(shapes, sparsity, erdos_renyi_kernel(), structures)
    alone = allocated(free, sparsity, erdos_renyi_kernel(), {n: structures[n] for n in free})
    assert (counts is None) == (alone is None)
    if counts is None:
        return
    assert {n: counts[n] for n in free} == alone
    for name in shapes.keys() - free.keys():
        case = structures[name]
        assert counts[name] == round((1 - case.fixed_sparsity) * math.prod(shapes[name]))


@given(structured_models(fixed=True))
def test_where_all_fix_themselves_no_sparsity_is_needed(model):
    shapes, structures = model
    counts = allocate_counts(shapes, None, erdos_renyi_kernel(), structure=structures)
    live = sum(counts.values())
    n_all = sum(math.prod(shape) for shape in shapes.values())
    said = 1 - live / n_all
    assert allocate_counts(shapes, said, uniform(), structure=structures) == counts
    for wrong in (0.97, 0.6, 0.1234):
        if round(n_all * (1 - wrong)) == live:
            continue  # so small that it comes to the same
        with pytest.raises(SparsityError, match=rf"sparsity={wrong:g}, but .*pass sparsity=None"):
            allocate_counts(shapes, wrong, uniform(), structure=structures)


def test_none_is_not_enough_where_one_does_not_fix_itself():
    shapes = {"a": (4, 8), "b": (4, 8)}
    structures = {"a": NM(2, 4), "b": Unstructured()}
    with pytest.raises(SparsityError, match="does not fix it"):
        allocate_counts(shapes, None, uniform(), structure=structures)


def test_rules_that_contradict_a_structure():
    shapes = {"a": (4, 8), "b": (4, 8)}
    structures = {"a": NM(1, 4), "b": Block(2, 2)}
    message = r"explicit.* gives 'a' a sparsity of 0\.5, where NM\(n=1, m=4\) fixes 0\.75"
    with pytest.raises(SparsityError, match=message):
        allocate_counts(shapes, None, explicit({"a": 0.5, "b": 0.5}), structure=structures)
    kept = allocate_counts(shapes, None, explicit({"a": 0.75, "b": 0.5}), structure=structures)
    assert kept == {"a": 8, "b": 4}


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(SparsityError, match="inputs that 4 divides"):
        allocate_counts({"a": (4, 6)}, None, uniform(), structure=NM(2, 4))


# -- topologies that are given ---------------------------------------------------------------


@given(st.lists(topologies(), min_size=1, max_size=4))
def test_given_topologies_have_the_counts_they_have(listed):
    """Empty groups beside even ones included."""
    given_ = {f"l{i}": one for i, one in enumerate(listed)}
    shapes = {name: one.shape for name, one in given_.items()}
    structures = {name: one.structure for name, one in given_.items()}
    if min(one.n_active for one in listed) == 0:
        with pytest.raises(InfeasibleSparsityError, match="lower sparsity"):
            allocate_counts(shapes, None, explicit(given_), structure=structures)
        return
    counts = {name: one.n_active for name, one in given_.items()}
    assert allocate_counts(shapes, None, explicit(given_), structure=structures) == counts
    n_all = sum(one.n_elements for one in listed)
    live = sum(one.nnz for one in listed)
    sparsity = 1 - live / n_all
    assert allocate_counts(shapes, sparsity, explicit(given_), structure=structures) == counts


def test_a_given_topology_does_not_take_what_rounding_leaves_to_others():
    """Half of 3 x 3 in rows: 4.5, and rows of one or two; the given layer keeps its 5."""
    given_ = Topology(torch.arange(5), (3, 3))
    rule = explicit({"given": given_, "rows": 0.5})
    shapes = {"given": (3, 3), "rows": (3, 3)}
    structures = {"given": Unstructured(), "rows": ConstantFanIn()}
    assert allocate_counts(shapes, None, rule, structure=structures)["given"] == 5


# -- what cannot be met ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("structure", "shape", "boundary"),
    [
        # Half a step rounds up: of 4 rows of 10, two units; of one channel of 8, half.
        (ConstantFanIn(), (4, 10), 1 - 2 / 40),
        (OutChannel(), (8, 5), 1 - 2.5 / 40),
        (Kernel(per_output=True), (4, 10, 3, 3), 1 - 18 / 360),
        (Block(4, 5), (4, 10), 1 - 10 / 40),
    ],
)
def test_the_largest_feasible_sparsity_of_a_structure(structure, shape, boundary):
    with pytest.raises(InfeasibleSparsityError, match="leaves no connection in only") as caught:
        allocate_counts({"only": shape}, 0.999, uniform(), structure=structure)
    largest = caught.value.largest_feasible
    assert abs(largest - boundary) <= 0.5 / math.prod(shape) + 2e-6
    counts = allocate_counts({"only": shape}, largest, uniform(), structure=structure)
    assert counts["only"] == (structure.n_groups(shape) if structure.even_groups else 1)


def test_the_largest_feasible_sparsity_is_feasible_though_one_below_may_not_be():
    """Found by a search: of the channels and kernels one or the other gets what rounding leaves."""
    shapes = {"l0": (8, 12, 1, 2, 1), "l1": (8, 6)}
    structures = {
        "l0": Transposed(InChannel(), 4),
        "l1": Transposed(Kernel(per_output=True), 4),
    }
    sparsity = 0.8204345806718587
    with pytest.raises(InfeasibleSparsityError) as caught:
        allocate_counts(shapes, sparsity, uniform(), structure=structures)
    largest = caught.value.largest_feasible
    assert 0.5 < largest < sparsity
    assert min(allocate_counts(shapes, largest, uniform(), structure=structures).values()) >= 1
