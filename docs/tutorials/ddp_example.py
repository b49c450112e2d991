"""RigL on several processes: ``torchrun --nproc-per-node 2 ddp_example.py``.

Each rank sees its own share of the data; all decide the same topology, without a line for it.
"""

import argparse
import os

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import regrow


def noisy_classes(n: int = 2048) -> TensorDataset:
    """Ten classes, each a point in 64 dimensions with noise around it."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(10, 64, generator=generator)
    labels = torch.randint(10, (n,), generator=generator)
    return TensorDataset(centres[labels] + torch.randn(n, 64, generator=generator), labels)


def main(*, epochs: int, checkpoint: str) -> None:
    """Train as one of the ranks that torchrun started."""
    on_gpu = torch.cuda.is_available()
    dist.init_process_group("nccl" if on_gpu else "gloo")
    rank = dist.get_rank()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpu else torch.device("cpu")

    data = noisy_classes()
    sampler = DistributedSampler(data, seed=0)
    loader = DataLoader(data, batch_size=64, sampler=sampler)

    net = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10)).to(device)
    model = DistributedDataParallel(net)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    updater = regrow.rigl(
        model, optimizer, sparsity=0.9, n_steps=epochs * len(loader), interval=5, seed=0
    )

    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        for x, y in loader:
            F.cross_entropy(model(x.to(device)), y.to(device)).backward()
            optimizer.step()
            optimizer.zero_grad()

    if rank == 0:
        print(updater.report())
        state = {
            "model": net.state_dict(),
            "optimizer": optimizer.state_dict(),
            "updater": updater.state_dict(),
        }
        torch.save(state, checkpoint)
    dist.destroy_process_group()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--checkpoint", default="ddp.pt")
    given = parser.parse_args()
    main(epochs=given.epochs, checkpoint=given.checkpoint)
