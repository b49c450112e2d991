"""Samples and batches of them."""

import numpy as np
import pytest
import torch

from regrow import SparsityError
from regrow.systems.truly_sparse import Samples, predict, sparse_mlp

sp = pytest.importorskip("scipy.sparse")


def test_shards_are_disjoint_and_complete():
    x = torch.arange(22.0).view(11, 2)
    samples = Samples(x, torch.arange(11))
    shards = [samples.shard(k, 3) for k in range(3)]
    assert [len(shard) for shard in shards] == [4, 4, 3]
    assert sorted(torch.cat([shard.y for shard in shards]).tolist()) == list(range(11))
    for shard in shards:
        assert torch.equal(shard.x, x[shard.y])


def test_compressed_rows_give_the_batches_that_dense_ones_give():
    rng = np.random.default_rng(0)
    dense = rng.random((13, 7)) * (rng.random((13, 7)) < 0.3)
    y = torch.arange(13)
    a, b = Samples(torch.from_numpy(dense), y), Samples(sp.csr_matrix(dense), y)
    net = sparse_mlp((7, 6, 2), epsilon=2, dtype=torch.float64)
    torch.testing.assert_close(predict(net, a.x), predict(net, b.x), rtol=1e-12, atol=1e-14)
    indices = torch.tensor([5, 0, 12])
    for one, other in ((a, b), (a.shard(1, 3), b.shard(1, 3))):
        some = indices % len(one)
        (x1, y1), (x2, y2) = one.batch(some), other.batch(some)
        torch.testing.assert_close(net(x1), net(x2), rtol=1e-12, atol=1e-14)
        assert torch.equal(y1, y2)


def test_predict_is_by_batches_and_in_evaluation_mode():
    net = sparse_mlp((5, 6, 2), epsilon=2, dropout=0.5, dtype=torch.float64)
    x = torch.randn(10, 5, dtype=torch.float64)
    outputs = predict(net, x, batch_size=3)
    assert net.training
    torch.testing.assert_close(outputs, net.eval()(x).detach(), rtol=1e-12, atol=1e-14)
    assert not outputs.requires_grad


@pytest.mark.parametrize(
    ("x", "y", "error"),
    [
        (torch.ones(3, 2), torch.ones(2), SparsityError),
        (torch.ones(0, 2), torch.ones(0), SparsityError),
        (torch.ones(3), torch.ones(3), SparsityError),
        (torch.ones(3, 2, dtype=torch.int64), torch.ones(3), TypeError),
        (np.ones((3, 2)), torch.ones(3), TypeError),
        (sp.coo_matrix(np.ones((3, 2))), torch.ones(3), TypeError),
        (torch.ones(3, 2), [1, 2, 3], TypeError),
    ],
)
def test_arguments_are_checked(x, y, error):
    with pytest.raises(error):
        Samples(x, y)


def test_other_forms_are_told_the_way():
    sp = pytest.importorskip("scipy.sparse", reason="its matrices are the input")
    x = sp.random(3, 6, 0.5, format="coo", dtype="float32")
    with pytest.raises(TypeError, match=r"got coo_matrix of shape \(3, 6\).*x\.tocsr\(\) is one"):
        Samples(x, torch.zeros(3))
    with pytest.raises(TypeError, match=r"got ndarray of shape \(3, 6\).*from_numpy\(x\) is one"):
        Samples(torch.ones(3, 6).numpy(), torch.zeros(3))
