"""Files of models: what comes back from them, and what they hold."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from file_cases import NAME, batch, dense_net, sparse_net
from torch import nn

import regrow
from regrow import NM, Block, ConstantFanIn, SparsityError, Unstructured
from regrow.nn import SparseConv1d, SparseConv2d, SparseLinear, finalize_, load, read_metadata, save
from regrow.ops import use_backend

safetensors = pytest.importorskip("safetensors.torch", reason="files need safetensors")


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


def test_a_file_is_as_small_as_its_connections(path):
    net = nn.Sequential(SparseLinear(1000, 1000, bias=False, sparsity=0.95))
    save(net, path)
    assert path.stat().st_size < 5.02 * net[0].nnz + 1000


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
    with pytest.raises(TypeError, match=r"metadata\['a'\] must be .* Tensor of shape \(2,\)"):
        save(nn.Linear(2, 2), path, metadata={"ok": 1, "a": torch.ones(2)})
    with pytest.raises(ValueError, match=r"metadata\['b'\] must be what JSON can hold"):
        save(nn.Linear(2, 2), path, metadata={"b": [1.0, float("nan")]})
    with pytest.raises(TypeError, match="keys of metadata must be texts, as JSON has them, got 3"):
        save(nn.Linear(2, 2), path, metadata={3: 1})
    assert not list(path.parent.iterdir())


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


@pytest.mark.skipif(sys.platform == "win32", reason="permissions are those of POSIX")
def test_others_may_read_what_the_umask_lets_them(path):
    before = os.umask(0o022)
    try:
        save(sparse_net(), path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o644
    path.chmod(0o640)
    save(sparse_net(), path)
    assert path.stat().st_mode & 0o777 == 0o640
