# SPDX-License-Identifier: Apache-2.0
"""``fieldline render``: pictures or a video of splats."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from .console import output, print_json
from .progress import counted

if TYPE_CHECKING:
    from torch import Tensor

    from ..datasets.scene import Scene
    from ..representations.camera_path import CameraPath
    from ..representations.cameras import Camera
    from ..representations.gaussians import Gaussians3D
    from .inputs import Input

NamedCamera = tuple[str, "Camera"]
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Render:
    """Render splats: the views of their photos, a circle, or a camera path; PNG files or a video.

    Without --views, --circle or --path, the test views of the photos are rendered if those are
    known, else a circle of 60 frames.
    """

    input: tyro.conf.Positional[Path]
    """A run folder, or a file of splats."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """A folder for PNG files, or a video: .mp4, .mov, .mkv."""
    views: Literal["test", "train", "all"] | None = None
    """Render the cameras of these photos."""
    circle: int | None = None
    """Render this many frames on a circle around the scene."""
    path: Path | None = None
    """Render the frames of a camera path (JSON, as nerfstudio's viewer exports it)."""
    photos: Path | None = None
    """Photos with poses to take cameras from; default those that the run was made from."""
    downscale: float | None = None
    """Divide the size of the photos' cameras by this; default as in the run, else 1."""
    width: int | None = None
    """Width in pixels; default the cameras' own, 800 for a circle without photos."""
    height: int | None = None
    """Height in pixels; default as the width's."""
    up: Triple | None = None
    """Which way is up for a circle; default what the photos say, else +z."""
    background: Triple | None = None
    """Colour behind the splats, 0 to 1 each; default the photos', else black."""
    fps: float | None = None
    """Frames per second of a video; default the camera path's, else 24."""
    antialiased: bool = False
    """Compensate opacities for the pixel filter."""
    overwrite: bool = False
    """Replace the output if it is already there."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> int:
        """Renders every camera into the output."""
        import torch

        from .frames import open_sink
        from .inputs import open_input, quick

        source = open_input(self.input)
        cameras, fps, scene = self.cameras(source)
        sink = open_sink(self.output, fps, self.overwrite)
        splats = quick(source.splats)
        behind = self.background or source.background or (scene and scene.background)
        background = None if behind is None else torch.tensor(behind)
        antialiased = self.antialiased or source.antialiased
        with sink:
            for name, camera in counted(cameras, "rendering"):
                sink.add(name, picture(splats, camera, background, antialiased))
        if self.json:
            print_json({"output": str(self.output), "frames": len(cameras), "fps": fps})
        else:
            count = len(cameras)
            frames = "1 frame" if count == 1 else f"{count} frames"
            output().print(f"{self.output}: {frames}", soft_wrap=True)
        return 0

    def cameras(self, source: Input) -> tuple[list[NamedCamera], float, Scene | None]:
        """The cameras to render with their names, the frame rate, and the photos if known.

        Raises:
            ValueError: If more than one kind is asked for, or photos are and none are known.
        """
        kinds = [name for name in ("views", "circle", "path") if getattr(self, name) is not None]
        if len(kinds) > 1:
            raise ValueError(f"render: expected one of --views, --circle, --path, got {kinds}")
        if self.circle is not None and self.circle < 1:
            raise ValueError(f"render: --circle: expected at least 1 frame, got {self.circle}")
        if self.path is not None:
            flight = read_flight(self.path)
            return self.numbered(flight), self.fps or flight.fps, self.known_scene(source)
        wants_views = self.views is not None or self.photos is not None
        scene = (
            source.scene(self.photos, self.downscale) if wants_views else self.known_scene(source)
        )
        if self.circle is None and scene is not None:
            return self.view_cameras(scene), self.fps or 24.0, scene
        frames = self.circle or 60
        flight = circle(source.splats, scene, frames, self.up, self.width, self.height)
        return self.numbered(flight), self.fps or 24.0, scene

    def known_scene(self, source: Input) -> Scene | None:
        """The photos, where the user or the run names some."""
        known = self.photos is not None or source.photos is not None
        return source.scene(self.photos, self.downscale) if known else None

    def numbered(self, flight: CameraPath) -> list[NamedCamera]:
        """The frames of a camera path, named by their number."""
        return [(f"{i:05d}", self.sized(camera)) for i, camera in enumerate(flight.cameras)]

    def view_cameras(self, scene: Scene) -> list[NamedCamera]:
        """The cameras of the views that were asked for.

        Raises:
            ValueError: If there are none of that kind.
        """
        which = self.views or ("test" if scene.test else "all")
        views = {"test": scene.test, "train": scene.train, "all": scene.views}[which]
        if not views:
            raise ValueError(f"render: --views {which}: the photos have none")
        return [(str(Path(view.name).with_suffix("")), self.sized(view.camera)) for view in views]

    def sized(self, camera: Camera) -> Camera:
        """The camera at the size that was asked for; one side alone keeps the shape."""
        if self.width is None and self.height is None:
            return camera
        shape = camera.width / camera.height
        width = self.width or round((self.height or 1) * shape)
        height = self.height or round(width / shape)
        return camera.resized(max(1, width), max(1, height))


def picture(
    splats: Gaussians3D, camera: Camera, background: Tensor | None, antialiased: bool
) -> Tensor:
    """One picture, float [H, W, 3]."""
    import torch

    from ..tracers.splatting import render

    with torch.no_grad():
        camera = camera.to(splats.device)
        return render(splats, camera, background=background, antialiased=antialiased).rgb


def read_flight(path: Path) -> CameraPath:
    """Reads a camera path file.

    Raises:
        ValueError: If the file holds something else.
    """
    from ..representations.camera_path import CameraPath
    from ..representations.files import load

    flight = load(path)
    if not isinstance(flight, CameraPath):
        raise ValueError(f"{path}: expected a camera path, got {type(flight).__name__}")
    return flight


def circle(
    splats: Gaussians3D,
    scene: Scene | None,
    frames: int,
    up: Triple | None,
    width: int | None,
    height: int | None,
) -> CameraPath:
    """A circle around the scene, as far away and as high as its photos were taken, if known."""
    from ..representations.camera_path import CameraPath

    if scene is not None:
        return circle_like(scene, frames, up, width, height)
    finite = splats.select(splats.finite()).means.detach()
    if len(finite) == 0:
        raise ValueError("render: circle: expected splats with finite numbers, got none")
    # Strays far away would push the camera back until the scene is a dot.
    ordered = finite.sort(dim=0).values
    cut = int(0.05 * len(ordered))
    box = (ordered[cut].tolist(), ordered[len(ordered) - 1 - cut].tolist())
    size = {"width": width or height or 800, "height": height or width or 800}
    return CameraPath.circle(box, frames, up=up or (0.0, 0.0, 1.0), **size)


def circle_like(
    scene: Scene, frames: int, up: Triple | None, width: int | None, height: int | None
) -> CameraPath:
    """A circle at the middle distance and height of the photos' cameras."""
    import torch

    from ..representations.camera_path import CameraPath, focus_point, mean_up

    first = scene.views[0].camera
    width, height = width or first.width, height or first.height
    same_size = [view.camera.resized(width, height) for view in scene.views]
    poses = torch.stack([camera.world_to_camera for camera in same_size])
    intrinsics = torch.stack([camera.K for camera in same_size])
    cameras = type(first)(poses, intrinsics, width, height)
    target = focus_point(cameras)
    axis = mean_up(cameras) if up is None else torch.tensor(up)
    axis = axis / axis.norm()
    offsets = cameras.center - target
    distances = offsets.norm(dim=-1).clamp(min=1e-12)
    elevation = torch.asin(((offsets @ axis) / distances).clamp(-1, 1)).median()
    return CameraPath.circle(
        (target.tolist(), target.tolist()),
        frames,
        width=width,
        height=height,
        fov_y=float(cameras[0].fov_y) if first.model != "ortho" else math.radians(50),
        up=axis.tolist(),
        elevation=float(elevation),
        distance=float(distances.median()) or 1.0,
    )
