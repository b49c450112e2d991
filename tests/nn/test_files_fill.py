"""Models and files that do not fit each other, and files that lie: refused, and nothing changes."""

import copy
import json
import types

import damage
import pytest
import torch
from file_cases import NAME, dense_net, sparse_net
from hypothesis import given, settings
from torch import nn

from regrow import SparsityError
from regrow.nn import SparseLinear, load, save

safetensors = pytest.importorskip("safetensors.torch", reason="files need safetensors")


def test_nothing_changes_where_anything_is_wrong(path):
    """The last tensor of the file is of another shape; nothing before it was written."""
    save(sparse_net(), path)
    other = dense_net()
    other[7] = nn.Linear(32, 6)
    state, layers = copy.deepcopy(other.state_dict()), list(other)
    with pytest.raises(SparsityError, match=r"'7\.weight' is torch\.float32 of shape \(6, 32\)"):
        load(other, path)
    assert list(other) == layers
    assert other.training
    assert all(torch.equal(one, state[name]) for name, one in other.state_dict().items())


def replaced(place, layer):
    net = dense_net()
    net[place] = layer
    return net


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (replaced(0, nn.Conv2d(4, 8, 3, stride=1, padding=1)), "'0' has .*in the file"),
        (replaced(4, nn.Linear(72, 33, bias=False)), "'4' has .*'out_features': 33"),
        (replaced(4, nn.Linear(72, 32)), "the model has '4.bias' and the file has not"),
        (replaced(6, nn.Linear(32, 32, bias=False)), "the file has '6.bias' and the model has not"),
        (replaced(6, nn.Identity()), "'6' is a Identity in the model, and a 'SparseLinear' in"),
        (replaced(7, SparseLinear(32, 5, sparsity=0.5)), "'7' is truly sparse in the model, and n"),
        (dense_net()[:5], "has no module '6'"),
        (dense_net(torch.float64), "'0.bias' is torch.float64"),
        (dense_net().bfloat16(), "is torch.bfloat16"),
    ],
)
def test_other_models_are_refused(path, model, message):
    save(sparse_net(), path)
    with pytest.raises(SparsityError, match=message) as caught:
        load(model, path)
    assert path.name in str(caught.value)


def test_a_buffer_on_meta_that_no_file_holds(path):
    save(nn.Sequential(), path)
    net = nn.Module()
    net.register_buffer("table", torch.empty(2, device="meta"), persistent=False)
    with pytest.raises(SparsityError, match="not persistent: make the model on a real device"):
        load(net, path)


def tampered(path, change):
    """The file with another header or other tensors."""
    with safetensors.safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["regrow"])
    tensors = {name: one.clone() for name, one in safetensors.load_file(path).items()}
    state = types.SimpleNamespace(header=header, layer=header["layers"]["4"], tensors=tensors)
    change(state)
    safetensors.save_file(state.tensors, path, metadata={"regrow": json.dumps(state.header)})


def put(place, key, value):
    def change(state):
        target = getattr(state, place)
        target[key] = value(target[key]) if callable(value) else value

    return change


def share_with_another_shape(state):
    tied = {key: state.layer[key] for key in ("nnz", "coding", "values", "topology", "structure")}
    state.header["layers"]["6"] |= tied
    del state.tensors["6.values"], state.tensors["6.topology"]


HOSTILE = {
    "a topology for two shapes": share_with_another_shape,
    "a later format": put("header", "format", 2),
    "a format that is no number": put("header", "format", True),
    "layers that are a list": put("header", "layers", []),
    "a layer that is none": put("header", "layers", {"4": 3}),
    "an unknown kind": put("layer", "kind", "Linear"),
    "a kind of another class": put("layer", "kind", "SparseConv2d"),
    "an unknown coding": put("layer", "coding", "gaps32"),
    "another coding": put("layer", "coding", "gaps8"),
    "a huge count": put("layer", "nnz", 10**300),
    "a negative count": put("layer", "nnz", -1),
    "a count that is a truth": put("layer", "nnz", True),
    "huge arguments": put("layer", "arguments", {"in_features": 10**18, "out_features": 1}),
    "nested arguments": put("layer", "arguments", {"in_features": [[[]]], "out_features": {}}),
    "values elsewhere": put("layer", "values", "7.weight"),
    "values nowhere": put("layer", "values", "no.such"),
    "a topology elsewhere": put("layer", "topology", "6.bias"),
    "a structure that is none": put("layer", "structure", {"class": "eval", "n": 1}),
    "a structure without fields": put("layer", "structure", {"class": "NM"}),
    "a structure that does not fit": put("layer", "structure", {"class": "NM", "n": 2, "m": 4}),
    "a huge structure": put("layer", "structure", {"class": "NM", "n": 1, "m": 10**30}),
    "a structure of text": put("layer", "structure", {"class": "NM", "n": "1", "m": "2"}),
    "ties to nowhere": put("header", "same", {"7.weight": "no.such"}),
    "ties that are lists": put("header", "same", {"7.weight": []}),
    "a user's part that is none": put("header", "user", 3),
    "fewer values": put("tensors", "4.values", lambda one: one[:-1].clone()),
    "wider values": put("tensors", "4.values", lambda one: one.double()),
    "values of two dimensions": put("tensors", "4.values", lambda one: one[None].clone()),
    "a shorter topology": put("tensors", "4.topology", lambda one: one[:-1].clone()),
    "a longer topology": put("tensors", "4.topology", lambda one: torch.cat([one, one])),
    "a topology of another dtype": put("tensors", "4.topology", lambda one: one.to(torch.int16)),
    "a topology with a further bit": put("tensors", "4.topology", lambda one: one | 129),
    "an empty topology": put("tensors", "4.topology", lambda one: one[:0].clone()),
    "a tensor more": lambda state: state.tensors.update(more=torch.ones(1)),
    "a tensor less": lambda state: state.tensors.pop("7.bias"),
}  # fmt: skip


@pytest.mark.parametrize("how", HOSTILE)
def test_hostile_files_are_refused(path, how):
    save(sparse_net(), path)
    tampered(path, HOSTILE[how])
    model = dense_net()
    state, layers = copy.deepcopy(model.state_dict()), list(model)
    with pytest.raises(SparsityError, match=NAME) as caught:
        load(model, path)
    assert len(str(caught.value)) < 1000
    assert list(model) == layers
    assert all(torch.equal(one, state[name]) for name, one in model.state_dict().items())


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    save(sparse_net(), folder / "intact", metadata={"a": [1, 2]})
    return folder, (folder / "intact").read_bytes()


@settings(max_examples=150)
@given(damage.damages)
def test_damaged_files_are_refused_or_hold_a_whole_model(intact, changes):
    folder, content = intact
    (folder / "damaged").write_bytes(damage.damaged(content, changes))
    model = dense_net()
    before = copy.deepcopy(model.state_dict())
    made = damage.read_or_refuse(lambda: load(model, folder / "damaged"), "damaged", kinds=(
        SparsityError,
    ))  # fmt: skip
    if made is None:
        assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
        return
    for module in made:
        if hasattr(module, "topology"):
            assert module.topology.nnz == module.values.numel()
            assert module.topology.indices.diff().min() > 0
            assert module.topology.indices[-1] < module.topology.n_elements
