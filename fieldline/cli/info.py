# SPDX-License-Identifier: Apache-2.0
"""``fieldline info``: what a file, a folder of photos or a run holds."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from .console import print_facts, print_json


@dataclass(frozen=True)
class Info:
    """Say what a file, a folder of photos or a run holds."""

    path: tyro.conf.Positional[Path]
    """A file that fieldline reads, a folder of photos with poses, or a run folder."""
    kind: str | None = None
    """The data set that a .bin, .npy or .txt of points is of, where its values leave that open."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> int:
        """Prints what is there."""
        facts = describe(self.path, self.kind)
        if self.json:
            print_json(facts)
        else:
            parts = {one: facts.pop(many, {}) for one, many in PARTS.items()}
            rows = {name.replace("_", " "): readable(value) for name, value in facts.items()}
            for one, found in parts.items():
                rows |= {f"{one} {name or '-'}": readable(part) for name, part in found.items()}
            print_facts(rows)
        return 0


# Facts that have a row for each of their parts.
PARTS = {"grid": "grids", "channel": "channels"}


def describe(path: Path, kind: str | None = None) -> dict[str, Any]:
    """Facts about whatever lies at a path.

    Args:
        path: A file or folder.
        kind: Of points, as of `load_point_cloud`.

    Raises:
        FileNotFoundError: If nothing does.
    """
    from ..datasets import is_point_cloud
    from ..representations.files import VDB_SUFFIXES, load
    from ..representations.points import PointCloud
    from .inputs import SCENE_FILE

    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    if path.is_dir():
        if (path / SCENE_FILE).exists():
            return describe_run(path)
        return describe_points(path, kind) if is_point_cloud(path) else describe_photos(path)
    if path.name.startswith("transforms") and path.suffix == ".json":
        return describe_photos(path)
    size = {"path": str(path), "bytes": path.stat().st_size}
    if path.suffix.lower() in VDB_SUFFIXES and path.is_file():
        return {**size, **describe_vdb(path)}
    # A .ply may hold splats as well, which only its header tells.
    if path.suffix.lower() == ".ply":
        thing = load(path)
        points = isinstance(thing, PointCloud)
        return {**size, **(describe_points(path, kind) if points else describe_object(thing))}
    if is_point_cloud(path):
        return {**size, **describe_points(path, kind)}
    return {**size, **describe_object(load(path))}


def describe_object(thing: Any) -> dict[str, Any]:
    """Facts about something that `load` returned."""
    from ..representations.camera_path import CameraPath
    from ..representations.gaussians import Gaussians3D

    facts: dict[str, Any] = {"kind": type(thing).__name__}
    if isinstance(thing, Gaussians3D):
        return {**facts, **describe_splats(thing)}
    if isinstance(thing, CameraPath):
        size = f"{thing.cameras.width} x {thing.cameras.height}"
        return {**facts, "frames": len(thing), "size": size, "seconds": thing.seconds}
    if hasattr(thing, "__len__"):
        facts["count"] = len(thing)
    return facts


def describe_points(path: Path, kind: str | None) -> dict[str, Any]:
    """How many points, where they are, what is known of each, and of which classes they are."""
    from ..datasets import load_point_cloud

    with warnings.catch_warnings():
        # What is not finite is counted below.
        warnings.simplefilter("ignore")
        frame = load_point_cloud(path, kind)
    finite = frame.points[frame.finite()]
    facts: dict[str, Any] = {
        "path": str(path),
        "kind": "points",
        "points": len(frame),
        "not_finite": len(frame) - len(finite),
    }
    if len(finite):
        low, high = finite.amin(0).tolist(), finite.amax(0).tolist()
        facts |= {"lower_corner": low, "upper_corner": high}
    if any(frame.origin):
        facts["origin"] = list(frame.origin)
    if frame.labels is not None:
        facts["labels"] = count_labels(frame.labels, frame.classes)
    if frame.instances is not None:
        facts["instances"] = len(frame.instances.unique())
    channels = {name: describe_channel(values) for name, values in frame.channels.items()}
    return facts | ({"channels": channels} if channels else {})


def describe_channel(values: Any) -> dict[str, Any]:
    """The range of what was measured at each point."""
    finite = values[values.isfinite()]
    facts: dict[str, Any] = {}
    if len(finite):
        facts = {"lowest": float(finite.min()), "highest": float(finite.max())}
    if len(finite) < len(values):
        facts["not_finite"] = len(values) - len(finite)
    return facts


def count_labels(labels: Any, classes: tuple[str, ...]) -> dict[str, int]:
    """Points of each class, by name where there is one."""
    numbers, counts = labels.unique(return_counts=True)
    names = [
        classes[n] if 0 <= n < len(classes) else "none" if n == -1 else str(n)
        for n in numbers.tolist()
    ]
    return dict(zip(names, counts.tolist()))


def describe_splats(splats: Any) -> dict[str, Any]:
    """Count, degree, where they are, and how large and opaque the middle one is."""
    finite = splats.select(splats.finite())
    facts: dict[str, Any] = {
        "splats": len(splats),
        "not_finite": len(splats) - len(finite),
        "sh_degree": splats.sh_degree,
    }
    if len(finite):
        low, high = finite.bounds().tolist()
        facts |= {
            "lower_corner": low,
            "upper_corner": high,
            "median_scale": float(finite.scales.detach().median()),
            "median_opacity": float(finite.opacities.detach().median()),
        }
    return facts


def describe_vdb(path: Path) -> dict[str, Any]:
    """The grids of a VDB file as they are stored: tiles are not made voxels to be counted."""
    from ..representations.files import read_vdb

    file = read_vdb(path)
    return {
        "kind": "VDB grids",
        "grids": {name: describe_grid(t) for name, t in zip(file.names, file)},
    }


def describe_grid(tree: Any) -> dict[str, Any]:
    """What a grid holds, where, and how it is stored."""
    facts: dict[str, Any] = {
        "values": tree.value_type,
        "class": tree.grid_class,
        "active_voxels": tree.active_voxels,
        "leaves": len(tree.leaf_origins),
        "active_tiles": int(tree.tiles.active.sum()),
        "background": tree.background.tolist(),
        "voxel_size": tree.voxel_size,
    }
    if (box := tree.bounds()) is not None:
        facts |= {"lower_voxel": list(box[0]), "upper_voxel": list(box[1])}
    named = {k: v.value for k, v in tree.metadata.items() if not isinstance(v.value, bytes)}
    return {**facts, "metadata": named} if named else facts


def describe_photos(path: Path) -> dict[str, Any]:
    """Views, their sizes and split, and the sparse points of a captured scene."""
    from ..datasets import load

    scene = load(path)
    sizes = sorted({f"{view.width} x {view.height}" for view in scene.views})
    low, high = scene.bounds.tolist()
    return {
        "path": str(path),
        "kind": "photos",
        "views": len(scene.views),
        "train": len(scene.train),
        "test": len(scene.test),
        "sizes": sizes,
        "camera_models": sorted({view.camera.model for view in scene.views}),
        "points": 0 if scene.points is None else len(scene.points),
        "lower_corner": low,
        "upper_corner": high,
        "extent": scene.extent,
    }


def describe_run(folder: Path) -> dict[str, Any]:
    """The splats of a run, what it was made from, and how well it did."""
    from .inputs import open_input, read_json_object

    run = open_input(folder)
    metrics = read_json_object(folder / "metrics.json")
    return {
        "path": str(folder),
        "kind": "run",
        **describe_splats(run.splats),
        "config": run.config,
        "metrics": metrics,
    }


def readable(value: Any) -> str:
    """A value as a person would write it."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key.replace('_', ' ')} {readable(v)}" for key, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(readable(item) for item in value)
    return str(value)
