import copy
import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import damage
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import regrow
from regrow import NM, Block, ConstantFanIn, SparsityError, Topology, Unstructured
from regrow.nn import (
    SparseConv1d,
    SparseConv2d,
    SparseLinear,
    finalize_,
    load,
    read_metadata,
    save,
)
from regrow.nn._files_header import Header, structure_of
from regrow.nn._files_index import CODINGS, coded, decode, encode
from regrow.ops import use_backend

safetensors = pytest.importorskip("safetensors.torch", reason="files need safetensors")


NAME = re.escape("model.safetensors")


def dense_net(dtype=torch.float32):
    net = nn.Sequential(
        nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(),
        nn.Linear(8 * 9, 32, bias=False), nn.ReLU(), nn.Linear(32, 32), nn.Linear(32, 5),
    )  # fmt: skip
    return net.to(dtype)


def sparse_net(seed=0, dtype=torch.float32, sparsity=0.8):
    torch.manual_seed(seed)
    net = dense_net(dtype)
    regrow.compress_(net, sparsity=sparsity, select=["0.weight", "4.weight", "6.weight"], seed=seed)
    net(torch.randn(16, 4, 6, 6, dtype=dtype))  # (statistics of the norm)
    return finalize_(net)


def batch(n, dtype=torch.float32):
    return torch.randn(n, 4, 6, 6, generator=torch.Generator().manual_seed(n)).to(dtype)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


# -- what comes back -----------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["auto", "torch", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bit_for_bit_at_both_batches(path, backend, dtype):
    net = sparse_net(dtype=dtype)
    save(net, path)
    made = dense_net(dtype)
    assert load(made, path) is made
    assert isinstance(made[0], SparseConv2d)
    assert isinstance(made[4], SparseLinear)
    for n in (1, 256):
        with use_backend(backend), torch.no_grad():
            assert torch.equal(made(batch(n, dtype)), net(batch(n, dtype)))


def test_on_every_kind_of_target(path):
    net = sparse_net(0)
    save(net, path)
    with torch.device("meta"):
        on_meta = dense_net()
    for target in (sparse_net(1), on_meta, copy.deepcopy(net)):
        load(target, path)
        assert not target.training
        assert not any(one.requires_grad or one.is_meta for one in target.parameters())
        with torch.no_grad():
            assert torch.equal(target(batch(3)), net(batch(3)))
        assert [m.topology for m in target if hasattr(m, "topology")] == [
            m.topology for m in net if hasattr(m, "topology")
        ]


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_model_owns_its_memory(path, device):
    net = sparse_net()
    save(net, path)
    with torch.device(device):
        made = dense_net()
    load(made, path)
    with path.open("r+b") as file:  # the file may be mapped into memory
        file.write(bytes(path.stat().st_size))
    with torch.no_grad():
        assert torch.equal(made(batch(2)), net(batch(2)))


def test_structures_come_back(path):
    structures = [NM(2, 4), Block(2, 4), ConstantFanIn(), Unstructured()]
    layers = [
        SparseLinear(16, 16, sparsity=None if one == NM(2, 4) else 0.5, structure=one)
        for one in structures
    ]
    save(nn.Sequential(*layers), path)
    made = load(nn.Sequential(*[nn.Linear(16, 16) for _ in layers]), path)
    assert [layer.structure for layer in made] == structures


def test_a_structure_of_ones_own_comes_back_as_single_elements(path, monkeypatch):
    class Own(type(Unstructured())):
        pass

    own = Own()
    layer = SparseLinear(8, 4, sparsity=0.5, structure=own)
    save(layer, path)
    made = load(nn.Linear(8, 4), path)
    assert made.structure == Unstructured()
    assert torch.equal(made.dense_weight(), layer.dense_weight())


def test_tied_layers_and_tensors_are_held_once(path):
    def build():
        net = nn.ModuleDict(
            {"a": nn.Linear(16, 16), "b": nn.Linear(16, 16), "c": nn.Linear(16, 16),
             "e": nn.Embedding(16, 16), "d": nn.Linear(16, 16, bias=False)}
        )  # fmt: skip
        net["b"].weight = net["a"].weight
        net["c"].bias = net["a"].bias
        net["d"].weight = net["e"].weight
        return net

    net = build()
    regrow.compress_(net, sparsity=0.5)
    assert net["a"].values is net["b"].values
    finalize_(net)
    save(net, path)
    tensors = safetensors.load_file(path)
    assert sorted(tensors) == [
        "a.bias", "a.topology", "a.values", "b.bias", "c.topology", "c.values", "e.weight",
    ]  # fmt: skip
    made = load(build(), path)
    assert made["a"].values is made["b"].values
    assert made["c"].bias is made["a"].bias
    assert made["d"].weight is made["e"].weight
    for one in net:
        x = torch.arange(16) if one == "e" else torch.ones(2, 16)
        assert torch.equal(made[one](x), net[one](x))

    untied = build()
    untied["b"].weight = nn.Parameter(torch.zeros(16, 16))
    assert torch.equal(load(untied, path)["b"].values, net["a"].values)
    apart = nn.ModuleDict({name: copy.deepcopy(one) for name, one in net.items()})
    save(apart, path)
    with pytest.raises(SparsityError, match="are tied in the model, and not in the file"):
        load(build(), path)


def test_views_of_one_storage_are_two_tensors(path):
    net = nn.Module()
    storage = torch.arange(8.0)
    net.register_buffer("low", storage[:6])
    net.register_buffer("high", storage[2:])
    save(net, path)
    other = nn.Module()
    other.register_buffer("low", torch.zeros(6))
    other.register_buffer("high", torch.zeros(6))
    load(other, path)
    assert other.low.tolist() == [0, 1, 2, 3, 4, 5]
    assert other.high.tolist() == [2, 3, 4, 5, 6, 7]


def test_a_layer_by_itself_and_a_wrapped_model(path):
    layer = SparseConv1d(4, 6, 3, padding="same", sparsity=0.5, padding_mode="circular")
    save(layer, path)
    made = load(nn.Conv1d(4, 6, 3, padding="same", padding_mode="circular"), path)
    x = torch.randn(2, 4, 9)
    assert torch.equal(made(x), layer(x))

    net = sparse_net()
    save(torch.compile(net), path)
    assert "0.values" in safetensors.load_file(path)
    made = load(dense_net(), path)
    assert torch.equal(made(batch(2)), net(batch(2)))


def test_metadata_comes_back(path):
    save(sparse_net(), path, metadata={"classes": ["cat", "dog"], "run": {"seed": 3}, "a": None})
    assert read_metadata(path) == {"classes": ["cat", "dog"], "run": {"seed": 3}, "a": None}
    save(sparse_net(), path)
    assert read_metadata(path) == {}


def test_what_a_file_is(path):
    """For other readers: the header says how, and the tensors are plain."""
    net = nn.Sequential(SparseLinear(100, 50, sparsity=0.9, seed=2))
    save(net, path)
    with safetensors.safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["regrow"])
    (layer,) = header["layers"].values()
    assert (header["format"], header["version"]) == (1, regrow.__version__)
    assert (layer["kind"], layer["arguments"]) == (
        "SparseLinear",
        {"in_features": 100, "out_features": 50},
    )
    tensors = safetensors.load_file(path)
    assert layer["coding"] == "gaps8"
    flat, place = [], 0
    for code in tensors["0.topology"].tolist():
        place += code
        if code < 255:
            flat.append(place)
            place += 1
    dense = torch.zeros(5000)
    dense[flat] = tensors["0.values"]
    assert torch.equal(dense.view(50, 100), net[0].dense_weight())


def test_equal_models_give_equal_bytes(path, tmp_path):
    save(sparse_net(), path)
    save(copy.deepcopy(sparse_net()), tmp_path / "other")
    assert path.read_bytes() == (tmp_path / "other").read_bytes()


def test_loading_needs_nothing_that_trains(path):
    """In a process where the package's own __init__, which offers training, does not run."""
    net = sparse_net()
    save(net, path)
    torch.save(batch(5), path.with_suffix(".x"))
    root = str(Path(regrow.__file__).parent)
    code = f"""
import sys, types
package = types.ModuleType("regrow")
package.__path__ = [{root!r}]
sys.modules["regrow"] = package
import torch
from torch import nn
from regrow.nn import load
from regrow.ops import use_backend
torch.set_num_threads(1)
net = nn.Sequential(
    nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(),
    nn.Linear(8 * 9, 32, bias=False), nn.ReLU(), nn.Linear(32, 32), nn.Linear(32, 5),
)
x = torch.load({str(path.with_suffix(".x"))!r}, weights_only=True)
with torch.no_grad(), use_backend("torch"):
    y = load(net, {str(path)!r})(x)
torch.save(y, {str(path.with_suffix(".y"))!r})
print(*[name for name in sys.modules if name.startswith("regrow.")])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    packages = {name.split(".")[1] for name in done.stdout.split()}
    assert "nn" in packages
    assert not packages & {"training", "methods", "diagnostics", "schedules", "criteria"}
    with torch.no_grad(), use_backend("torch"):
        expected = net(batch(5))
    assert torch.equal(torch.load(path.with_suffix(".y"), weights_only=True), expected)


# -- bytes ---------------------------------------------------------------------------------------


def drawn(shape, sparsity, seed=0):
    random = np.random.default_rng(seed)
    mask = random.random(shape) >= sparsity
    return Topology.from_mask(torch.from_numpy(mask))


@pytest.mark.parametrize(
    ("sparsity", "coding", "most"),
    [(0.5, "bits", 0.26), (0.8, "bits", 0.64), (0.9, "gaps8", 1.001), (0.95, "gaps8", 1.001),
     (0.99, "gaps8", 1.09), (0.999, "gaps16", 2.001), (0.9999, "gaps16", 2.1)],
)  # fmt: skip
def test_the_smallest_coding_is_used(sparsity, coding, most):
    topology = drawn((1000, 1000), sparsity)
    name, codes = encode(topology)
    assert name == coding
    assert codes.nbytes / topology.nnz < most


def test_a_file_is_as_small_as_its_connections(path):
    net = nn.Sequential(SparseLinear(1000, 1000, bias=False, sparsity=0.95))
    save(net, path)
    assert path.stat().st_size < 5.02 * net[0].nnz + 1000


@settings(max_examples=60)
@given(st.data())
def test_codes_are_read_back(data):
    shape = data.draw(st.tuples(st.integers(1, 40), st.integers(1, 300)))
    n = shape[0] * shape[1]
    flat = data.draw(st.lists(st.integers(0, n - 1), unique=True, max_size=min(n, 60)).map(sorted))
    topology = Topology(torch.tensor(flat, dtype=torch.int64), shape)
    coding, codes = encode(topology)
    again = decode(coding, codes, shape=shape, nnz=len(flat), structure=Unstructured())
    assert again == topology
    assert again.is_compact


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize(
    ("flat", "n"),
    [
        ([0, 255, 511, 767, 1278], 1280),
        ([254, 255, 510, 766], 767),
        ([15, 16, 31, 32], 33),
        ([65535, 65536, 131072], 140000),
        ([65534, 131070], 131071),
        ([], 5),
    ],
)
def test_each_coding_crosses_its_own_borders(coding, flat, n, monkeypatch):
    monkeypatch.setattr("regrow.nn._files_index._BLOCK", 16)
    codes = coded(coding, np.array(flat, np.int64), n)
    made = decode(coding, codes, shape=(1, n), nnz=len(flat), structure=Unstructured())
    assert made.indices.tolist() == flat


# -- what is refused -----------------------------------------------------------------------------


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


def test_models_that_cannot_be_saved(path):
    class Stateful(nn.Linear):
        def get_extra_state(self):
            return {"any": object()}

    with pytest.raises(SparsityError, match="has extra state of its own"):
        save(nn.Sequential(Stateful(2, 2)), path)
    with torch.device("meta"), pytest.raises(SparsityError, match="a file holds plain dense"):
        save(nn.Linear(2, 2), path)
    with pytest.raises(SparsityError, match="not initialised"):
        save(nn.LazyLinear(2), path)
    with pytest.raises(TypeError, match="metadata must be a mapping"):
        save(nn.Linear(2, 2), path, metadata=[1])
    with pytest.raises(TypeError, match="not JSON serializable"):
        save(nn.Linear(2, 2), path, metadata={"a": torch.ones(2)})
    assert not list(path.parent.iterdir())


def test_a_buffer_on_meta_that_no_file_holds(path):
    save(nn.Sequential(), path)
    net = nn.Module()
    net.register_buffer("table", torch.empty(2, device="meta"), persistent=False)
    with pytest.raises(SparsityError, match="not persistent: make the model on a real device"):
        load(net, path)


def test_files_that_are_none(path):
    with pytest.raises(FileNotFoundError):
        load(dense_net(), path)
    for content in (b"", b"\x80\x05pickle", bytes(100), b"\xff" * 9):
        path.write_bytes(content)
        with pytest.raises(SparsityError, match=NAME):
            load(dense_net(), path)
        with pytest.raises(SparsityError, match=NAME):
            read_metadata(path)
    safetensors.save_file({"a": torch.ones(2)}, path)
    with pytest.raises(SparsityError, match="does not mention regrow"):
        load(dense_net(), path)


def test_a_killed_writer_leaves_the_old_file(path, monkeypatch):
    save(sparse_net(), path, metadata={"which": "old"})

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        save(sparse_net(1), path, metadata={"which": "new"})
    assert read_metadata(path) == {"which": "old"}
    assert [one.name for one in path.parent.iterdir()] == [path.name]


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


@pytest.mark.parametrize(
    ("coding", "codes", "message"),
    [
        ("gaps8", [3, 255, 255], "ends within the gap"),
        ("gaps8", [3, 200], "connection at 204 in a weight of 200"),
        ("gaps8", [3], "has 1 connections where 2"),
        ("bits", [255] * 25, "has 200 connections where 2"),
        ("bits", [128] * 26, "takes 25 bytes of bits, got 26"),
    ],
)
def test_wrong_codes_are_refused(coding, codes, message):
    codes = torch.tensor(codes, dtype=torch.uint8)
    with pytest.raises(SparsityError, match=message):
        decode(coding, codes, shape=(10, 20), nnz=2, structure=Unstructured())


@pytest.mark.parametrize(
    "codes", [torch.tensor([1, 1], dtype=torch.int16), torch.ones(1, 2, dtype=torch.uint8)]
)
def test_codes_of_another_kind_are_refused(codes):
    with pytest.raises(SparsityError, match=r"must be one-dimensional torch\.uint8"):
        decode("gaps8", codes, shape=(10, 20), nnz=2, structure=Unstructured())


def header(**other):
    content = {"format": 1, "layers": {}, "same": {}, "user": {}} | other
    return {"regrow": json.dumps(content)}


def entry(**other):
    names = {"kind": "SparseLinear", "coding": "bits", "values": "v", "topology": "t"}
    return {**names, "arguments": {}, "structure": {}, "nnz": 3} | other


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (header(same={"a": ["b"]}), "must map names to names"),
        (header(user=[]), "must be objects"),
        (header(layers={"a": entry(nnz=3.0)}), "nnz of a layer must be of type int"),
        (header(layers={"a": entry(arguments=[])}), "arguments of a layer must be of type dict"),
        (header(layers={"a": entry(values=["v"])}), "values of a layer must be a string"),
        (header(layers={"a": entry(more=1)}), "a layer of the header must have kind, arguments"),
        ({"regrow": "[" * 100_000}, "holds no JSON"),
        ({"regrow": "[]"}, "the format is None"),
        (None, "does not mention regrow"),
    ],
)
def test_headers_are_read_strictly(metadata, message):
    with pytest.raises(SparsityError, match=message) as caught:
        Header.read(metadata)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "described",
    [
        {"class": "Kernel", "per_output": "yes"},
        {"class": ["NM"], "n": 1, "m": 2},
        {"class": "NM", "n": 3, "m": 2},
        {"n": 1, "m": 2},
        {"class": "Transposed", "structure": {}, "groups": 1},
    ],
)
def test_structures_are_read_strictly(described):
    with pytest.raises(SparsityError, match="structure"):
        structure_of(described)


def test_bits_behind_the_last_element_are_refused():
    with pytest.raises(SparsityError, match="connection at 7 in a weight of 7"):
        decode(
            "bits", torch.tensor([1], dtype=torch.uint8), shape=(1, 7), nnz=1,
            structure=Unstructured(),
        )  # fmt: skip


@pytest.mark.parametrize("text", ["", "[", "NaN", "[" * 100_000, '{"format": 1e999}', '"\\ud800"'])
def test_a_header_that_is_no_json(path, text):
    safetensors.save_file({"a": torch.ones(1)}, path, metadata={"regrow": text})
    with pytest.raises(SparsityError, match=NAME):
        load(dense_net(), path)


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
