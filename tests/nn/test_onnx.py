import copy
import importlib.util
import json

import numpy as np
import pytest
import torch
from torch import nn

import regrow
from regrow import NM, SparsityError
from regrow.errors import BackendUnavailableError
from regrow.nn import SparseConv2d, SparseLinear, export_onnx, finalize_
from regrow.nn._onnx import _arguments, _two_of_four

needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript")),
    reason="export needs onnx and onnxscript",
)


class Net(nn.Module):
    """A 2:4 convolution, 2:4 and unstructured layers on tokens, a dense head."""

    def __init__(self):
        super().__init__()
        self.conv = SparseConv2d(4, 16, 3, sparsity=None, structure=NM(2, 4), seed=1)
        self.norm = nn.BatchNorm2d(16)
        self.wide = SparseLinear(16, 32, sparsity=None, structure=NM(2, 4), seed=2)
        self.back = SparseLinear(32, 16, sparsity=0.5, seed=3)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        tokens = self.norm(self.conv(x)).relu().flatten(2).transpose(1, 2)
        return self.head(self.back(self.wide(tokens).relu()).mean(1))


def images(n):
    return torch.randn(n, 4, 6, 6, generator=torch.Generator().manual_seed(n))


def runner(path):
    """What computes the model's output: onnxruntime, or the slow reference of onnx itself."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    if importlib.util.find_spec("onnxruntime") is None:
        session = ReferenceEvaluator(onnx.load(path))
        (name,) = session.input_names
    else:
        import onnxruntime

        session = onnxruntime.InferenceSession(path)
        name = session.get_inputs()[0].name
    return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])


def constants(path):
    import onnx

    model = onnx.load(path)
    return {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}, {
        one.key: one.value for one in model.metadata_props
    }


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    torch.manual_seed(0)
    model = Net()
    model(images(8))  # statistics of the norm
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    return model, path, export_onnx(model, images(2), path)


@needs_onnx
def test_other_runtimes_compute_the_same_at_any_batch(exported):
    model, path, _ = exported
    run, model = runner(path), copy.deepcopy(model).eval()
    for n in (1, 2, 5):
        with torch.no_grad():
            torch.testing.assert_close(run(images(n)), model(images(n)), rtol=1e-4, atol=1e-5)


@needs_onnx
def test_zeros_are_exact_and_two_of_four_are_named(exported):
    model, path, names = exported
    held, metadata = constants(path)
    assert json.loads(metadata["regrow.two_of_four"]) == names
    assert names["conv.weight"] == "conv.weight"
    assert set(names) == {"conv.weight", "wide.weight"}
    # (The norm's scale is folded into the convolution, and leaves zeros as they are.)
    assert np.array_equal(held["conv.weight"] == 0, ~model.conv.topology.mask.numpy())
    wide = held[names["wide.weight"]]
    wide = wide if wide.shape == (32, 16) else wide.T
    assert np.array_equal(wide, model.wide.dense_weight().numpy())
    assert ((wide.reshape(32, 4, 4) != 0).sum(-1) == 2).all()


@needs_onnx
def test_the_model_is_not_changed(exported):
    model, path, _ = exported
    assert model.training
    assert isinstance(model.conv, SparseConv2d)
    assert all(one.requires_grad for one in model.parameters())
    assert [one.name for one in path.parent.iterdir()] == [path.name]  # no weights beside it


@needs_onnx
def test_a_masked_model_and_a_single_example(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    updater = regrow.static(model, optimizer, sparsity=None, structure=NM(2, 4))
    path = tmp_path / "masked.onnx"
    names = export_onnx(model, torch.ones(1, 16), path)
    assert names == {"0.weight": "0.weight", "2.weight": "2.weight"}
    held, _ = constants(path)
    assert np.array_equal(held["0.weight"] == 0, ~updater.topologies["0.weight"].mask.numpy())
    x = torch.randn(3, 16)
    torch.testing.assert_close(runner(path)(x), model(x).detach())
    assert b"site-packages" not in path.read_bytes()  # nothing of where it was made


@needs_onnx
def test_a_fixed_batch_is_refused(tmp_path):
    class Fixed(nn.Module):
        def forward(self, x):
            return x.view(3, 4)

    with pytest.raises(SparsityError, match=r"cannot be exported|3 only"):
        export_onnx(Fixed(), torch.ones(3, 4), tmp_path / "no.onnx")
    assert not list(tmp_path.iterdir())


@needs_onnx
def test_a_model_beyond_two_gigabytes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("regrow.nn._onnx.LARGEST", 1000)
    model = nn.Sequential(SparseLinear(16, 16, bias=False, sparsity=0.9))
    with pytest.raises(SparsityError, match="has 1,024 bytes, and an ONNX file holds"):
        export_onnx(model, torch.ones(2, 16), tmp_path / "no.onnx")


def test_without_onnx_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(BackendUnavailableError, match=r"regrow\[onnx\]"):
        export_onnx(nn.Linear(2, 2), torch.ones(1, 2), tmp_path / "no.onnx")


@pytest.mark.parametrize("inputs", [None, [torch.ones(2)], (torch.ones(2), 3), (), torch.ones(())])
def test_inputs_must_be_tensors(inputs):
    with pytest.raises(TypeError, match="inputs must be a tensor with a batch dimension"):
        _arguments(inputs)


def test_which_weights_are_two_of_four():
    two = SparseLinear(16, 8, sparsity=None, structure=NM(2, 4))
    conv = SparseConv2d(8, 4, 3, sparsity=None, structure=NM(2, 4))
    dense = nn.Linear(16, 8)
    odd = nn.Linear(6, 2)
    with torch.no_grad():
        odd.weight.zero_()  # (six inputs are no runs of four)
    net = finalize_(nn.Sequential(two, conv, dense, odd), form="dense")
    assert list(_two_of_four(net)) == ["0.weight", "1.weight"]
    with torch.no_grad():
        conv = net[1].weight  # three of four channels, at one kernel position
        conv[0, :4, 1, 1] = torch.tensor([0.0, 1.0, 1.0, 1.0])
    assert list(_two_of_four(net)) == ["0.weight"]


@needs_onnx
def test_the_block_in_the_docs_runs(tmp_path, monkeypatch):
    """It is no block of Python that all readers' machines can run: onnx is an extra."""
    from pathlib import Path

    page = Path(__file__).parents[2] / "docs" / "how-to" / "truly-sparse-inference.md"
    text = page.read_text(encoding="utf-8")
    (block,) = text.split("```{code-block} python\n")[1:]
    monkeypatch.chdir(tmp_path)
    model = finalize_(nn.Sequential(SparseLinear(64, 32, sparsity=0.9)))
    exec(block.split("```")[0], {"model": model, "torch": torch, "regrow": regrow})
    assert list(tmp_path.glob("*.onnx"))
