# SPDX-License-Identifier: Apache-2.0
"""Initial splats for other people's trainers: COLMAP models, point clouds, gsplat's parameters.

INRIA's .ply order is what `fieldline.save` writes for every `Gaussians3D`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...datasets import Scene, View
from ...representations import Gaussians3D, PointCloud, quaternion_to_matrix, sh0_to_rgb


def to_point_cloud(gaussians: Gaussians3D) -> PointCloud:
    """Gives centres, colours and normals.

    Args:
        gaussians: N splats.

    Returns:
        N points: their colour is that of band 0, their normal the shortest axis, whose sign is
        not determined.

    Example:
        >>> len(to_point_cloud(Gaussians3D.random(5, seed=0)))
        5
    """
    rgb = sh0_to_rgb(gaussians.sh0.detach()[:, 0]).clamp(0, 1)
    axes = quaternion_to_matrix(gaussians.quats.detach())
    shortest = gaussians.log_scales.detach().argmin(dim=-1)
    normal = axes.gather(2, shortest[:, None, None].expand(-1, 3, 1))[..., 0]
    return PointCloud(
        gaussians.means.detach().float().cpu(),
        (rgb * 255).round().to(torch.uint8).cpu(),
        normal.float().cpu(),
    )


def gsplat_parameters(gaussians: Gaussians3D) -> dict[str, Tensor]:
    """Gives plain tensors under the names that gsplat's trainers use.

    Args:
        gaussians: N splats.

    Returns:
        means [N, 3], scales [N, 3] (logarithms), quats [N, 4] (wxyz), opacities [N] (logits),
        sh0 [N, 1, 3] and shN [N, K - 1, 3]: copies, ready for a `torch.nn.ParameterDict`.

    Example:
        >>> sorted(gsplat_parameters(Gaussians3D.random(5, seed=0)))
        ['means', 'opacities', 'quats', 'scales', 'sh0', 'shN']
    """
    names = {
        "means": "means",
        "scales": "log_scales",
        "quats": "quats",
        "opacities": "opacity_logits",
        "sh0": "sh0",
        "shN": "shN",
    }
    return {key: getattr(gaussians, name).detach().clone() for key, name in names.items()}


def write_colmap(
    gaussians: Gaussians3D, scene: Scene, folder: str | Path, *, text: bool = False
) -> Path:
    """Writes a COLMAP model: the scene's cameras and images, and the splats' centres as points.

    Trainers that start from COLMAP's points3D read it as they read SfM's. Points have no track.

    Args:
        gaussians: The splats.
        scene: Its cameras must be pinholes.
        folder: Where; it is made if need be, and must not hold a model yet.
        text: Write .txt files instead of .bin.

    Returns:
        The folder.

    Raises:
        ImportError: If pycolmap is not installed.
        ValueError: If the folder holds a model, or a camera is no pinhole.

    Example:
        >>> splats = Gaussians3D.random(5, seed=0)
        >>> sorted(p.name for p in write_colmap(splats, scene, tmp_path / "model").glob("p*.bin"))
        ['points3D.bin']
    """
    pycolmap = _pycolmap()
    place = Path(folder)
    taken = [name for name in ("points3D.bin", "points3D.txt") if (place / name).exists()]
    if taken or place.is_file():
        raise ValueError(f"write_colmap: folder: expected one without a model, got {place}")
    model = pycolmap.Reconstruction()
    for number, view in enumerate(scene.views, start=1):
        _add_view(pycolmap, model, number, view)
    cloud = to_point_cloud(gaussians)
    assert cloud.colors is not None
    for position, color in zip(cloud.points.double().numpy(), cloud.colors.numpy()):
        model.add_point3D(position, pycolmap.Track(), color)
    place.mkdir(parents=True, exist_ok=True)
    (model.write_text if text else model.write_binary)(str(place))
    return place


def _add_view(pycolmap: Any, model: Any, number: int, view: View) -> None:
    camera = view.camera.to(torch.float64)
    if camera.model != "pinhole":
        raise ValueError(
            f"write_colmap: scene: expected pinhole cameras, got {camera.model} in {view.name}"
        )
    K = camera.K
    entry = pycolmap.Camera(
        model="PINHOLE",
        width=camera.width,
        height=camera.height,
        params=[float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2])],
        camera_id=number,
    )
    image = pycolmap.Image(name=_name(view), camera_id=number, image_id=number)
    qvec, tvec = camera.to_colmap()
    rotation = pycolmap.Rotation3d(qvec[[1, 2, 3, 0]].numpy())
    pose = pycolmap.Rigid3d(rotation, tvec.numpy())
    # Since COLMAP 3.12 images hang on frames of rigs; before, they held their pose themselves.
    if hasattr(model, "add_camera_with_trivial_rig"):
        model.add_camera_with_trivial_rig(entry)
        model.add_image_with_trivial_frame(image, pose)
    else:
        model.add_camera(entry)
        image.cam_from_world = pose
        model.add_image(image)
        model.register_image(number)


def _name(view: View) -> str:
    """The image's path below `images`, which COLMAP's names start from."""
    parts = Path(view.name).parts
    return "/".join(parts[1:] if len(parts) > 1 and parts[0] == "images" else parts)


def _pycolmap() -> Any:
    try:
        import pycolmap
    except ImportError as error:
        raise ImportError(
            "write_colmap: the package pycolmap is not installed: pip install fieldline[data]"
        ) from error
    return pycolmap
