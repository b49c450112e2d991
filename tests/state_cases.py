"""Updaters of every kind in training, and mutations of the states that they save."""

import copy
import enum
import functools
import math
from collections import OrderedDict

import numpy as np
import torch
from damage import places
from hypothesis import strategies as st
from torch import nn

import regrow
from regrow.allocation import explicit
from regrow.errors import SparsityError
from regrow.topology import NM, ConstantFanIn, Topology

N_STEPS, INTERVAL, N_DONE = 40, 2, 5


class Net(nn.Module):
    """A convolution, a matrix and a head, whose sizes every structure divides."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 2)
        self.fc = nn.Linear(16, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.fc(self.conv(x).relu().flatten(1)).relu())


def confined():
    """Topologies that may use the first three quarters of their units; one grouped by four."""
    generator = torch.Generator().manual_seed(3)
    drawn = {}
    for name, shape, structure in (
        ("conv.weight", (4, 4, 2, 2), None),
        ("fc.weight", (8, 16), ConstantFanIn()),
        ("head.weight", (4, 8), NM(1, 4)),
    ):
        n = math.prod(shape)
        allowed = torch.arange(n) % 4 < 3
        if structure is None:
            active = allowed & (torch.rand(n, generator=generator) < 0.4)
        else:
            active = torch.arange(n) % 4 == torch.arange(n) // 4 % 3
        drawn[name] = Topology.from_active(active, shape, structure=structure, allowed=allowed)
    return explicit(drawn)


RIGL = {"n_steps": N_STEPS, "interval": INTERVAL, "stop_at": 1.0}


def combined(net, optimizer):
    return regrow.combine(
        net,
        optimizer,
        [
            regrow.part(regrow.rigl, select="conv*weight", sparsity=0.5, **RIGL),
            regrow.part(
                regrow.set_training,
                select="fc*weight",
                sparsity=None,
                structure=NM(2, 4),
                weight_step="skip",
                **RIGL,
            ),
            regrow.part(regrow.static, select="head*weight", sparsity=0.3),
        ],
        seed=4,
    )


def structured(structure, sparsity=0.5):
    return lambda net, optimizer: regrow.rigl(
        net, optimizer, sparsity=sparsity, structure=structure, seed=4, **RIGL
    )


UPDATERS = {
    "plain": lambda net, optimizer: regrow.rigl(net, optimizer, sparsity=0.6, seed=4, **RIGL),
    "2:4": structured(regrow.NM(2, 4), None),
    "constant fan-in": structured(regrow.ConstantFanIn()),
    "blocks": structured(regrow.Block(2, 2)),
    "kernels": structured(regrow.Kernel()),
    "outputs": structured(regrow.OutChannel()),
    "inputs": structured(regrow.InChannel()),
    "groups of channels": structured(regrow.ChannelGroups(2)),
    "allowed": lambda net, optimizer: regrow.rigl(
        net, optimizer, sparsity=None, allocation=confined(), seed=4, **RIGL
    ),
    "gradual": lambda net, optimizer: regrow.gradual(
        net, optimizer, sparsity=0.6, n_steps=N_STEPS, interval=INTERVAL
    ),
    "parts": combined,
}


def step(net, optimizer, number):
    x = torch.randn(4, 4, 3, 3, generator=torch.Generator().manual_seed(number))
    net(x).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


class Target:
    """An updater in training, and the means to put it back to where it was."""

    def __init__(self, kind):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.net = Net()
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.01, momentum=0.9)
        self.updater = UPDATERS[kind](self.net, self.optimizer)
        # The state that is mutated is not the one that is there when it is loaded.
        self.train(N_DONE)
        self.valid = copy.deepcopy(self.updater.state_dict())
        self.train(3)
        self.rest = copy.deepcopy(self.everything())

    def train(self, n):
        for number in range(n):
            step(self.net, self.optimizer, number)

    def everything(self):
        owners = (self.net, self.optimizer, self.updater)
        return [owner.state_dict() for owner in owners]

    def restore(self):
        for owner, state in zip(
            (self.net, self.optimizer, self.updater), copy.deepcopy(self.rest), strict=True
        ):
            owner.load_state_dict(state)


@functools.cache
def target(kind):
    return Target(kind)


def differences(a, b, where=""):
    """What is not equal to the last bit, in nested dicts and lists of tensors and numbers."""
    if type(a) is not type(b):
        return [f"{where}: {type(a)} {type(b)}"]
    if isinstance(a, torch.Tensor):
        if a.dtype != b.dtype or a.shape != b.shape:
            return [f"{where}: {a.dtype} {a.shape}, {b.dtype} {b.shape}"]
        bits = [x.detach().contiguous().flatten().view(torch.uint8) for x in (a, b)]
        return [] if torch.equal(*bits) else [f"{where}: {a} {b}"]
    if isinstance(a, dict):
        if list(a) != list(b):
            return [f"{where}: {list(a)} {list(b)}"]
        return [found for key in a for found in differences(a[key], b[key], f"{where}/{key}")]
    if isinstance(a, list | tuple):
        if len(a) != len(b):
            return [f"{where}: {len(a)} {len(b)}"]
        pairs = enumerate(zip(a, b, strict=True))
        return [found for i, pair in pairs for found in differences(*pair, f"{where}/{i}")]
    return [] if a == b else [f"{where}: {a} {b}"]


def assert_sound(kind):
    """Weights, topologies and what has been counted fit together, and training goes on."""
    one = target(kind)
    for _ in range(INTERVAL + 1):
        parameters = dict(one.net.named_parameters())
        for name, topology in one.updater.topologies.items():
            assert not parameters[name].detach()[~topology.mask].any()
            again = Topology.from_active(
                topology.active, topology.shape,
                structure=topology.structure, allowed=topology.allowed,
            )  # fmt: skip
            assert again.n_active == topology.n_active
            assert int(topology.mask.sum()) == topology.nnz
        one.train(1)
    str(one.updater.report())
    state = one.updater.state_dict()
    one.updater.load_state_dict(copy.deepcopy(state))
    assert not differences(state, one.updater.state_dict())


def check(kind, state):
    """Whether a state was loaded; it must be refused in full, or be sound."""
    one = target(kind)
    try:
        one.updater.load_state_dict(state)
    except SparsityError as error:
        message = str(error)
    else:
        message = None
    if message is not None:
        assert not differences(one.rest, one.everything())
        assert len(message) < 2000
        return False
    try:
        assert_sound(kind)
    finally:
        one.restore()
    assert not differences(one.rest, one.everything())
    return True


# -- mutations -----------------------------------------------------------------------------------


class Five(enum.IntEnum):
    FIVE = 5


class Subclass(torch.Tensor):
    pass


def deep(make, depth=3000):
    value = make(None)
    for _ in range(depth):
        value = make(value)
    return value


def endless():
    value = []
    value.append(value)
    return value


JUNK = {
    "none": lambda: None,
    "true": lambda: True,
    "text": lambda: "\ud800\x00",
    "long text": lambda: "x" * 10**6,
    "bytes": lambda: b"x",
    "nan": lambda: math.nan,
    "infinity": lambda: math.inf,
    "a float": lambda: 5.0,
    "huge": lambda: 10**5000,
    "huge below zero": lambda: -(10**5000),
    "2**63": lambda: 2**63,
    "complex": lambda: 1j,
    "an enum": lambda: Five.FIVE,
    "numpy": lambda: np.int64(5),
    "array": lambda: np.zeros(8, dtype=np.uint8),
    "list": list,
    "dict": dict,
    "tuple": tuple,
    "set": set,
    "ordered": OrderedDict,
    "object": object,
    "type": lambda: int,
    "deep list": lambda: deep(lambda inner: [inner]),
    "deep dict": lambda: deep(lambda inner: {"layers": inner}),
    "endless": endless,
    "long list": lambda: [1] * 10**5,
    "list of tensors": lambda: [torch.zeros(3)] * 3,
    "scalar": lambda: torch.tensor(5),
    "meta": lambda: torch.empty(10**9, dtype=torch.uint8, device="meta"),
    "sparse": lambda: torch.eye(3).to_sparse(),
    "many from one": lambda: torch.zeros(1, dtype=torch.int64).expand(10**13, 13),
    "many flags": lambda: torch.zeros(1, dtype=torch.uint8).expand(10**15),
    "nothing": lambda: torch.zeros(0),
}
TENSORS = {
    "to float": lambda t: t.float(),
    "nan": lambda t: torch.full(t.shape, math.nan),
    "with gradient": lambda t: t.float().requires_grad_(),
    "to complex": lambda t: t.to(torch.complex64),
    "to bool": lambda t: t.bool(),
    "to int64": lambda t: t.to(torch.int64),
    "to int8": lambda t: t.to(torch.int8),
    "cut": lambda t: t[:-1],
    "longer": lambda t: torch.cat([t, t]),
    "two dimensions": lambda t: t.unsqueeze(0),
    "scalar": lambda t: t.sum(),
    "inverted": lambda t: ~t,
    "zeros": torch.zeros_like,
    "ones": torch.ones_like,
    "minus one": lambda t: t.neg() if t.dtype != torch.uint8 else t + 255,
    "largest": lambda t: torch.full_like(t, torch.iinfo(t.dtype).max),
    "least": lambda t: torch.full_like(t, torch.iinfo(t.dtype).min),
    "flipped": lambda t: t.flip(0),
    "not contiguous": lambda t: t.repeat_interleave(2, dim=0)[::2],
    "transposed memory": lambda t: t.t().contiguous().t(),
    "one for all": lambda t: t.flatten()[:1].sum(0, dtype=t.dtype).expand(t.shape),
    "meta": lambda t: t.to("meta"),
    "sparse": lambda t: t.to_sparse(),
    "subclass": lambda t: t.as_subclass(Subclass),
    "parameter": lambda t: nn.Parameter(t.clone(), requires_grad=False),
    "no memory": lambda t: _without_memory(t.clone()),
    "list": lambda t: t.tolist(),
    "array": lambda t: t.numpy(),
}


def _without_memory(tensor):
    tensor.untyped_storage().resize_(0)
    return tensor


def at(state, path):
    for key in path:
        state = state[key]
    return state


def edit_tensor(draw, tensor):
    if draw(st.booleans()):
        return TENSORS[draw(st.sampled_from(sorted(TENSORS)))](tensor)
    edited = tensor.clone()
    if tensor.numel():
        place = draw(st.integers(0, tensor.numel() - 1))
        if tensor.dtype == torch.uint8:
            edited.view(-1)[place] ^= 1 << draw(st.integers(0, 7))
        else:
            info = torch.iinfo(tensor.dtype)
            ends = st.sampled_from([-1, 0, 1, 2, info.min, info.max])
            edited.view(-1)[place] = draw(st.one_of(ends, st.integers(-10, 60)))
    return edited


def mutate(draw, state):
    """One change, in place."""
    paths = list(places(state))
    path = paths[draw(st.integers(0, len(paths) - 1))]
    parent, key = at(state, path[:-1]), path[-1]
    value = parent[key]
    how = draw(
        st.sampled_from(["junk", "delete", "swap", "edit", "edit", "edit", "add", "reverse"])
    )
    if how == "junk":
        parent[key] = JUNK[draw(st.sampled_from(sorted(JUNK)))]()
    elif how == "delete":
        del parent[key]
    elif how == "swap":
        other = draw(st.sampled_from(list(parent) if isinstance(parent, dict) else [0]))
        parent[key], parent[other] = parent[other], parent[key]
    elif how == "add" and isinstance(parent, dict):
        parent[draw(st.sampled_from(["", "allowed", 3, ("a",), "layers"]))] = value
    elif how == "add":
        parent.append(value)
    elif how == "reverse" and isinstance(value, dict):
        parent[key] = dict(reversed(value.items()))
    elif isinstance(value, torch.Tensor):
        parent[key] = edit_tensor(draw, value)
    elif type(value) is int:
        parent[key] = draw(
            st.one_of(
                st.integers(),
                st.integers(value - 2, value + 2),
                st.booleans(),
                st.just(float(value)),
            )
        )
    elif isinstance(value, list):
        parent[key] = draw(st.permutations(value))
