# SPDX-License-Identifier: Apache-2.0
"""Teaches a MinkUNet what is what in one LiDAR frame, and paints the frame as it sees it.

    python examples/segment_lidar.py                         # a street made here
    python examples/segment_lidar.py 000000.bin segmented    # SemanticKITTI, with its .label

Writes segmented.ply, the points in the colours of their classes, and segmented.png, the street from
above: as labelled, as segmented, and where the two differ. One frame is learnt by heart, so this
says nothing about other frames; it shows the whole way from points to voxels, through a network,
and back to points, forward and backward, on a CPU in minutes.
"""

from __future__ import annotations

import math
import sys
import time

import numpy as np
import torch
from fieldline.datasets.lidar_classes import COLORS
from fieldline.engine.sparse.models import MinkUNet
from PIL import Image
from torch import Tensor

import fieldline as fl

UNLABELLED = (70, 70, 70)
RANGE = 35.0  # metres from the sensor to the edge of the picture
PIXELS = 560


def main(
    path: str = "",
    output: str = "segmented",
    voxel_size: float = 0.2,
    steps: int = 100,
    learning_rate: float = 1.5e-2,
    device: str = "cpu",
) -> float:
    """Trains, writes the pictures, and returns the share of points that get their label."""
    frame = fl.datasets.load_point_cloud(path) if path else fl.datasets.synthetic.street()
    if frame.labels is None:
        raise ValueError(f"segment_lidar: path: expected a frame with labels, got {path} without")
    torch.manual_seed(0)
    frame = frame.to(device)
    x, inverse = fl.SparseTensor.from_points(frame.points, frame.features(), voxel_size)
    print(f"{len(frame):,} points, {len(x):,} voxels of {voxel_size} m")

    model = MinkUNet(in_channels=4, classes=len(frame.classes), width=0.5).to(device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: rate(step / steps))
    start = time.process_time()
    for step in range(steps):
        # Every pass finds the maps of the first one in the tensor's cache.
        logits = model(x).devoxelize(inverse=inverse)
        loss = torch.nn.functional.cross_entropy(logits, frame.labels, ignore_index=-1)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 10 == 9:
            share = accuracy(logits.argmax(1), frame.labels)
            spent = time.process_time() - start
            print(f"step {step + 1}: loss {loss.item():.3f}, {share:.1%} right, {spent:.0f} CPU s")

    model.eval()
    with torch.inference_mode():
        logits = model(x).devoxelize(frame.points, voxel_size, mode="trilinear")
    found = logits.argmax(1)
    report(found, frame)
    paint(found, frame, output)
    return accuracy(found, frame.labels)


def rate(progress: float) -> float:
    """A tenth of the steps up, the rest down a cosine."""
    return min(progress / 0.1 + 0.05, 1.0) * (0.51 + 0.49 * math.cos(math.pi * progress))


def accuracy(found: Tensor, labels: Tensor) -> float:
    """The share of labelled points that are found right."""
    return (found == labels)[labels >= 0].double().mean().item()


def report(found: Tensor, frame: fl.datasets.LidarFrame) -> None:
    """Prints accuracy and intersection over union, in all and for each class."""
    print(f"{accuracy(found, frame.labels):.2%} of the labelled points are right")
    for index, name in enumerate(frame.classes):
        truth = frame.labels == index
        guess = (found == index) & (frame.labels >= 0)
        if count := int(truth.sum()):
            iou = int((truth & guess).sum()) / int((truth | guess).sum())
            print(f"  {name:14s} {count:7,} points, IoU {iou:.3f}")


def paint(found: Tensor, frame: fl.datasets.LidarFrame, output: str) -> None:
    """Writes the coloured points, and the frame from above."""
    colors = torch.from_numpy(COLORS).to(found.device)
    seen = colors[found]
    truth = colors[frame.labels.clamp(min=0)]
    truth[frame.labels < 0] = torch.tensor(UNLABELLED, dtype=torch.uint8, device=found.device)
    wrong = torch.full_like(seen, 60)
    wrong[(found != frame.labels) & (frame.labels >= 0)] = wrong.new_tensor((255, 60, 60))
    fl.save(frame.cloud(seen).to("cpu"), f"{output}.ply")
    views = [from_above(frame.points.cpu(), c.cpu()) for c in (truth, seen, wrong)]
    Image.fromarray(np.concatenate(views, axis=1)).save(f"{output}.png")
    print(f"wrote {output}.ply and {output}.png: labels, what was found, where they differ")


def from_above(points: Tensor, colors: Tensor) -> np.ndarray:
    """A picture in which the highest point of each pixel shows; x is up, y is left."""
    place = ((RANGE - points[:, :2]) / (2 * RANGE) * PIXELS).floor().long()
    inside = ((place >= 0) & (place < PIXELS)).all(dim=1)
    order = points[inside, 2].argsort()
    row, column = place[inside][order].unbind(1)
    picture = np.zeros((PIXELS, PIXELS, 3), np.uint8)
    picture[row.numpy(), column.numpy()] = colors[inside][order].numpy()
    return picture


if __name__ == "__main__":
    main(*sys.argv[1:3])
