"""Each example is listed, short, of public names only, and runs; schedules of their papers."""

import ast
from dataclasses import replace

import pytest
import torch
from example_cases import COMPOSITIONS, EXAMPLES, example, half_cosine, settings, sgd

import regrow


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
