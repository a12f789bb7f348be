# SPDX-License-Identifier: Apache-2.0
"""``fieldline bench``: what a network costs on a file, on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from .console import print_facts, print_json, print_rows


@dataclass(frozen=True)
class Bench:
    """Measure a network of sparse convolutions on a point cloud: its levels, operations and time.

    Without --input the cloud is a street that is made here.
    """

    system: tyro.conf.Positional[Literal["sparse"]]
    """What to measure."""
    model: str = "minkunet-1.0"
    """Which network; `--model list` prints them."""
    input: Path | None = None
    """A point cloud: .bin, .npz, .ply, .pcd, .las, ..."""
    kind: str | None = None
    """The data set that a .bin, .npy or .txt is of, where its values leave that open."""
    device: str = "cpu"
    """cpu or cuda."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Of features and weights."""
    threads: int = 0
    """CPU threads; 0: as many as torch takes."""
    repeats: int = 3
    """Runs of each measurement; the least counts."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> int:
        """Measures and prints."""
        import torch

        from ..engine.sparse.models import CONFIGURATIONS

        if self.model == "list":
            rows = [[c.name, c.about, str(c.voxel_size)] for c in CONFIGURATIONS.values()]
            print_rows(["model", "for", "voxel size, m"], rows)
            return 0
        if self.threads < 0 or self.repeats < 1:
            raise ValueError(
                "bench: threads, repeats: expected at least 0 and 1, "
                f"got {self.threads} and {self.repeats}"
            )
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads or before)
        try:
            facts = self.measure()
        finally:
            torch.set_num_threads(before)
        if self.json:
            print_json(facts)
        else:
            show(facts)
        return 0

    def measure(self) -> dict[str, Any]:
        """The facts that are printed."""
        import torch

        from ..datasets import load_point_cloud, synthetic
        from ..engine.sparse import count_operations
        from ..engine.sparse.arguments import device_here
        from ..engine.sparse.models import configuration, measure

        chosen = configuration(self.model)
        device, dtype = device_here("bench", "device", self.device), getattr(torch, self.dtype)
        if device.type not in ("cpu", "cuda"):
            raise ValueError(f"bench: device: expected cpu or cuda, got {self.device!r}")
        if self.input is None:
            frame = synthetic.street()
        else:
            frame = load_point_cloud(self.input, self.kind)
        torch.manual_seed(0)
        model = chosen.make().eval().to(device, dtype)
        sample = chosen.prepare(frame, device, dtype)

        with torch.inference_mode():
            scratch = measure.seconds(
                lambda: model(*measure.without_maps(sample)), self.repeats, device
            )
            planned = measure.seconds(lambda: model(*sample.arguments), self.repeats, device)
            kinds = measure.seconds_by_kind(model, sample.arguments, self.repeats)
            operations = count_operations(measure.of_voxels(model, sample), sample.tensor)
        levels = measure.count_levels(sample.tensor.maps)
        return {
            "model": chosen.name,
            "about": chosen.about,
            "input": "a street made here" if self.input is None else str(self.input),
            "points": len(frame),
            "points_inside": len(sample.points),
            "voxels": len(sample.tensor),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "dtype": self.dtype,
            "threads": torch.get_num_threads(),
            "parameters": sum(p.numel() for p in model.parameters()),
            "multiply_adds": operations.multiply_adds,
            "multiply_adds_padded": operations.padded_multiply_adds,
            "milliseconds_with_maps": 1e3 * scratch,
            "milliseconds_maps_planned": 1e3 * planned,
            "levels": [vars(level) for level in levels],
            "milliseconds_by_kind": {kind: 1e3 * spent for kind, spent in kinds.items()},
        }


def show(facts: dict[str, Any]) -> None:
    """Prints the facts as tables."""
    levels, kinds = facts["levels"], facts["milliseconds_by_kind"]
    real, padded = facts["multiply_adds"], facts["multiply_adds_padded"]
    print_facts(
        {
            "model": f"{facts['model']} ({facts['about']}), {facts['parameters'] / 1e6:.2f} M",
            "input": f"{facts['input']}: {facts['points_inside']:,} points",
            "on": f"{facts['device']}, {facts['dtype']}, {facts['threads']} threads",
            "multiply-adds": f"{real / 1e9:.2f} G, with padding {padded / 1e9:.2f} G",
            "from scratch": f"{facts['milliseconds_with_maps']:.2f} ms",
            "maps planned": f"{facts['milliseconds_maps_planned']:.2f} ms",
        }
    )
    rows = [
        [
            " ".join(map(str, level["stride"])),
            level["voxels"],
            "-" if level["pairs"] is None else f"{level['pairs']:.2f}",
        ]
        for level in levels
    ]
    print_rows(["stride", "voxels", "pairs/voxel"], rows, "\nLevels")
    print_rows(["layers", "ms"], [[kind, spent] for kind, spent in kinds.items()], "\nTime")
