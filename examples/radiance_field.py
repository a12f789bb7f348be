# SPDX-License-Identifier: Apache-2.0
"""Trains a radiance field with an occupancy grid, and renders it through nested masks.

    python examples/radiance_field.py DATA/nerf_synthetic/lego --picture lego.png
    python examples/radiance_field.py DATA/fox --scene fox --seconds 600 --json fox.json

Read `Trainer.step` first: it is the loop that NerfAcc's users know, an estimator that says where
rays are sampled and `rendering` of what a field says there. `main` is the rest in order.

The field is a sparse grid of densities and features, read trilinearly, and a small network that
makes colours of features and directions. It grows finer twice while it trains, and keeps voxels
only where the occupancy estimator has found something. Then the held-out views are rendered four
ways:

- ``two_pass``: the occupancy grid, as NerfAcc's examples render: in chunks of 8,192 rays densities
  of all samples, then colours of those that are seen, with NerfAcc's ``early_stop_eps``;
- ``occupancy``: the same grid through `fl.render_rays`;
- ``vdb``: that, over nested masks, converted in one line by ``VDBEstimator.from_estimator``. Only
  the grid differs from the row above, and the pictures are the same;
- ``refined``: other masks, four times as fine (dense, 134 MB), of where the trained field stops so
  much of the light in a sample's length that training views look the same without the rest. Rays
  ask less about haze. Held-out pictures differ a little: compare the PSNR of each row.
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
from fieldline.cuda.vdb.grid_change_ops import dilate_masks, refine_masks
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
# What NerfAcc's examples render with.
TWO_PASS = {"early_stop_eps": 1e-4, "chunk": 8192}
# How much finer refined masks are, and the opacities of a sample above which they may keep a cell
# (with those around it): the highest that costs training views no more than this many dB.
REFINED_FACTOR = 4
REFINED_THRESHOLDS = (0.3, 0.1, 0.03, 0.01, 0.003)
REFINED_LOSS = 0.01


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
    tuning_views: int = 2
    """Training views on which the threshold of refined masks is chosen."""
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


def field_along(
    field: SparseField, origins: Tensor, directions: Tensor
) -> tuple[Callable[..., Tensor], Callable[..., tuple[Tensor, Tensor]]]:
    """The two functions that NerfAcc's interface asks for: densities, and colours with them."""

    def positions(t_starts: Tensor, t_ends: Tensor, rays: Tensor) -> Tensor:
        return origins[rays] + directions[rays] * ((t_starts + t_ends) / 2)[:, None]

    def sigma_fn(t_starts: Tensor, t_ends: Tensor, rays: Tensor) -> Tensor:
        return field.density(positions(t_starts, t_ends, rays))[0]

    def rgb_sigma_fn(t_starts: Tensor, t_ends: Tensor, rays: Tensor) -> tuple[Tensor, Tensor]:
        places = positions(t_starts, t_ends, rays)
        return field.color(places, directions[rays]), field.density(places)[0]

    return sigma_fn, rgb_sigma_fn


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
            masks = refine_masks(masks, resolution // masks.resolution[0])
        self.field.refine(dilate_masks(masks, 26))
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

        sigma_fn, rgb_sigma_fn = field_along(field, origins, directions)
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


Render = Callable[[Tensor, Tensor], tuple[Tensor, int]]


def two_passes(trainer: Trainer, estimator: fl.OccupancyEstimator) -> Render:
    """Renders [H, W, 3] rays as NerfAcc's examples do: what is visible first, then its colours."""

    @torch.no_grad()
    def render(origins: Tensor, directions: Tensor) -> tuple[Tensor, int]:
        white = torch.ones(3, device=origins.device)
        parts, n_samples = [], 0
        for o, d in zip(
            origins.reshape(-1, 3).split(TWO_PASS["chunk"]),  # pyright: ignore
            directions.reshape(-1, 3).split(TWO_PASS["chunk"]),  # pyright: ignore
        ):
            sigma_fn, rgb_sigma_fn = field_along(trainer.field, o, d)
            found = estimator.sampling(
                o,
                d,
                sigma_fn=sigma_fn,
                alpha_thre=trainer.how.alpha_thre,
                early_stop_eps=TWO_PASS["early_stop_eps"],
                **trainer.sampling(),  # pyright: ignore
            )
            rays, t_starts, t_ends = found
            n_samples += len(rays)
            parts.append(
                rendering(
                    t_starts,
                    t_ends,
                    rays,
                    len(o),
                    rgb_sigma_fn=rgb_sigma_fn,
                    render_bkgd=white,
                )[0]
            )
        return torch.cat(parts).reshape(origins.shape), n_samples

    return render


def in_rounds(trainer: Trainer, estimator: fl.OccupancyEstimator) -> Render:
    """Renders rays with `fl.render_rays`."""

    def render(origins: Tensor, directions: Tensor) -> tuple[Tensor, int]:
        seen = fl.render_rays(
            trainer.field,
            estimator,
            (origins, directions),
            alpha_thre=trainer.how.alpha_thre,
            background=torch.ones(3, device=origins.device),
            **RENDERING,
            **trainer.sampling(),
        )
        return seen.rgb, seen.n_samples

    return render


def refine(
    trainer: Trainer, nested: fl.VDBEstimator, views: list[fl.datasets.View]
) -> tuple[fl.VDBEstimator, float | None]:
    """Finer masks, with the highest threshold that training views do not mind; and that one.

    The masks as they are, and None, where training views mind each.
    """

    def occupancy(x: Tensor) -> Tensor:
        return -torch.expm1(-trainer.field.density(x)[0] * trainer.step_size)

    def quality(estimator: fl.OccupancyEstimator) -> float:
        render = in_rounds(trainer, estimator)
        found = [
            psnr(render(*rays_through(view, trainer.options.device))[0], view) for view in views
        ]
        return sum(found) / len(found)

    wanted = quality(nested) - REFINED_LOSS
    for threshold in REFINED_THRESHOLDS:
        finer = nested.refined(occupancy, REFINED_FACTOR, threshold)
        if quality(finer) >= wanted:
            return finer, threshold
    return nested, None


def rays_through(view: fl.datasets.View, device: str) -> tuple[Tensor, Tensor]:
    """Origins and directions [H, W, 3] of a view's pixels."""
    origins, directions = view.camera.rays()
    return origins.float().to(device), directions.float().to(device)


def measure(
    trainer: Trainer,
    ways: dict[str, tuple[fl.OccupancyEstimator, Render]],
    views: list[fl.datasets.View],
) -> dict[str, Figures]:
    """Renders views each way, in turns, and takes the best time of each view."""
    device, repeats = trainer.options.device, trainer.options.repeats
    found = {name: Figures(grid_bytes=e.grid_bytes) for name, (e, _) in ways.items()}
    for view in views:
        rays = rays_through(view, device)
        flat = tuple(t.reshape(-1, 3) for t in rays)
        render_times: dict[str, list[float]] = {name: [] for name in ways}
        sample_times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(repeats):
            for name, (estimator, render) in ways.items():
                start = clock(device)
                image, n_samples = render(*rays)
                render_times[name].append(clock(device) - start)
                start = clock(device)
                estimator.traverse(*flat, **trainer.sampling())  # pyright: ignore
                sample_times[name].append(clock(device) - start)
                if len(render_times[name]) == repeats:
                    times = render_times[name], sample_times[name]
                    record(found[name], view, image, n_samples, *times)
    for figures in found.values():
        for key in ("psnr", "render_seconds", "sampling_seconds", "samples"):
            setattr(figures, key, getattr(figures, key) / len(views))
        pixels = views[0].width * views[0].height
        figures.rays_per_second = pixels / figures.sampling_seconds
        figures.sampling_share = figures.sampling_seconds / figures.render_seconds
    return found


def record(
    figures: Figures,
    view: fl.datasets.View,
    image: Tensor,
    n_samples: int,
    times: list[float],
    sampling: list[float],
) -> None:
    """Adds one view to the figures."""
    figures.psnr += psnr(image, view)
    figures.render_seconds += min(times)
    figures.sampling_seconds += min(sampling)
    figures.samples += n_samples
    if len(figures.images) < 4:
        figures.images.append(torch.cat([truth_of(view), image.clamp(0, 1).cpu()], dim=0))


def truth_of(view: fl.datasets.View) -> Tensor:
    """A photograph [H, W, 3] over white."""
    truth = view.image.float() / 255
    if truth.shape[-1] == 4:
        truth = truth[..., :3] * truth[..., 3:] + 1 - truth[..., 3:]
    return truth


def psnr(image: Tensor, view: fl.datasets.View) -> float:
    """Of a rendering, in dB, over the pixels that count."""
    error = (image.clamp(0, 1).cpu() - truth_of(view)).square()
    keep = torch.ones(error.shape[:2], dtype=torch.bool) if view.mask is None else view.mask
    return float(-10 * error[keep].mean().log10())


def clock(device: str) -> float:
    """Seconds, when the device is done; a single CPU thread's own."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    elif torch.get_num_threads() == 1:
        return time.thread_time()
    return time.perf_counter()


def tell(found: dict[str, Figures], threshold: float | None) -> dict[str, float]:
    """Prints the figures; returns how many times as fast as ``occupancy`` the others are."""
    for name, figures in found.items():
        print(
            f"{name:>9}: {figures.psnr:.3f} dB, {1e3 * figures.render_seconds:.0f} ms a view "
            f"({100 * figures.sampling_share:.0f} % sampling), sampler "
            f"{figures.rays_per_second / 1e6:.2f} M rays/s, grid {figures.grid_bytes / 1e3:.0f} kB"
        )
    base = found["occupancy"]
    names = {"vdb": "speedup", "refined": "refined_speedup", "two_pass": "two_pass_speedup"}
    speedups = {
        key: base.render_seconds / found[name].render_seconds for name, key in names.items()
    }
    print(
        "against the dense grid through render_rays: "
        f"nested masks {speedups['speedup']:.2f} times as fast, the same pictures; "
        f"refined ones (threshold {threshold}, of training views) "
        f"{speedups['refined_speedup']:.2f} times, {found['refined'].psnr - base.psnr:+.3f} dB; "
        f"the dense grid in two passes {speedups['two_pass_speedup']:.2f} times"
    )
    return speedups


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
    # Not on held-out views: they say how good the choice was.
    every = max(1, len(scene.train) // options.tuning_views)
    finer, threshold = refine(trainer, nested, scene.train[::every][: options.tuning_views])
    ways = {
        "two_pass": (occupancy, two_passes(trainer, occupancy)),
        **{
            name: (estimator, in_rounds(trainer, estimator))
            for name, estimator in (("occupancy", occupancy), ("vdb", nested), ("refined", finer))
        },
    }
    found = measure(trainer, ways, scene.test[: options.views])
    speedups = tell(found, threshold)
    if options.picture:
        save_picture(options.picture, found["vdb"].images)
    result: dict[str, Any] = {
        "steps": steps,
        "seconds": seconds,
        **speedups,
    }
    result["occupied"] = float(occupancy.binaries.float().mean())
    result["voxels"] = int(trainer.field.offsets[-1])
    for name, figures in found.items():
        figures.images = []
        result[name] = asdict(figures)
    if options.json:
        settings = {
            "options": asdict(options),
            "rendering": RENDERING,
            "two_pass_rendering": TWO_PASS,
            "refined_masks": {"factor": REFINED_FACTOR, "occ_thre": threshold},
        }
        text = json.dumps({**settings, **result}, indent=2)
        Path(options.json).write_text(text + "\n")
    return result


if __name__ == "__main__":
    main(tyro.cli(Options))
