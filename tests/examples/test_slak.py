"""SLaK: counts and schedule of the paper and its code, the sparsity of each layer from SNIP."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from example_cases import check_drops, example, half_cosine, settings, sgd

import regrow


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
