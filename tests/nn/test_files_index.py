"""Topologies in few bytes: the smallest coding, back from each, and codes that are wrong."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from regrow import SparsityError, Topology, Unstructured
from regrow.nn._files_index import CODINGS, coded, decode, encode


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


def test_bits_behind_the_last_element_are_refused():
    with pytest.raises(SparsityError, match="connection at 7 in a weight of 7"):
        decode(
            "bits", torch.tensor([1], dtype=torch.uint8), shape=(1, 7), nnz=1,
            structure=Unstructured(),
        )  # fmt: skip
