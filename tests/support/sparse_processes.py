# SPDX-License-Identifier: Apache-2.0
"""What each process of a distributed test runs; spawned processes import it by name."""

from __future__ import annotations

from datetime import timedelta

import sparse_twin as twin
import torch
import torch.distributed as dist
from op_harness import seeded
from torch import nn

import fieldline as fl


def network() -> nn.Module:
    torch.manual_seed(0)
    n = fl.nn
    return n.Sequential(
        n.SubmConv3d(4, 8, 3),
        n.SyncBatchNorm(8),
        n.ReLU(),
        n.Conv3d(8, 8, 2, 2),
        n.SyncBatchNorm(8, momentum=None),
        n.InverseConv3d(8, 2, 2, 2),
    ).double()


def batch() -> fl.SparseTensor:
    """Two items of different sizes."""
    x = twin.random_tensor((6, 6, 6), 4, 2, seeded("distributed"), share=0.2)
    return x.prune((x.coords[:, 0] == 0) | (x.coords[:, 1] < 3)).detach()


def half(rank: int) -> fl.SparseTensor:
    x = batch()
    rows = x.coords[:, 0] == rank
    coords = x.coords[rows] * torch.tensor([0, 1, 1, 1]).int()
    return fl.SparseTensor(coords, x.feats[rows], 1, x.spatial_range, 1)


def step(model: nn.Module, x: fl.SparseTensor, share: float) -> None:
    (model(x).feats.square().sum() * share).backward()


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", 2)
    patience = timedelta(seconds=30)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=patience)
    model = network()
    wrapped = nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
    step(wrapped, half(rank), 2.0)  # gradients are averaged over the processes
    result = {name: p.grad for name, p in model.named_parameters()}
    result.update({name: value.clone() for name, value in model.named_buffers()})
    empty = half(rank).prune(torch.full((len(half(rank)),), rank == 0))
    result["with an empty process"] = model[1](model[0](empty)).feats.sum()
    torch.save(result, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
