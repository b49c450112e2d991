"""Checkpoints cut short, with bits flipped, or with lies in them: refused, or gone on from."""

import copy
import io
import struct

import numpy as np
import pytest
import torch
from damage import damaged, damages, places, read_or_refuse
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import regrow
from regrow.study import Images, Recipe, load_state, save_state, train_classifier


def small_net():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))


RECIPE = Recipe(epochs=3, batch_size=8, lr=0.05, padding=1)


class Run:
    """A training of two epochs and its checkpoint, the third to come."""

    def __init__(self, checkpoint):
        self.checkpoint = checkpoint
        self.model = small_net()
        self.optimizer = RECIPE.optimizer(self.model)
        self.updater = regrow.set_training(
            self.model, self.optimizer, sparsity=0.5, n_steps=6, interval=2, seed=1
        )

    def train(self):
        pixels = np.random.default_rng(0).integers(0, 256, (16, 2, 2, 3)).astype(np.uint8)
        images = Images.from_arrays(pixels, np.arange(16) % 3)
        return train_classifier(
            self.model, images, recipe=RECIPE, optimizer=self.optimizer, updater=self.updater,
            seed=1, checkpoint=self.checkpoint,
        )  # fmt: skip

    def everything(self):
        state = [self.model.state_dict(), self.optimizer.state_dict(), self.updater.state_dict()]
        return repr(copy.deepcopy(state))


@pytest.fixture(scope="module")
def checkpoint(folder):
    """The bytes of a checkpoint after two of three epochs, and its state."""
    path = folder / "whole.safetensors"
    done = []

    def stop():
        done.append(1)
        if len(done) == 5:
            raise KeyboardInterrupt

    run = Run(path)
    pixels = np.random.default_rng(0).integers(0, 256, (16, 2, 2, 3)).astype(np.uint8)
    with pytest.raises(KeyboardInterrupt):
        train_classifier(
            run.model, Images.from_arrays(pixels, np.arange(16) % 3), recipe=RECIPE,
            optimizer=run.optimizer, updater=run.updater, seed=1, checkpoint=path, on_step=stop,
        )  # fmt: skip
    return path.read_bytes(), load_state(path)


@settings(max_examples=150)
@given(changes=damages)
def test_damaged_checkpoints(folder, checkpoint, changes):
    path = folder / "damaged.safetensors"
    path.write_bytes(damaged(checkpoint[0], changes))
    state = read_or_refuse(lambda: load_state(path), path.name)
    assert state is None or isinstance(state, dict)


JUNK = [None, True, -1, 10**40, 0.5, float("nan"), "x", [], {}, [[1]], {"a": 1}, torch.zeros(2),
        torch.zeros(3, 3, dtype=torch.int64), torch.tensor(float("nan"))]  # fmt: skip


def test_whole_checkpoints_are_gone_on_from(folder, checkpoint):
    path = folder / "good.safetensors"
    path.write_bytes(checkpoint[0])
    assert Run(path).train().epochs == 3


@settings(max_examples=60)
@given(data=st.data())
def test_mutated_checkpoints_change_nothing_or_train_on(folder, checkpoint, data):
    state = copy.deepcopy(checkpoint[1])
    path = data.draw(st.sampled_from(list(places(state))))
    parent = state
    for key in path[:-1]:
        parent = parent[key]
    if data.draw(st.booleans()):
        parent[path[-1]] = data.draw(st.sampled_from(JUNK))
    else:
        del parent[path[-1]]
    file = folder / "mutated.safetensors"
    save_state(file, state)
    run = Run(file)
    before, content = run.everything(), file.read_bytes()
    done = read_or_refuse(run.train, file.name)
    if done is None:
        assert run.everything() == before
        assert file.read_bytes() == content
    else:
        assert done.epochs == 3
        assert run.updater.steps == 6


@settings(max_examples=100)
@given(changes=damages)
def test_damaged_torch_checkpoints_of_the_updater(changes):
    """torch's own loader says what it likes; what it lets through is refused in full or sound."""
    run = Run(None)
    buffer = io.BytesIO()
    torch.save(run.updater.state_dict(), buffer)
    before = run.everything()
    try:
        state = torch.load(io.BytesIO(damaged(buffer.getvalue(), changes)), weights_only=True)
    except Exception:  # noqa: BLE001  # torch's zip reader and unpickler raise half a dozen kinds
        return
    try:
        run.updater.load_state_dict(state)
    except regrow.SparsityError:
        assert run.everything() == before
    else:
        run.train()


def test_a_header_that_claims_what_is_not_there(folder):
    path = folder / "claims.safetensors"
    for header in (
        b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}',
        b'{"a":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}',
        b'{"__metadata__":{"format":"regrow-state","version":"1","state":"' + b"[" * 10**5 + b'"}}',
        b"[" * 10**6,
        b"{}",
    ):
        for length in (len(header), 2**60, 0):
            path.write_bytes(struct.pack("<Q", length) + header + bytes(8))
            with pytest.raises(ValueError, match=r"claims\.safetensors"):
                load_state(path)
