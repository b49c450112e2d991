"""The small examples: a perceptron, a criterion of one's own, attention."""

import torch
from example_cases import example, settings, sgd

import regrow


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
