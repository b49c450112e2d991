"""FreeTickets: the cycle of the paper, its tickets and their ensemble."""

from itertools import pairwise

import torch
from example_cases import check_drops, example, n_planned, settings, sgd

import regrow


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
