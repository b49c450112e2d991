import json
import math
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import regrow
from regrow.study import load_state, save_state

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool]


def as_bytes(tensor):
    return tensor.contiguous().view(-1).view(torch.uint8)


def same(a, b):
    if isinstance(a, torch.Tensor):
        return (
            isinstance(b, torch.Tensor)
            and a.dtype == b.dtype
            and a.shape == b.shape
            and torch.equal(as_bytes(a), as_bytes(b))
        )
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b) or (math.isnan(a) and math.isnan(b))
    return a == b


tensors = st.builds(
    lambda dtype, shape, seed: torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(
        dtype
    ),
    st.sampled_from(DTYPES),
    st.lists(st.integers(1, 3), max_size=3),
    st.integers(0, 9),
)
leaves = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(), tensors
)
states = st.dictionaries(
    st.one_of(st.text(), st.integers()),
    st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.tuples(inner, inner),
            st.dictionaries(st.one_of(st.text(), st.integers()), inner, max_size=3),
        ),
        max_leaves=8,
    ),
    max_size=4,
)


@given(state=states)
@settings(max_examples=80)
def test_any_state_comes_back_to_the_last_bit(tmp_path_factory, state):
    path = tmp_path_factory.mktemp("state") / "state.safetensors"
    save_state(path, state)
    assert same(load_state(path), state)


def test_keys_that_look_alike_and_tensors_that_share_memory_stay_apart(tmp_path):
    base = torch.arange(6.0)
    state = {"state": {0: base[:3], "0": base[3:]}, "a/b": base, "a": {"b": base.view(2, 3).t()}}
    save_state(tmp_path / "s", state)
    assert same(load_state(tmp_path / "s"), state)


def test_the_state_of_model_optimizer_and_updater_comes_back(tmp_path, make_net):
    model = make_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    updater = regrow.mest(model, optimizer, sparsity=0.5, n_steps=20, interval=4, growth="random")
    for _ in range(6):
        model(torch.randn(4, 3, 8, 8)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    state = {
        "model": dict(model.state_dict()),
        "optimizer": optimizer.state_dict(),
        "updater": updater.state_dict(),
    }
    save_state(tmp_path / "s.safetensors", state)
    assert same(load_state(tmp_path / "s.safetensors"), state)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": {"b": [1, {2, 3}]}}, r"state/a/b/1 is a set"),
        ({"a": object()}, r"state/a is a object"),
        ({1.5: 0}, r"key of state must be a string or an integer: 1\.5"),
        ({"a": {True: 0}}, r"key of state/a must be a string or an integer: True"),
    ],
)
def test_what_has_no_place_in_a_file_is_refused_with_its_path(tmp_path, state, message):
    with pytest.raises(TypeError, match=message):
        save_state(tmp_path / "s", state)
    assert not (tmp_path / "s").exists()


def foreign(path, metadata):
    import safetensors.torch

    path.write_bytes(safetensors.torch.save({"a": torch.zeros(2)}, metadata=metadata))


@pytest.mark.parametrize(
    ("skeleton", "message"),
    [
        ("{", "damaged"),
        (json.dumps({"items": [["x", {"tensor": "missing"}]]}), "damaged: KeyError 'missing'"),
        (json.dumps({"run": "code"}), "unknown tag 'run'"),
        (json.dumps({"tensor": "a", "tuple": []}), "2 tags"),
        (json.dumps({}), "damaged"),
        (json.dumps([1, 2]), "holds no dict"),
        ("[" * 100_000 + "]" * 100_000, "damaged"),
    ],
)
def test_damaged_skeletons_are_refused(tmp_path, skeleton, message):
    path = tmp_path / "s.safetensors"
    foreign(path, {"format": "regrow-state", "version": "1", "state": skeleton})
    with pytest.raises(ValueError, match=message):
        load_state(path)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "s.safetensors"
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        load_state(path)
    foreign(path, None)
    with pytest.raises(ValueError, match="not written by save_state"):
        load_state(path)
    foreign(path, {"format": "regrow-state", "version": "2", "state": "{}"})
    with pytest.raises(ValueError, match="version"):
        load_state(path)
    torch.save({"a": nn.Linear(1, 1)}, path)
    with pytest.raises(ValueError, match="no whole safetensors file"):
        load_state(path)
    save_state(path, {"a": torch.zeros(100)})
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match="no whole safetensors file"):
        load_state(path)
