"""Each example runs; counts and schedules of the published methods are those of their papers."""

import ast
import importlib.util
import math
import re
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import regrow

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
COMPOSITIONS = {
    "dsn_regions": "dsn",
    "e2enet_kernels": "e2enet",
    "freetickets": "edst",
    "itop": "itop",
    "nm_attention": "sparse",
    "slak": "slak",
    "sparsify_an_mlp": "sparse",
    "your_own_criterion": "sparse",
}
TINY = {
    "dsn_regions": {"n_features": 4, "n_epochs": 10, "steps_an_epoch": 2},
    "e2enet_kernels": {"n_epochs": 2, "steps_an_epoch": 2, "interval": 2, "side": 16},
    "freetickets": {"exploration_epochs": 3, "phase_epochs": 2, "interval": 4},
    "itop": {"n_epochs": 4, "steps_an_epoch": 4, "interval": 4},
    "nm_attention": {"n_layers": 1, "n_steps": 20, "interval": 5},
    "slak": {"n_epochs": 2, "steps_an_epoch": 2, "interval": 2, "side": 32},
    "sparsify_an_mlp": {"n_steps": 30, "interval": 5},
    "your_own_criterion": {"n_steps": 30, "interval": 5},
}


def example(name):
    """The example as a module, loaded once."""
    full = f"regrow_example_{name}"
    if full not in sys.modules:
        spec = importlib.util.spec_from_file_location(full, EXAMPLES / f"{name}.py")
        sys.modules[full] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[full])
    return sys.modules[full]


def settings(name, **changes):
    return replace(example(name).Settings(), **(TINY[name] | changes))


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


def n_planned(updater):
    return int(re.search(r"(\d+) rewirings planned", str(updater.plan()))[1])


def half_cosine(first, last, step, end):
    return last + (first - last) * (1 + math.cos(math.pi * min(step / end, 1))) / 2


@pytest.fixture
def drops(monkeypatch):
    """A list of (layer, units dropped, units active before) of each layer in each rewiring.

    Growth is asked for every unit that is free or was dropped: how many were dropped follows.
    """
    seen = []

    def spy_on(name):
        real = getattr(regrow.criteria, name)

        def function(layer, flat):
            topology = layer.topology
            n_free = topology.n_allowed - topology.n_active
            seen.append((layer.name, flat.numel() - n_free, topology.n_active))
            return real(layer, flat)

        spy = regrow.criteria.Score(
            name, function, reads_gradient=real.reads_gradient, by_unit=real.by_unit
        )
        monkeypatch.setattr(regrow.criteria, name, spy)

    spy_on("random")
    spy_on("gradient")
    return seen


def check_drops(drops, updater, fraction_at):
    """Every layer dropped ceil(fraction * active) units in every rewiring."""
    names = list(updater.topologies)
    expected = [(name, record.step) for record in updater.history for name in names]
    assert [name for name, _, _ in drops] == [name for name, _ in expected]
    assert [n for _, n, _ in drops] == [
        math.ceil(fraction_at(step) * n_active - 1e-9)
        for (_, step), (_, _, n_active) in zip(expected, drops, strict=True)
    ]


# -- all ---------------------------------------------------------------------------------------


def test_every_example_is_listed():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(COMPOSITIONS)
    index = (EXAMPLES / "README.md").read_text()
    assert all(f"({name}.py)" in index for name in COMPOSITIONS)


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_files_and_compositions_are_short(name):
    text = (EXAMPLES / f"{name}.py").read_text()
    assert len(text.splitlines()) < 200
    functions = {n.name: n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef)}
    composition = functions[COMPOSITIONS[name]]
    assert composition.end_lineno - composition.lineno + 1 <= 40
    # The whole of it: nothing is handed to a helper of the example's own.
    called = {n.id for n in ast.walk(composition) if isinstance(n, ast.Name)} & set(functions)
    assert called - {"relative_magnitude"} == set()


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_only_public_names_are_used(name):
    tree = ast.parse((EXAMPLES / f"{name}.py").read_text())
    used = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert all(
                alias.name.split(".")[0] != "regrow" or alias.name == "regrow"
                for alias in node.names
            )
        if isinstance(node, ast.ImportFrom):
            assert not node.module.startswith("regrow")
        if isinstance(node, ast.Attribute):
            assert not node.attr.startswith("_") or node.attr == "__init__"
            if ast.unparse(node).startswith("regrow."):
                used.add(ast.unparse(node))
    assert used
    for dotted in used:
        holder = regrow
        for part in dotted.split(".")[1:]:
            listed = getattr(holder, "__all__", None)
            is_module = part == "typing" and holder is regrow
            assert listed is None or part in listed or is_module, dotted
            holder = getattr(holder, part)


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_main_runs(name, capsys):
    result = example(name).main(settings(name))
    updater = result[0] if isinstance(result, tuple) else result
    assert capsys.readouterr().out
    assert updater.rewirings > 0
    for record in updater.history:
        assert record.nnz == tuple(t.nnz for t in updater.topologies.values())


@pytest.fixture
def rules(monkeypatch):
    """The rules that compositions make."""
    made, real = [], regrow.Rule
    monkeypatch.setattr(regrow, "Rule", lambda **parts: made.append(real(**parts)) or made[-1])
    return made


# Method -> published: settings, steps, first and last fraction, where the cosine ends, interval,
# rewirings.
PUBLISHED_SCHEDULES = {
    "e2enet_kernels": ("PUBLISHED", 250_000, 0.5, 0.001, 250_000, 1200, 208),
    "dsn_regions": ("PUBLISHED", 10_000, 0.5, 0.001, 8_000, 50, 200),  # epochs of ten batches
    "slak-t": ("TINY", 93_600, 0.5, 0.005, 93_600, 2000, 46),
    "slak-s": ("SMALL", 93_600, 0.3, 0.005, 93_600, 100, 936),
    "slak-b": ("BASE", 93_600, 0.3, 0.005, 93_600, 100, 936),
    "itop-set": ("PUBLISHED", 97_750, 0.5, 0.005, 97_750, 1500, 65),
    "itop-rigl": ("PUBLISHED_RIGL", 97_750, 0.5, 0.005, 97_750, 4000, 24),
}


@pytest.mark.parametrize("method", PUBLISHED_SCHEDULES)
def test_published_schedules(method, rules):
    """On a small model, every step of the whole training at which a rewiring is due."""
    name = method.partition("-")[0]
    which, n_steps, first, last, end, interval, n_rewirings = PUBLISHED_SCHEDULES[method]
    module = example(name)
    small, published = module.Settings(), getattr(module, which)
    sizes = {
        "e2enet_kernels": ("widths", "sparsity_of_48"),
        "dsn_regions": ("n_features",),
        "slak": ("widths", "width_factor", "kernels", "blocks", "n_classes", "batch_size", "side"),
        "itop": ("widths",),
    }[name]
    s = replace(published, **{key: getattr(small, key) for key in sizes})
    build = {"e2enet_kernels": "E2ENet", "dsn_regions": "DSN", "slak": "slak_net"}
    model = getattr(module, build.get(name, "network"))(s)
    batch = [module.pictures(s, torch.Generator().manual_seed(0))] if name == "slak" else []
    getattr(module, COMPOSITIONS[name])(model, sgd(model), *batch, s)
    (rule,) = rules
    assert list(rule.window.steps) == list(range(interval, n_steps + 1, interval))
    assert len(rule.window.steps) == n_rewirings
    for step in (1, *rule.window.steps, n_steps):
        expected = half_cosine(first, last, step, end)
        assert rule.drop_fraction(step) == pytest.approx(expected, rel=1e-9)
    grows = regrow.criteria.gradient if method == "itop-rigl" else regrow.criteria.random
    assert (rule.drop, rule.grow) == (regrow.criteria.magnitude, grows)
    assert (rule.target, rule.weight_step, rule.regrow) == (None, "before", "keep")


# -- E2ENet --------------------------------------------------------------------------------------

E2ENET_TABLE = [  # of the paper and its code: parameters, and those that are not zero
    ({}, 23_899_088, 11_229_255),  # AMOS, S = 0.7
    ({"sparsity": 0.9, "sparsity_of_48": None}, 23_899_088, 7_638_615),  # AMOS, S = 0.9
    ({"n_inputs": 4, "n_classes": 4, "sparsity_of_48": None}, 23_892_512, 11_245_449),  # BraTS
    ({"n_classes": 14, "sparsity_of_48": None}, 23_897_776, 11_250_713),  # BTCV
]


@pytest.mark.parametrize(("changes", "n_parameters", "n_live"), E2ENET_TABLE)
def test_e2enet_has_the_published_size(changes, n_parameters, n_live):
    module = example("e2enet_kernels")
    s = replace(module.PUBLISHED, **changes)
    model = module.E2ENet(s)
    assert sum(p.numel() for p in model.parameters()) == n_parameters
    updater = module.e2enet(model, sgd(model), s)
    topologies = updater.topologies
    assert len(topologies) == 35
    assert sum(t.n_elements for t in topologies.values()) == 18_067_200
    for topology in topologies.values():
        c0, c1 = topology.shape[:2]
        density = 0.2 if c0 == 48 and s.sparsity_of_48 is not None else 1 - s.sparsity
        assert topology.n_active == round(density * c0 * c1)
    assert n_parameters - 18_067_200 + updater.nnz == n_live
    assert n_planned(updater) == 208


def test_e2enet_moves_whole_kernels(drops, capsys):
    s = settings("e2enet_kernels", n_epochs=3)
    updater = example("e2enet_kernels").main(s)
    assert [record.step for record in updater.history] == [2, 4, 6]
    for topology in updater.topologies.values():
        by_kernel = topology.mask.flatten(2)
        assert torch.equal(by_kernel.any(2), by_kernel.all(2))
        assert int(by_kernel.all(2).sum()) == round(0.3 * math.prod(topology.shape[:2]))
    check_drops(drops, updater, lambda step: half_cosine(0.5, 0.001, step, 6))


def test_e2enet_shifts_groups_of_channels():
    """Group 0 sees the next slice, the last group the one before; zeros move in."""
    module = example("e2enet_kernels")
    x = torch.arange(1.0, 5.0).view(1, 1, 4, 1, 1)
    assert module.shift(x, -1).flatten().tolist() == [2, 3, 4, 0]
    assert module.shift(x, 1).flatten().tolist() == [0, 1, 2, 3]
    assert module.shift(x, 0).flatten().tolist() == [1, 2, 3, 4]


# -- DSN -----------------------------------------------------------------------------------------


def dsn_of(**changes):
    module = example("dsn_regions")
    s = replace(module.PUBLISHED, **changes)
    torch.manual_seed(0)
    model = module.DSN(s)
    optimizer = sgd(model)
    return s, model, optimizer, module.dsn(model, optimizer, s)


@pytest.mark.parametrize(
    ("changes", "n_parameters", "n_live", "first", "others"),
    [
        ({}, 802_153, 125_404, 732, 34_459),
        (
            {"n_features": 59, "n_inputs": 6, "n_classes": 4, "sparsity": 0.9},
            1_662_923,
            142_415,
            27_150,
            27_150,
        ),
    ],
)
@pytest.mark.parametrize("first_fill", ["tap_major", "random"])
def test_dsn_has_the_published_size(changes, n_parameters, n_live, first, others, first_fill):
    _, model, _, updater = dsn_of(first=first_fill, **changes)
    assert sum(p.numel() for p in model.parameters()) == n_parameters
    assert [t.nnz for t in updater.topologies.values()] == [first] + 3 * [others]
    n_sparse = sum(t.n_elements for t in updater.topologies.values())
    assert n_parameters - n_sparse + updater.nnz == n_live
    assert n_planned(updater) == 200


def test_dsn_fills_tap_by_tap():
    _, _, _, updater = dsn_of(n_features=5)
    mask = updater.topologies["convs.1.weight"].mask
    assert mask.shape == (15, 5, 39)
    for group, region in enumerate((13, 26, 39)):
        budget = int(5 * 5 * 39 * (region / 39) * 0.2)
        own = torch.zeros(5, 5, 39, dtype=torch.bool)
        for tap in range(39):
            for out in range(5):
                for source in range(5):
                    if budget > 0:
                        own[out, source, tap] = True
                        budget -= 1
        assert torch.equal(mask[5 * group : 5 * group + 5], own)


def test_dsn_draws_within_regions():
    *_, updater = dsn_of(n_features=5, first="random")
    groups = updater.topologies["convs.1.weight"].mask.chunk(3)
    for group, region in zip(groups, (13, 26, 39), strict=True):
        assert int(group.sum()) == int(5 * 5 * region * 0.2)
        assert not group[..., region:].any()
        taps = group.nonzero()[:, 2]
        assert taps.max() > region - 4  # by tap, it would be the first few
        assert taps.min() < 3


def test_dsn_rewires_each_group_within_its_region(monkeypatch, capsys):
    seen, real = [], regrow.criteria.random

    def function(layer, flat):
        topology = layer.topology
        n_in, n_taps = topology.shape[1:]
        group = flat // (n_in * n_taps) // (topology.shape[0] // 3)
        assert bool((flat % n_taps < 13 * (group + 1)).all())
        free = topology.room - topology.counts()
        n_dropped = group.bincount(minlength=3) - free
        seen.append((n_dropped.tolist(), topology.counts().tolist()))
        return real(layer, flat)

    spy = regrow.criteria.Score("random", function, by_unit=True)
    monkeypatch.setattr(regrow.criteria, "random", spy)
    s = settings("dsn_regions", n_epochs=20)
    updater = example("dsn_regions").main(s)
    assert [record.step for record in updater.history] == [10, 20, 30, 40]
    # To 0.001 over four fifths of the steps, then constant.
    fractions = [half_cosine(0.5, 0.001, step, 32) for step in (10, 20, 30, 40) for _ in range(4)]
    assert fractions[-1] == pytest.approx(0.001)
    assert len(seen) == 16
    for fraction, (dropped, counts) in zip(fractions, seen, strict=True):
        assert dropped == [math.ceil(fraction * n - 1e-9) for n in counts]
    n = 4 * 4 * 39 / 3 * 0.2
    assert updater.topologies["convs.1.weight"].counts().tolist() == [
        int(n),
        int(2 * n),
        int(3 * n),
    ]


def test_dsn_explores_as_its_logs_say():
    """0.1919 to 0.1921 of a layer after the first of 100 epochs' updates (a third party's logs)."""
    s, model, optimizer, updater = dsn_of(n_epochs=100, steps_an_epoch=1)
    module, generator = example("dsn_regions"), torch.Generator().manual_seed(0)
    for _ in range(5):
        inputs, labels = module.series(s, 2, generator)
        F.nll_loss(model(inputs), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert updater.rewirings == 1
    drop = half_cosine(0.5, 0.001, 5, 80)
    assert drop == pytest.approx(0.4952, abs=5e-5)
    d, region = 2 / 3 * 0.2, 2 / 3
    kept = d * (1 - drop)
    expected = d + (d - kept) * (region - d) / (region - kept)
    assert expected == pytest.approx(0.1921, abs=5e-5)
    explored = [row.exploration for row in updater.report().layers[1:]]
    assert sum(explored) / 3 == pytest.approx(expected, abs=3e-4)


# -- SLaK ----------------------------------------------------------------------------------------


def on_meta(s):
    with torch.device("meta"):
        return example("slak").slak_net(s)


def sparse_shapes(model):
    return {name: tuple(p.shape) for name, p in model.named_parameters() if p.dim() in (2, 4)}


@pytest.mark.parametrize(
    ("changes", "n_parameters", "n_sparse", "n_live"),
    [
        ({}, 50_703_838, 50_576_524, 30_473_228),
        ({"kernels": (31, 29, 27, 13)}, 49_581_838, 49_454_524, 29_800_028),
        ({"kernels": (61, 59, 57, 13)}, 51_264_838, 51_137_524, 30_809_828),
        ({"width_factor": 1.0}, 30_816_232, 30_717_984, None),
        (
            {"widths": (192, 384, 768, 1536), "blocks": (3, 3, 27, 3)},
            346_624_518,
            346_119_302,
            208_176_797,
        ),
    ],
)
def test_slak_has_the_published_size(changes, n_parameters, n_sparse, n_live):
    model = on_meta(replace(example("slak").TINY, **changes))
    shapes = sparse_shapes(model)
    assert sum(p.numel() for p in model.parameters()) == n_parameters
    assert sum(map(math.prod, shapes.values())) == n_sparse
    if n_live is not None:  # SLaK's own alternative to SNIP
        counts = regrow.allocation.allocate_counts(shapes, 0.4, regrow.uniform())
        assert n_parameters - n_sparse + sum(counts.values()) == n_live


def test_slak_has_the_published_settings():
    module = example("slak")
    for s, n_tensors, interval, drop in (
        (module.TINY, 95, 2000, 0.5),
        (module.SMALL, 185, 100, 0.3),
        (module.BASE, 185, 100, 0.3),
    ):
        assert len(sparse_shapes(on_meta(s))) == n_tensors
        assert (s.interval, s.drop_fraction, s.sparsity) == (interval, drop, 0.4)
        assert s.n_steps == 93_600
    assert module.BASE.widths == (128, 256, 512, 1024)


def test_slak_takes_the_sparsity_of_each_layer_from_snip():
    module, s = example("slak"), settings("slak")
    torch.manual_seed(0)
    model = module.slak_net(s)
    inputs, labels = module.pictures(s, torch.Generator().manual_seed(0))
    before = {name: value.clone() for name, value in model.state_dict().items()}

    named = {name: p for name, p in model.named_parameters() if p.dim() in (2, 4)}
    loss = F.cross_entropy(model(inputs), labels)
    grads = torch.autograd.grad(loss, list(named.values()))
    model.load_state_dict(before)
    scores = {n: (w * g).abs() for (n, w), g in zip(named.items(), grads, strict=True)}
    everything = torch.cat([score.flatten() for score in scores.values()])
    threshold = everything.sort(descending=True).values[round(0.6 * everything.numel()) - 1]
    expected = {name: int((score >= threshold).sum()) for name, score in scores.items()}
    assert sum(expected.values()) == round(0.6 * everything.numel())

    updater = module.slak(model, sgd(model), (inputs, labels), s)
    dense = {name for name, n in expected.items() if n / named[name].numel() >= 0.99}
    assert dense  # stem, downsampling and head: blocks are scaled by 1e-6
    assert {name: t.nnz for name, t in updater.topologies.items()} == {
        name: n for name, n in expected.items() if name not in dense
    }
    for name, value in model.state_dict().items():  # scored on a copy: norms have seen nothing
        kept = updater.topologies[name].mask if name in updater.topologies else True
        assert torch.equal(value, before[name] * kept)


def test_slak_drops_the_published_share(drops, capsys):
    updater = example("slak").main(settings("slak", n_epochs=3))
    assert [record.step for record in updater.history] == [2, 4, 6]
    check_drops(drops, updater, lambda step: half_cosine(0.5, 0.005, step, 6))


# -- ITOP ----------------------------------------------------------------------------------------


def erk_densities(shapes, sparsity):
    """Scale (sum of dims / product of dims) to the budget; what exceeds 1 is dense."""
    raw = {name: sum(shape) / math.prod(shape) for name, shape in shapes.items()}
    dense = set()
    while True:
        free = [name for name in shapes if name not in dense]
        budget = (1 - sparsity) * sum(map(math.prod, shapes.values()))
        budget -= sum(math.prod(shapes[name]) for name in dense)
        scale = budget / sum(raw[name] * math.prod(shapes[name]) for name in free)
        over = [name for name in free if scale * raw[name] > 1]
        if not over:
            return {name: 1.0 if name in dense else scale * raw[name] for name in shapes}
        dense.add(max(over, key=raw.get))


@pytest.mark.parametrize("growth", ["random", "gradient"])
def test_itop_counts_and_schedule(growth, drops, capsys):
    s = settings("itop", growth=growth)
    updater = example("itop").main(s)
    shapes = {name: t.shape for name, t in updater.topologies.items()}
    n = sum(map(math.prod, shapes.values()))
    assert updater.nnz == round(0.1 * n)
    for name, density in erk_densities(shapes, 0.9).items():
        assert abs(updater.topologies[name].nnz - density * math.prod(shapes[name])) <= 1
    assert [record.step for record in updater.history] == [4, 8, 12, 16]  # the last step too
    check_drops(drops, updater, lambda step: half_cosine(0.5, 0.005, step, 16))
    assert updater.weight_steps == updater.steps == 16


def test_itop_explores_as_chance_has_it():
    """After one rewiring: what was there, and of what grew what had not been there."""
    module = example("itop")
    s = replace(module.Settings(), widths=(64, 128), interval=1)
    torch.manual_seed(0)
    model = module.network(s)
    optimizer = sgd(model)
    updater = module.itop(model, optimizer, s)
    inputs, labels = module.pictures(s, 4, torch.Generator().manual_seed(0))
    F.cross_entropy(model(inputs), labels).backward()
    optimizer.step()
    assert updater.rewirings == 1
    topology = updater.topologies["3.weight"]
    n, n_active = topology.n_elements, topology.n_active
    n_grown = math.ceil(half_cosine(0.5, 0.005, 1, s.n_steps) * n_active)
    n_open = n - (n_active - n_grown)
    p = (n - n_active) / n_open
    explored = updater.report().layers[1].exploration * n
    deviation = math.sqrt(n_grown * p * (1 - p))
    assert explored == pytest.approx(n_active + n_grown * p, abs=4 * deviation)


# -- FreeTickets ---------------------------------------------------------------------------------


def test_freetickets_has_the_published_cycle(rules):
    module = example("freetickets")
    s = module.PUBLISHED
    assert (s.n_epochs, s.n_steps) == (450, 450 * 391)
    rate = module.learning_rate(s)
    assert [rate(epoch) for epoch in range(450)] == (150 * [0.1] + 3 * (50 * [0.01] + 50 * [0.001]))
    model = module.network(s)
    updater = module.edst(model, sgd(model), s)
    # Every 1,000 of 175,950 steps, and where phases 2 and 3 begin: behind 250 and 350 epochs.
    large = [250 * 391 + 1, 350 * 391 + 1]
    assert n_planned(updater) == 175 + 2
    assert list(rules[0].window.steps) == sorted([*range(1000, 175_951, 1000), *large])
    assert rules[0].grow is regrow.criteria.gradient
    for step in rules[0].window.steps:
        assert rules[0].drop_fraction(step) == (0.8 if step in large else 0.5)


def test_freetickets_explores_most_where_phases_begin(drops, capsys):
    s = settings("freetickets", steps_an_epoch=3, interval=4, phase_epochs=4)
    updater, tickets = example("freetickets").main(s)
    large = [3 * (3 + 4) + 1, 3 * (3 + 4 + 4) + 1]  # the first steps of phases 2 and 3
    assert [record.step for record in updater.history] == sorted({*range(4, 46, 4), *large})
    check_drops(drops, updater, lambda step: 0.8 if step in large else 0.5)
    assert len(tickets) == 3
    assert updater.nnz == round(0.2 * sum(t.n_elements for t in updater.topologies.values()))
    for ticket in tickets:
        for name, topology in ticket.topologies.items():
            assert topology.nnz == updater.topologies[name].nnz
            assert not ticket.weights[name][~topology.mask].any()
    for one, other in pairwise(tickets):
        assert one.topologies["2.weight"] != other.topologies["2.weight"]


def test_freetickets_saves_the_best_of_each_phase_and_averages_probabilities(capsys, monkeypatch):
    module, s = example("freetickets"), settings("freetickets", steps_an_epoch=2)
    measured, real = [], module.accuracy_of

    def accuracy_of(model, inputs, labels):
        measured.append(real(model, inputs, labels))
        return measured[-1]

    monkeypatch.setattr(module, "accuracy_of", accuracy_of)
    _, tickets = module.main(s)
    phases = [measured[3 + 2 * k : 5 + 2 * k] for k in range(3)]  # after three epochs of exploring
    assert [ticket.accuracy for ticket in tickets] == [max(phase) for phase in phases]
    model = module.network(s)
    inputs, _ = module.points(s, 20, torch.Generator().manual_seed(0))
    expected = torch.zeros(20, 5)
    for ticket in tickets:
        model.load_state_dict(ticket.weights)
        expected += model(inputs).softmax(1).detach() / 3
    assert torch.allclose(module.ensemble(model, tickets, inputs), expected, atol=1e-6)


# -- the small ones ------------------------------------------------------------------------------


def test_sparsify_an_mlp_keeps_its_count(capsys):
    updater = example("sparsify_an_mlp").main(settings("sparsify_an_mlp"))
    assert updater.nnz == round(0.1 * (20 * 128 + 128 * 128 + 128 * 5))
    # Up to three quarters of 30 steps; each takes the place of a weight step.
    assert [record.step for record in updater.history] == [5, 10, 15, 20]
    assert updater.weight_steps == 26


def test_own_criterion_keeps_the_largest_of_each_output(capsys):
    module = example("your_own_criterion")
    s = settings("your_own_criterion")
    torch.manual_seed(s.seed)
    model = module.network(s)
    updater = module.sparse(model, sgd(model), s)
    connected = {name: t.mask.any(1) for name, t in updater.topologies.items()}
    after = module.main(s)
    for name, topology in after.topologies.items():
        assert bool(topology.mask.any(1)[connected[name]].all())

    class Layer:
        topology = regrow.Topology(torch.tensor([0, 1, 4, 5]), (3, 2))
        weight = torch.tensor([1.0, -2.0, 0.0, 0.0, 0.5, 0.25])

        def weight_at(self, flat):
            return self.weight[flat]

    scores = module.relative_magnitude(Layer(), Layer.topology.units)
    assert scores.tolist() == [0.5, 1.0, 1.0, 0.5]


def test_attention_holds_two_of_four(capsys):
    updater = example("nm_attention").main(settings("nm_attention"))
    assert "body.layers.0.self_attn.in_proj_weight" in updater.topologies
    for topology in updater.topologies.values():
        assert topology.mask.view(-1, 4).sum(1).tolist() == [2] * (topology.n_elements // 4)
    assert not any("symbols" in name or "places" in name for name in updater.topologies)
