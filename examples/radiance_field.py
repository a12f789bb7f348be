# SPDX-License-Identifier: Apache-2.0
"""Trains a radiance field with an occupancy grid, and renders it through nested masks.

    python examples/radiance_field.py DATA/nerf_synthetic/lego --picture lego.png
    python examples/radiance_field.py DATA/fox --scene fox --seconds 600 --json fox.json

The field is a sparse grid of densities and features, read trilinearly, and a small network that
makes colours of features and directions. It grows finer twice while it trains, and keeps voxels
only where the occupancy estimator has found something. Then the estimator is converted in one line,
``VDBEstimator.from_estimator``, and the held-out views are rendered with both: the same pictures.
The third row, ``refined``, is another grid, masks four times as fine (dense, 134 MB) of where the
trained field stops more than a tenth of the light in a sample's length, so that rays ask less
about haze. Its pictures differ a little: compare the PSNR of each row.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from fieldline.cuda.vdb import grid_ops as grids
from fieldline.tracers.ray_rendering import render_rays
from fieldline.tracers.volume_rendering import distortion, rendering
from torch import Tensor, nn

import fieldline as fl


@dataclass
class SceneOptions:
    """How a scene is sampled."""

    downscale: float
    levels: int
    step: float  # in units of the innermost box's half edge
    half_edge: float | None  # of the innermost box around the origin; None: from the cameras
    cone_angle: float = 0.0
    near_plane: float = 0.0  # in units of that half edge
    alpha_thre: float = 0.0
    resolutions: tuple[int, ...] = (64, 128, 256)  # of the field


SCENES = {
    # NerfAcc's settings of NeRF-Synthetic and of Mip-NeRF 360.
    "lego": SceneOptions(2, 1, 5e-3 / 1.5, 1.5),
    "fox": SceneOptions(
        8,
        4,
        5e-3,
        None,
        cone_angle=0.004,
        near_plane=0.8,
        alpha_thre=1e-2,
        resolutions=(32, 64, 128),
    ),
}

# Steps in which the estimator looks at all cells.
WARMUP = 96
# Rays end where less than this is seen; samples that weigh less than that take their ray's colour.
RENDERING = {"early_stop": 1e-2, "color_thre": 1e-3}
# What refined masks keep: this opacity of a sample, and the cells around it.
REFINED = {"factor": 4, "occ_thre": 0.1}


@dataclass
class Options:
    """What is trained, for how long, and what is written."""

    path: tyro.conf.Positional[str]
    """The scene's folder."""
    scene: Literal["lego", "fox"] = "lego"
    """How it is sampled."""
    steps: int = 2000
    """Most training steps."""
    seconds: float = float("inf")
    """Most seconds of training."""
    device: str = "cpu"
    """Where everything runs."""
    downscale: float | None = None
    """Of the images; default the scene's."""
    resolution: int = 128
    """Of the occupancy grid, cells along each axis."""
    finest: int = 256
    """Most voxels of the field along each axis."""
    rays: int = 2048
    """Most rays a step."""
    samples: int = 1 << 16
    """Samples a step, about: fewer rays are drawn where each sees more."""
    views: int | None = None
    """Most held-out views that are rendered."""
    repeats: int = 3
    """How often each view is rendered; the best time counts."""
    seed: int = 0
    """Of all random draws."""
    picture: str | None = None
    """Where to save the first held-out views beside their renderings."""
    json: str | None = None
    """Where to save the figures."""


# -- the field -------------------------------------------------------------------------------------


class SparseField(nn.Module):
    """Densities and features at the active voxels of nested grids, and colours from features.

    Densities are read first and alone; colours are made where something is seen.

    Args:
        aabbs: The boxes [levels, 6] that the grids fill.
        masks: Where the field can be other than empty.
        channels: Features of a voxel.
        hidden: Width of the network.
    """

    def __init__(
        self, aabbs: Tensor, masks: grids.Masks, channels: int = 12, hidden: int = 32
    ) -> None:
        super().__init__()
        self.aabbs = aabbs
        self.set_masks(masks)
        n = int(self.offsets[-1])
        # Not all alike: the estimator keeps what is above the mean.
        self.densities = nn.Parameter(0.1 * torch.randn(n, device=aabbs.device))
        self.features = nn.Parameter(torch.zeros(n, channels, device=aabbs.device))
        nn.init.normal_(self.features, std=0.1)
        self.network = nn.Sequential(
            nn.Linear(channels + 9, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, 3),
        ).to(aabbs.device)

    def set_masks(self, masks: grids.Masks) -> None:
        """Lets the field be other than empty there; whoever calls it sets the values."""
        self.masks = masks
        self.offsets = grids.leaf_offsets(masks)
        # A voxel of level 0 with the density that it has at first lets 99.9 % through.
        self.voxel = float((self.aabbs[0, 3] - self.aabbs[0, 0]) / masks.resolution[0])
        self.shift = -6.9

    def density(self, positions: Tensor, ray_indices: Tensor | None = None) -> tuple[Tensor, Any]:
        """Densities [N] at positions [N, 3], which are also what colours are made of."""
        raw = self.read(self.densities[:, None], positions)[:, 0]
        return nn.functional.softplus(raw + self.shift) / self.voxel, positions

    def color(
        self, positions: Tensor, directions: Tensor, ray_indices: Tensor | None = None
    ) -> Tensor:
        """Colours [N, 3]."""
        features = self.read(self.features, positions)
        return torch.sigmoid(self.network(torch.cat([features, harmonics(directions)], dim=-1)))

    def read(self, values: Tensor, positions: Tensor) -> Tensor:
        """Values at positions, of the innermost grid around each."""
        if len(self.aabbs) == 1:
            return self._read_level(values, positions, 0)
        centre = (self.aabbs[0, :3] + self.aabbs[0, 3:]) / 2
        half = (self.aabbs[0, 3:] - self.aabbs[0, :3]) / 2
        reach = ((positions - centre) / half).abs().amax(-1)
        level = reach.clamp_min(1e-6).log2().ceil().clamp(0, len(self.aabbs) - 1).long()
        found = values.new_zeros(len(positions), values.shape[1])
        for i in range(len(self.aabbs)):
            own = (level == i).nonzero()[:, 0]
            found = found.index_put((own,), self._read_level(values, positions[own], i))
        return found

    def _read_level(self, values: Tensor, positions: Tensor, level: int) -> Tensor:
        low, high = self.aabbs[level, :3], self.aabbs[level, 3:]
        resolution = torch.tensor(self.masks.resolution, device=low.device)
        points = (positions - low) * (resolution / (high - low))
        return grids.sample_trilinear(self.masks, self.offsets, values, points, level=level)

    @torch.no_grad()
    def refine(self, masks: grids.Masks) -> None:
        """Moves to other masks; their voxels begin with what the field was there."""
        coordinates = grids.active_coordinates(masks, with_level=True)
        level, voxel = coordinates[:, 0].long(), coordinates[:, 1:]
        low, high = self.aabbs[level, :3], self.aabbs[level, 3:]
        resolution = torch.tensor(masks.resolution, device=low.device)
        places = low + (voxel + 0.5) / resolution * (high - low)
        values = [self.read(v, places) for v in (self.densities[:, None], self.features)]
        self.set_masks(masks)
        self.densities, self.features = nn.Parameter(values[0][:, 0]), nn.Parameter(values[1])


def harmonics(d: Tensor) -> Tensor:
    """Spherical harmonics of degrees 0 to 2, up to factors, [N, 9]."""
    x, y, z = d.unbind(-1)
    one = torch.ones_like(x)
    return torch.stack([one, x, y, z, x * y, y * z, z * x, x * x - y * y, 3 * z * z - 1], dim=-1)


# -- training --------------------------------------------------------------------------------------


@dataclass
class Rays:
    """All pixels of some views."""

    origins: Tensor  # [N, 3]
    directions: Tensor  # [N, 3]
    colors: Tensor  # [N, 3 or 4], straight alpha


def rays_of(views: list[fl.datasets.View], device: str) -> Rays:
    """Rays and colours of every pixel that counts."""
    origins, directions, colors = [], [], []
    for view in views:
        o, d = view.camera.rays()
        keep = torch.ones(o.shape[:-1], dtype=torch.bool) if view.mask is None else view.mask
        origins.append(o[keep].float())
        directions.append(d[keep].float())
        colors.append(view.image[keep].float() / 255)
    return Rays(*(torch.cat(part).to(device) for part in (origins, directions, colors)))


def base_box(scene: fl.datasets.Scene, half_edge: float | None) -> Tensor:
    """The innermost box: given, or around the point that the cameras look at."""
    if half_edge is not None:
        return torch.tensor([-half_edge] * 3 + [half_edge] * 3)
    centers = scene.centers.double()
    axes = torch.stack([view.camera.world_to_camera[2, :3] for view in scene.views]).double()
    # The point nearest to all axes.
    project = torch.eye(3, dtype=torch.float64) - axes[:, :, None] * axes[:, None, :]
    target = torch.linalg.solve(project.sum(0), (project @ centers[:, :, None]).sum(0)[:, 0])
    half = 0.5 * (centers - target).norm(dim=-1).median()
    return torch.cat([target - half, target + half]).float()


class Trainer:
    """A field and its estimator, made from photographs."""

    def __init__(self, scene: fl.datasets.Scene, options: Options, how: SceneOptions) -> None:
        self.options, self.how = options, how
        self.data = rays_of(scene.train, options.device)
        box = base_box(scene, how.half_edge).to(options.device)
        half_edge = float(box[3] - box[0]) / 2
        self.step_size, self.near_plane = how.step * half_edge, how.near_plane * half_edge
        self.estimator = fl.OccupancyEstimator(box, options.resolution, how.levels)
        self.estimator.to(options.device)
        if how.levels > 1:
            self.leave_out_unseen(scene.train)
        edge = min(how.resolutions[0], options.finest)
        full = torch.ones(how.levels, edge, edge, edge, dtype=torch.bool, device=options.device)
        self.field = SparseField(self.estimator.aabbs, grids.build_masks(full))
        self.optimizer = self.make_optimizer()
        self.generator = torch.Generator(options.device).manual_seed(options.seed)
        self.count = options.rays

    def leave_out_unseen(self, views: list[fl.datasets.View]) -> None:
        """Takes out the cells that no camera sees: haze there would hide the scene from others."""
        cameras = [view.camera for view in views]
        K = torch.stack([camera.K for camera in cameras])
        c2w = torch.linalg.inv(torch.stack([camera.world_to_camera.double() for camera in cameras]))
        size = cameras[0].width, cameras[0].height
        device = self.options.device
        self.estimator.mark_invisible_cells(
            K.float().to(device), c2w.float().to(device), *size, near_plane=self.near_plane
        )

    def make_optimizer(self, factor: float = 1.0) -> torch.optim.Optimizer:
        """Adam, with fast grids and a slow network."""
        groups = [
            {"params": [self.field.densities], "lr": 0.2 * factor},
            {"params": [self.field.features], "lr": 0.05 * factor},
            {"params": self.field.network.parameters(), "lr": 3e-3 * factor},
        ]
        return torch.optim.Adam(groups, eps=1e-15, betas=(0.9, 0.99), fused=True)

    def sampling(self) -> dict[str, float]:
        """Options of the estimator."""
        return {
            "render_step_size": self.step_size,
            "near_plane": self.near_plane,
            "cone_angle": self.how.cone_angle,
        }

    def grow(self, resolution: int) -> None:
        """Makes the field finer, and empty where the estimator found nothing."""
        masks = grids.build_masks(self.estimator.binaries)
        if resolution > masks.resolution[0]:
            masks = grids.refine_masks(masks, resolution // masks.resolution[0])
        self.field.refine(grids.dilate_masks(masks, 26))
        self.optimizer = self.make_optimizer()

    def run(self, progress: Callable[[int, float], None]) -> tuple[int, float]:
        """Trains; returns steps and seconds."""
        options, start = self.options, time.perf_counter()
        finer = [n for n in self.how.resolutions[1:] if n <= options.finest]
        stages = dict(zip((0.1, 0.4), finer))
        done = 0.0
        step = 0
        while done < 1:
            for at in [at for at in stages if at <= done and step >= WARMUP]:
                self.grow(stages.pop(at))
            # The learning rates fall to a tenth.
            rates = 0.1 ** max(0.0, (done - 0.4) / 0.6)
            for group, rate in zip(self.optimizer.param_groups, (0.2, 0.05, 3e-3)):
                group["lr"] = rate * rates
            loss = self.step(step)
            step += 1
            elapsed = time.perf_counter() - start
            done = max(step / options.steps, elapsed / options.seconds)
            progress(step, loss)
        return step, time.perf_counter() - start

    def step(self, number: int) -> float:
        """One step of training; returns the loss."""
        field, estimator, data = self.field, self.estimator, self.data
        estimator.update_every_n_steps(
            number, lambda x: field.density(x)[0] * self.step_size, warmup_steps=WARMUP
        )
        # Few rays and long steps while most of space counts as occupied.
        early = number < WARMUP
        count = max(1, self.count // (4 if early else 1))
        sampling = self.sampling()
        sampling["render_step_size"] *= 4 if early else 1
        chosen = torch.randint(
            len(data.origins), (count,), generator=self.generator, device=data.origins.device
        )
        origins, directions = data.origins[chosen], data.directions[chosen]

        def positions(t_starts: Tensor, t_ends: Tensor, rays: Tensor) -> Tensor:
            return origins[rays] + directions[rays] * ((t_starts + t_ends) / 2)[:, None]

        def sigma_fn(t_starts: Tensor, t_ends: Tensor, rays: Tensor) -> Tensor:
            return field.density(positions(t_starts, t_ends, rays))[0]

        def rgb_sigma_fn(t_starts: Tensor, t_ends: Tensor, rays: Tensor) -> tuple[Tensor, Tensor]:
            places = positions(t_starts, t_ends, rays)
            return field.color(places, directions[rays]), field.density(places)[0]

        rays, t_starts, t_ends = estimator.sampling(
            origins,
            directions,
            sigma_fn=sigma_fn,
            alpha_thre=self.how.alpha_thre,
            early_stop_eps=1e-3,
            stratified=True,
            generator=self.generator,
            **sampling,  # pyright: ignore
        )
        wanted = int(count * self.options.samples / max(1, len(rays)))
        if not early:
            self.count = max(64, min(wanted, 2 * count, self.options.rays))
        # A random background per ray: what is empty must be empty, not of the background's colour.
        shades = torch.rand(count, 3, generator=self.generator, device=origins.device)
        target = data.colors[chosen]
        if target.shape[1] == 4:
            target = target[:, :3] * target[:, 3:] + shades * (1 - target[:, 3:])
        colors, _, _, extras = rendering(
            t_starts, t_ends, rays, count, rgb_sigma_fn=rgb_sigma_fn, render_bkgd=shades
        )
        loss = (colors - target).square().mean()
        # Surfaces rather than haze.
        haze = distortion(extras["weights"], t_starts, t_ends, rays, count).mean()
        if not loss.requires_grad:  # No ray met anything.
            return float(loss.detach())
        self.optimizer.zero_grad()
        (loss + 3e-3 * haze).backward()
        self.optimizer.step()
        return float(loss.detach())


# -- rendering -------------------------------------------------------------------------------------


@dataclass
class Figures:
    """What an estimator gave on the held-out views."""

    psnr: float = 0.0
    render_seconds: float = 0.0  # a view, whole
    sampling_seconds: float = 0.0  # a view, the sampler alone
    rays_per_second: float = 0.0  # of the sampler alone
    sampling_share: float = 0.0  # of the whole
    samples: int = 0  # a view, that the field was asked about
    grid_bytes: int = 0
    images: list[Tensor] = field(default_factory=list)


def measure(
    trainer: Trainer,
    estimators: dict[str, fl.OccupancyEstimator],
    views: list[fl.datasets.View],
) -> dict[str, Figures]:
    """Renders views with each estimator, in turns, and takes the best time of each view."""
    device, how, repeats = trainer.options.device, trainer.how, trainer.options.repeats
    found = {name: Figures(grid_bytes=e.grid_bytes) for name, e in estimators.items()}
    for view in views:
        rays = tuple(t.float().to(device) for t in view.camera.rays())
        flat = tuple(t.reshape(-1, 3) for t in rays)
        render_times: dict[str, list[float]] = {name: [] for name in estimators}
        sample_times: dict[str, list[float]] = {name: [] for name in estimators}
        for _ in range(repeats):
            for name, estimator in estimators.items():
                start = clock(device)
                seen = render_rays(
                    trainer.field,
                    estimator,
                    rays,  # pyright: ignore
                    alpha_thre=how.alpha_thre,
                    background=torch.ones(3, device=device),
                    **RENDERING,
                    **trainer.sampling(),
                )
                render_times[name].append(clock(device) - start)
                start = clock(device)
                estimator.traverse(*flat, **trainer.sampling())  # pyright: ignore
                sample_times[name].append(clock(device) - start)
                last = seen
                if len(render_times[name]) == repeats:
                    record(found[name], view, last, render_times[name], sample_times[name])
    for figures in found.values():
        for key in ("psnr", "render_seconds", "sampling_seconds", "samples"):
            setattr(figures, key, getattr(figures, key) / len(views))
        pixels = views[0].width * views[0].height
        figures.rays_per_second = pixels / figures.sampling_seconds
        figures.sampling_share = figures.sampling_seconds / figures.render_seconds
    return found


def record(
    figures: Figures, view: fl.datasets.View, seen: Any, times: list[float], sampling: list[float]
) -> None:
    """Adds one view to the figures."""
    truth = view.image.float() / 255
    if truth.shape[-1] == 4:
        truth = truth[..., :3] * truth[..., 3:] + 1 - truth[..., 3:]
    image = seen.rgb.clamp(0, 1).cpu()
    error = (image - truth).square()
    keep = torch.ones(truth.shape[:2], dtype=torch.bool) if view.mask is None else view.mask
    figures.psnr += float(-10 * error[keep].mean().log10())
    figures.render_seconds += min(times)
    figures.sampling_seconds += min(sampling)
    figures.samples += seen.n_samples
    if len(figures.images) < 4:
        figures.images.append(torch.cat([truth, image], dim=0))


def clock(device: str) -> float:
    """Seconds, when the device is done; a single CPU thread's own."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    elif torch.get_num_threads() == 1:
        return time.thread_time()
    return time.perf_counter()


def save_picture(path: str, images: list[Tensor]) -> None:
    """Truths above renderings."""
    from PIL import Image

    sheet = (255 * torch.cat(images, dim=1)).round().to(torch.uint8)
    Image.fromarray(sheet.numpy()).save(path)


def main(options: Options) -> dict[str, Any]:
    """Trains, converts, renders, prints and returns the figures."""
    torch.manual_seed(options.seed)
    how = SCENES[options.scene]
    scene = fl.datasets.load(options.path, downscale=options.downscale or how.downscale)
    print(scene)
    trainer = Trainer(scene, options, how)

    def progress(step: int, loss: float) -> None:
        if step % 50 == 0:
            print(f"step {step}: training PSNR {-10 * torch.tensor(loss).log10():.2f} dB", end="\r")

    steps, seconds = trainer.run(progress)
    print(f"\n{steps} steps in {seconds:.0f} s")
    occupancy = trainer.estimator.eval()
    nested = fl.VDBEstimator.from_estimator(occupancy)
    with torch.no_grad():
        finer = nested.refined(
            lambda x: -torch.expm1(-trainer.field.density(x)[0] * trainer.step_size),
            **REFINED,  # pyright: ignore
        )
    estimators = {"occupancy": occupancy, "vdb": nested, "refined": finer}
    found = measure(trainer, estimators, scene.test[: options.views])
    for name, figures in found.items():
        print(
            f"{name:>9}: {figures.psnr:.3f} dB, {1e3 * figures.render_seconds:.0f} ms a view "
            f"({100 * figures.sampling_share:.0f} % sampling), sampler "
            f"{figures.rays_per_second / 1e6:.2f} M rays/s, grid {figures.grid_bytes / 1e3:.0f} kB"
        )
    base = found["occupancy"].render_seconds
    speedup, refined = (base / found[name].render_seconds for name in ("vdb", "refined"))
    print(
        f"nested masks render {speedup:.2f} times as fast as the dense grid, the same pictures; "
        f"refined ones {refined:.2f} times, pictures "
        f"{found['refined'].psnr - found['occupancy'].psnr:+.3f} dB"
    )
    if options.picture:
        save_picture(options.picture, found["vdb"].images)
    result: dict[str, Any] = {
        "steps": steps,
        "seconds": seconds,
        "speedup": speedup,
        "refined_speedup": refined,
    }
    result["occupied"] = float(occupancy.binaries.float().mean())
    result["voxels"] = int(trainer.field.offsets[-1])
    for name, figures in found.items():
        figures.images = []
        result[name] = asdict(figures)
    if options.json:
        settings = {"options": asdict(options), "rendering": RENDERING, "refined_masks": REFINED}
        text = json.dumps({**settings, **result}, indent=2)
        Path(options.json).write_text(text + "\n")
    return result


if __name__ == "__main__":
    main(tyro.cli(Options))
