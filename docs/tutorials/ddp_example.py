"""RigL on several processes: ``torchrun --standalone --nproc-per-node 2 ddp_example.py``.

Each rank sees its own share of the data; all decide the same topology, without a line for it.
"""

import argparse
import os
from pathlib import Path

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


def join() -> torch.device:
    """Become one of the ranks that torchrun started; the device that this one computes on."""
    if not torch.cuda.is_available():
        dist.init_process_group("gloo")
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    dist.init_process_group("nccl")
    return device


def main(*, epochs: int, folder: Path) -> None:
    """Train, and let rank 0 write ``checkpoint.pt`` into a folder."""
    device = join()
    rank = dist.get_rank()

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
            loss = F.cross_entropy(model(x.to(device)), y.to(device))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        if rank == 0:
            print(f"epoch {epoch + 1}: loss {loss.item():.3f} (rank 0, last batch)")

    if rank == 0:
        print(updater.report())
        state = {
            "model": net.state_dict(),
            "optimizer": optimizer.state_dict(),
            "updater": updater.state_dict(),
        }
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(state, folder / "checkpoint.pt")
        print(f"wrote {folder / 'checkpoint.pt'}")
    dist.destroy_process_group()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--folder", type=Path, default=Path("build/ddp"))
    given = parser.parse_args()
    main(epochs=given.epochs, folder=given.folder)
