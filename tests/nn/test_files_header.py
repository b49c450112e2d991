"""The header of a file is read strictly."""

import json

import pytest
import torch
from file_cases import NAME, dense_net

from regrow import SparsityError
from regrow.nn import load
from regrow.nn._files_header import Header, structure_of

safetensors = pytest.importorskip("safetensors.torch", reason="files need safetensors")


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


@pytest.mark.parametrize("text", ["", "[", "NaN", "[" * 100_000, '{"format": 1e999}', '"\\ud800"'])
def test_a_header_that_is_no_json(path, text):
    safetensors.save_file({"a": torch.ones(1)}, path, metadata={"regrow": text})
    with pytest.raises(SparsityError, match=NAME):
        load(dense_net(), path)
