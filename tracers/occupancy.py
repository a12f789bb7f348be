# SPDX-License-Identifier: Apache-2.0
"""Occupancy grids: which cells of space hold anything, learnt from a field while it trains.

`OccupancyEstimator` does what NerfAcc's OccGridEstimator does, with its signatures, defaults and
state: nested boxes of one resolution, each twice as large as the one inside it; a running maximum
of the field's occupancy in every cell (``occs``, -1 where no camera looks); and the cells above a
threshold (``binaries``), in which rays are sampled. Coordinates of cells are computed from their
indices where they are needed, so that a cell costs 5 bytes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..cuda.vdb.walk_ops import MAX_LEVELS, sample_dense
from .checks import check_count, check_number, check_tensor
from .estimator import AbstractEstimator
from .volume_rendering import render_visibility_from_alpha, render_visibility_from_density

SampleFunction = Callable[[Tensor, Tensor, Tensor], Tensor]
OccupancyFunction = Callable[[Tensor], Tensor]

# Cells looked at together: enough for the field's kernels, few beside the grid itself.
CELLS_AT_ONCE = 1 << 20
_LARGEST_CELL_COUNT = 1 << 40
# Walks want coordinates below it.
_FARTHEST = 1e18


class OccupancyEstimator(AbstractEstimator):
    """Finds where rays may meet something, in a grid that follows a field in training.

    Args:
        roi_aabb: The innermost box, 6 numbers: min xyz, max xyz. The estimator is made on the
            device of a tensor.
        resolution: Cells along each axis, one number or three.
        levels: How many boxes, at most 16; each is twice as large as the one before, around the
            same centre.

    Attributes:
        aabbs: float32 [levels, 6].
        resolution: int32 [3].
        occs: float32 [levels * cells], -1 where no camera sees the cell.
        binaries: bool [levels, X, Y, Z], z fastest. May be assigned, or written to.

    Raises:
        TypeError: An argument has another type, or is not known.
        ValueError: A number or shape is wrong.

    Source: Mueller et al., "Instant neural graphics primitives" (2022); Li et al., "NerfAcc"
        (2023), whose interface this is.

    Example:
        >>> estimator = OccupancyEstimator([-1, -1, -1, 1, 1, 1], resolution=4)
        >>> estimator.binaries[:] = True
        >>> rays, t_starts, t_ends = estimator.sampling(
        ...     torch.tensor([[-2.0, 0.1, 0.1]]), torch.tensor([[1.0, 0.0, 0.0]]),
        ...     render_step_size=0.5)
        >>> t_starts.tolist()
        [1.0, 1.5, 2.0, 2.5]
    """

    DIM = 3
    resolution: Tensor
    aabbs: Tensor
    occs: Tensor
    binaries: Tensor

    def __init__(
        self,
        roi_aabb: Sequence[float] | Tensor,
        resolution: int | Sequence[int] | Tensor = 128,
        levels: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if "contraction_type" in kwargs:
            raise ValueError(f"{name}: contraction_type: expected none; use levels instead")
        if kwargs:
            raise TypeError(f"{name}: expected no argument {', '.join(map(repr, kwargs))}")
        self.levels = check_count(name, "levels", levels, 1)
        if self.levels > MAX_LEVELS:
            raise ValueError(f"{name}: levels: expected at most {MAX_LEVELS}, got {levels}")
        box = _box(name, roi_aabb, self.levels)
        cells = _resolution(name, resolution, self.levels).to(box.device)
        self._cells: tuple[int, ...] = tuple(cells.tolist())
        self.cells_per_lvl = math.prod(self._cells)
        self.register_buffer("resolution", cells)
        self.register_buffer(
            "aabbs", torch.stack([enlarge_aabb(box, 2**level) for level in range(self.levels)])
        )
        self.register_buffer(
            "occs", torch.zeros(self.levels * self.cells_per_lvl, device=box.device)
        )
        self.register_buffer(
            "binaries",
            torch.zeros(self.levels, *self._cells, dtype=torch.bool, device=box.device),
        )
        if box.device.type != "cpu":
            self.to(box.device)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """torch's hook; also names a checkpoint whose cells are not ours."""
        found = state_dict.get(f"{prefix}resolution")
        own = list(self._cells)
        if isinstance(found, Tensor) and found.shape == (3,) and found.tolist() != own:
            errors: list[str] = rest[-1]
            errors.append(f"resolution: expected {own} cells, got {found.tolist()}.")
            return
        super()._load_from_state_dict(state_dict, prefix, *rest)

    # -- sampling ----------------------------------------------------------------------------------

    @property
    def grid_bytes(self) -> int:
        """Bytes of what sampling reads."""
        return self.binaries.numel() * self.binaries.element_size()

    @torch.no_grad()
    def sampling(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        rays_o: Tensor,
        rays_d: Tensor,
        sigma_fn: SampleFunction | None = None,
        alpha_fn: SampleFunction | None = None,
        near_plane: float = 0.0,
        far_plane: float = 1e10,
        t_min: Tensor | None = None,
        t_max: Tensor | None = None,
        render_step_size: float = 1e-3,
        early_stop_eps: float = 1e-4,
        alpha_thre: float = 0.0,
        stratified: bool = False,
        cone_angle: float = 0.0,
        *,
        max_samples: int | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Samples rays in occupied cells, and keeps the samples that are seen.

        Args:
            rays_o: Origins [n_rays, 3].
            rays_d: Directions [n_rays, 3], of unit length where distances should be lengths.
            sigma_fn: (t_starts, t_ends, ray_indices), all [n_samples], to densities [n_samples];
                given, samples that are not seen are left out.
            alpha_fn: The same with opacities; used without sigma_fn.
            near_plane: Where rays begin.
            far_plane: Where rays end.
            t_min: [n_rays], where each ray begins, if behind near_plane.
            t_max: [n_rays], where each ray ends, if before far_plane.
            render_step_size: Length of a sample; with a cone, the least length.
            early_stop_eps: Least transmittance before a visible sample.
            alpha_thre: Least opacity of a visible sample, at most the mean of ``occs``.
            stratified: Begin each ray a random part of a step later.
            cone_angle: Samples at t are at least t * cone_angle long.
            max_samples: The most samples before any are left out; more are a ValueError.
            generator: Of the random parts; default torch's own.

        Returns:
            ray_indices int64 [n_samples], t_starts and t_ends float32 [n_samples], ray by ray and
            ascending. Not differentiable.

        Raises:
            TypeError: An argument has another type.
            ValueError: A shape, device or number is wrong, or there are too many samples.
        """
        name = f"{type(self).__name__}.sampling"
        early_stop_eps = check_number(name, "early_stop_eps", early_stop_eps, -math.inf)
        alpha_thre = check_number(name, "alpha_thre", alpha_thre, -math.inf)
        rays, t_starts, t_ends, packed_info = self.traverse(
            rays_o,
            rays_d,
            near_plane=near_plane,
            far_plane=far_plane,
            t_min=t_min,
            t_max=t_max,
            render_step_size=render_step_size,
            stratified=stratified,
            cone_angle=cone_angle,
            max_samples=max_samples,
            generator=generator,
        )
        if (sigma_fn is None and alpha_fn is None) or not (alpha_thre > 0 or early_stop_eps > 0):
            return rays, t_starts, t_ends
        if alpha_thre > 0:
            alpha_thre = min(alpha_thre, self.mean_occupancy())
        options = {
            "packed_info": packed_info,
            "early_stop_eps": early_stop_eps,
            "alpha_thre": alpha_thre,
        }
        if sigma_fn is not None:
            sigmas = _asked(f"{name}: sigma_fn", sigma_fn, t_starts, t_ends, rays)
            seen = render_visibility_from_density(t_starts, t_ends, sigmas, **options)
        else:
            assert alpha_fn is not None
            alphas = _asked(f"{name}: alpha_fn", alpha_fn, t_starts, t_ends, rays)
            seen = render_visibility_from_alpha(alphas, **options)
        # Once for all three, as finding the places waits for the device.
        places = seen.nonzero()[:, 0]
        return rays[places], t_starts[places], t_ends[places]

    @torch.no_grad()
    def traverse(
        self,
        rays_o: Tensor,
        rays_d: Tensor,
        *,
        near_plane: float = 0.0,
        far_plane: float = 1e10,
        t_min: Tensor | None = None,
        t_max: Tensor | None = None,
        render_step_size: float = 1e-3,
        stratified: bool = False,
        cone_angle: float = 0.0,
        max_samples: int | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All samples of rays in occupied cells, seen or not.

        Args:
            rays_o: As for `sampling`, like all that follow.
            rays_d: Directions [n_rays, 3].
            near_plane: Where rays begin.
            far_plane: Where rays end.
            t_min: [n_rays], where each ray begins.
            t_max: [n_rays], where each ray ends.
            render_step_size: Length of a sample.
            stratified: Begin each ray a random part of a step later.
            cone_angle: Samples at t are at least t * cone_angle long.
            max_samples: The most samples.
            generator: Of the random parts.

        Returns:
            ray_indices, t_starts and t_ends [n_samples], and packed_info int64 [n_rays, 2], start
            and count of each ray. Not differentiable.

        Raises:
            TypeError: An argument has another type.
            ValueError: A shape, device or number is wrong, or there are too many samples.
        """
        name = f"{type(self).__name__}.sampling"
        check_tensor(name, "rays_o", rays_o, ("n_rays", 3), like=self.aabbs)
        check_tensor(name, "rays_d", rays_d, tuple(rays_o.shape), like=self.aabbs)
        step = check_number(name, "render_step_size", render_step_size, 0.0, above=True)
        cone = check_number(name, "cone_angle", cone_angle, 0.0)
        near, far = (
            torch.full_like(rays_o[:, 0], value, dtype=torch.float32)
            for value in (
                check_number(name, "near_plane", near_plane, -math.inf, above=True),
                check_number(name, "far_plane", far_plane, -math.inf),
            )
        )
        if t_min is not None:
            check_tensor(name, "t_min", t_min, tuple(near.shape), like=self.aabbs)
            near = torch.maximum(near, t_min.float())
        if t_max is not None:
            check_tensor(name, "t_max", t_max, tuple(near.shape), like=self.aabbs)
            far = torch.minimum(far, t_max.float())
        if stratified:
            parts = torch.rand(near.shape, generator=generator, device=near.device)
            near = near + parts * step
        if max_samples is not None:
            check_count(name, "max_samples", max_samples, 0)
        try:
            return self._walk(rays_o.float(), rays_d.float(), near, far, step, cone, max_samples)
        except ValueError as error:
            raise ValueError(_in_our_words(name, str(error))) from None

    def _walk(
        self,
        rays_o: Tensor,
        rays_d: Tensor,
        near: Tensor,
        far: Tensor,
        step: float,
        cone_angle: float,
        limit: int | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        self._check_binaries()
        return sample_dense(
            self.binaries,
            self.aabbs,
            rays_o,
            rays_d,
            near,
            far,
            step=step,
            cone_angle=cone_angle,
            limit=limit,
        )

    def _check_binaries(self) -> None:
        """Raises unless what was assigned fits: callers may assign anything."""
        shape = (self.levels, *self._cells)
        name = type(self).__name__
        check_tensor(name, "binaries", self.binaries, shape, like=self.aabbs, dtype=torch.bool)

    def mean_occupancy(self) -> float:
        """The mean of ``occs``, cells that no camera sees included; a GPU is waited for."""
        return float(self.occs.mean()) if self.occs.numel() else float("inf")

    # -- training ----------------------------------------------------------------------------------

    @torch.no_grad()
    def update_every_n_steps(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        step: int,
        occ_eval_fn: OccupancyFunction,
        occ_thre: float = 1e-2,
        ema_decay: float = 0.95,
        warmup_steps: int = 256,
        n: int = 16,
    ) -> None:
        """Looks at the field again, every n-th step.

        Args:
            step: The number of this step.
            occ_eval_fn: Positions [N, 3] to occupancies [N, 1] or [N]: density times the length of
                a sample.
            occ_thre: A cell is occupied above it, or above the mean of all cells that are seen if
                that is lower.
            ema_decay: A cell's last value counts with this factor.
            warmup_steps: Up to this step all cells are looked at; later a quarter drawn from all,
                and as many of the occupied.
            n: Steps between two looks.

        Raises:
            RuntimeError: The estimator is not in training mode.
            TypeError: A number has another type.
            ValueError: A number is out of range, or occ_eval_fn gave another shape, or NaN.
        """
        if not self.training:
            raise RuntimeError(
                f"{type(self).__name__}.update_every_n_steps: expected training mode, got eval(); "
                "call train() first"
            )
        name = f"{type(self).__name__}.update_every_n_steps"
        step = check_count(name, "step", step, 0)
        if step % check_count(name, "n", n, 1) == 0:
            self._update(step, occ_eval_fn, occ_thre, ema_decay, warmup_steps)

    @torch.no_grad()
    def _update(
        self,
        step: int,
        occ_eval_fn: OccupancyFunction,
        occ_thre: float = 0.01,
        ema_decay: float = 0.95,
        warmup_steps: float = 256,
    ) -> None:
        """Looks at the field now; arguments as for `update_every_n_steps`."""
        name = f"{type(self).__name__}.update_every_n_steps"
        occ_thre = check_number(name, "occ_thre", occ_thre, -math.inf)
        warmup_steps = check_number(name, "warmup_steps", warmup_steps, -math.inf)
        # NaN would look like cells that no camera sees, for ever.
        ema_decay = check_number(name, "ema_decay", ema_decay, 0.0)
        if ema_decay > 1:
            raise ValueError(f"{name}: ema_decay: expected at most 1, got {ema_decay}")
        bad = torch.zeros((), dtype=torch.bool, device=self.device)
        for level in range(self.levels):
            occs = self._level_occs(level)
            if step < warmup_steps:
                chosen: Iterator[Tensor] = self._seen_cells(level)
            else:
                cells = self._drawn_cells(level, self.cells_per_lvl // 4)
                # All at once: a cell that was drawn twice fades once.
                occs[cells] = occs[cells] * ema_decay
                chosen = iter(cells.split(CELLS_AT_ONCE))
            for cells in chosen:
                found = self._look(level, cells, occ_eval_fn)
                bad |= found.isnan().any()
                found = found.nan_to_num(nan=0.0, posinf=float("inf"))
                if step < warmup_steps:
                    occs[cells] = torch.maximum(occs[cells] * ema_decay, found)
                else:
                    occs.scatter_reduce_(0, cells, found, "amax")
        self._binarize(occ_thre)
        if bad:
            raise ValueError(
                f"{type(self).__name__}: occ_eval_fn: expected numbers, got NaN (taken as 0)"
            )

    def _level_occs(self, level: int) -> Tensor:
        return self.occs[level * self.cells_per_lvl : (level + 1) * self.cells_per_lvl]

    def _binarize(self, occ_thre: float) -> None:
        """Cells above the threshold, in a new tensor."""
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        count = torch.zeros((), dtype=torch.int64, device=self.device)
        for part in self.occs.split(CELLS_AT_ONCE):
            seen = part >= 0
            total += torch.where(seen, part, 0).sum(dtype=torch.float64)
            count += seen.sum()
        mean = (total / count.clamp_min(1)).float()
        threshold = mean.clamp_max(occ_thre)
        self.binaries = (self.occs > threshold).view(self.binaries.shape)

    def _seen_cells(self, level: int) -> Iterator[Tensor]:
        """The cells of a level that some camera sees, some at a time."""
        occs = self._level_occs(level)
        for first in range(0, self.cells_per_lvl, CELLS_AT_ONCE):
            seen = (occs[first : first + CELLS_AT_ONCE] >= 0).nonzero()[:, 0]
            if len(seen):
                yield seen + first

    def _get_all_cells(self) -> list[Tensor]:
        """The cells that some camera sees, a tensor of indices a level."""
        none = torch.zeros(0, dtype=torch.int64, device=self.device)
        return [torch.cat([none, *self._seen_cells(level)]) for level in range(self.levels)]

    def _drawn_cells(self, level: int, n: int) -> Tensor:
        """n cells drawn from all and up to n occupied ones, without those that no camera sees."""
        seen = self._level_occs(level) >= 0
        uniform = torch.randint(self.cells_per_lvl, (n,), device=self.device)
        uniform = uniform[seen[uniform]]
        occupied = (self.binaries[level].flatten() & seen).nonzero()[:, 0]
        if n < len(occupied):
            occupied = occupied[torch.randint(len(occupied), (n,), device=self.device)]
        return torch.cat([uniform, occupied])

    def _sample_uniform_and_occupied_cells(self, n: int) -> list[Tensor]:
        """`_drawn_cells` of every level."""
        return [self._drawn_cells(level, n) for level in range(self.levels)]

    def _look(self, level: int, cells: Tensor, occ_eval_fn: OccupancyFunction) -> Tensor:
        """The field's occupancy at a random place in each cell, [N]."""
        coordinates = self._coordinates(cells)
        places = (coordinates + torch.rand(coordinates.shape, device=self.device)) / self.resolution
        low, high = self.aabbs[level, :3], self.aabbs[level, 3:]
        found = occ_eval_fn(low + places * (high - low))
        return check_occupancies(type(self).__name__, found, len(cells)).to(self.occs)

    def _coordinates(self, cells: Tensor) -> Tensor:
        """Cell coordinates int64 [N, 3] of indices within a level."""
        ny, nz = self.resolution[1].long(), self.resolution[2].long()
        column = torch.div(cells, nz, rounding_mode="floor")
        x = torch.div(column, ny, rounding_mode="floor")
        return torch.stack([x, column - x * ny, cells - column * nz], dim=-1)

    @torch.no_grad()
    def mark_invisible_cells(
        self,
        K: Tensor,
        c2w: Tensor,
        width: int,
        height: int,
        near_plane: float = 0.0,
        chunk: int = 32**3,
    ) -> None:
        """Leaves out the cells that no camera sees; called once, before training.

        A cell counts as seen where its corner (index / (resolution - 1) of the box) lies in some
        image and, in no image, nearer than near_plane. Seen cells begin at 0 again; the others, and
        all that were left out before, stay at -1.

        Args:
            K: Intrinsics [1, 3, 3] or [n_cameras, 3, 3], pixels.
            c2w: Camera to world [n_cameras, 3, 4] or [n_cameras, 4, 4], OpenCV axes.
            width: Pixels.
            height: Pixels.
            near_plane: Along the cameras' z axes.
            chunk: Cells looked at together.

        Raises:
            TypeError: A tensor has another type.
            ValueError: A shape, device or number is wrong.
        """
        name = f"{type(self).__name__}.mark_invisible_cells"
        check_tensor(name, "K", K, ("1 or n_cameras", 3, 3), like=self.aabbs)
        check_tensor(name, "c2w", c2w, ("n_cameras", "3 or 4", 4), like=self.aabbs)
        if c2w.shape[1] not in (3, 4) or len(c2w) == 0:
            raise ValueError(
                f"{name}: c2w: expected shape [n_cameras, 3 or 4, 4], got {list(c2w.shape)}"
            )
        if K.shape[0] not in (1, c2w.shape[0]):
            raise ValueError(
                f"{name}: K: expected 1 or {c2w.shape[0]} intrinsics, got {K.shape[0]}"
            )
        for argument, values in (("K", K), ("c2w", c2w)):
            if not bool(values.isfinite().all()):
                raise ValueError(f"{name}: {argument}: expected finite numbers, got NaN or Inf")
        width, height = check_count(name, "width", width, 1), check_count(name, "height", height, 1)
        near_plane = check_number(name, "near_plane", near_plane, -math.inf)
        chunk = check_count(name, "chunk", chunk, 1)
        rotation = c2w[:, :3, :3].transpose(1, 2).float()
        translation = -rotation @ c2w[:, :3, 3:].float()
        for level in range(self.levels):
            low, high = self.aabbs[level, :3], self.aabbs[level, 3:]
            for seen in self._seen_cells(level):
                for cells in seen.split(chunk):
                    places = self._coordinates(cells) / (self.resolution - 1).clamp_min(1)
                    points = (low + places * (high - low)).T
                    pixels = K.float() @ (rotation @ points + translation)
                    keep = _covered(pixels, width, height, near_plane)
                    self._level_occs(level)[cells] = torch.where(keep, 0.0, -1.0)


def _covered(pixels: Tensor, width: int, height: int, near_plane: float) -> Tensor:
    """Which points [n_cameras, 3, N] some camera sees and none sees too near."""
    depth = pixels[:, 2]
    u, v = pixels[:, 0] / depth, pixels[:, 1] / depth
    inside = (depth >= 0) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
    near = depth < near_plane
    return (inside & ~near).any(0) & ~(inside & near).any(0)


def check_occupancies(function: str, found: object, n: int) -> Tensor:
    """What a field said of n positions, flat, or a ValueError that names ``occ_eval_fn``."""
    if not isinstance(found, Tensor) or found.numel() != n or found.dim() > 2:
        got = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"{function}: occ_eval_fn: expected shape [{n}, 1], got {got}")
    return found.detach().reshape(-1)


def enlarge_aabb(aabb: Tensor, factor: float) -> Tensor:
    """A box [6] scaled about its centre.

    Example:
        >>> enlarge_aabb(torch.tensor([0.0, 0, 0, 2, 2, 2]), 2).tolist()
        [-1.0, -1.0, -1.0, 3.0, 3.0, 3.0]
    """
    centre, half = (aabb[:3] + aabb[3:]) / 2, (aabb[3:] - aabb[:3]) / 2
    return torch.cat([centre - half * factor, centre + half * factor])


def _box(function: str, roi_aabb: Sequence[float] | Tensor, levels: int) -> Tensor:
    try:
        box = torch.as_tensor(roi_aabb, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"{function}: roi_aabb: expected 6 numbers, got {type(roi_aabb).__name__}"
        ) from None
    if box.shape != (6,):
        raise ValueError(f"{function}: roi_aabb: expected shape [6], got {list(box.shape)}")
    if not bool((box[3:] > box[:3]).all() and box.isfinite().all()):
        raise ValueError(
            f"{function}: roi_aabb: expected finite numbers, min xyz below max xyz, "
            f"got {box.tolist()}"
        )
    if not float(enlarge_aabb(box, 2 ** (levels - 1)).abs().max()) < _FARTHEST:
        raise ValueError(
            f"{function}: roi_aabb: expected boxes of {levels} level(s) below {_FARTHEST}, got "
            f"{box.tolist()} for the first"
        )
    return box


def _resolution(function: str, resolution: int | Sequence[int] | Tensor, levels: int) -> Tensor:
    given = [resolution] * 3 if isinstance(resolution, int) else resolution
    try:
        cells = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{function}: resolution: expected integers, got {resolution!r}") from None
    if cells.is_floating_point() or cells.dtype == torch.bool:
        raise TypeError(f"{function}: resolution: expected integers, got {cells.dtype}")
    if cells.shape != (3,) or int(cells.min()) < 1:
        raise ValueError(
            f"{function}: resolution: expected 3 numbers of cells, 1 or more, got {cells.tolist()}"
        )
    x, y, z = cells.tolist()
    if x * y * z * levels > _LARGEST_CELL_COUNT or max(x, y, z) >= 2**31:
        raise ValueError(
            f"{function}: resolution: expected at most 2^40 cells, fewer than 2^31 along an axis, "
            f"got {x} x {y} x {z} in {levels} level(s)"
        )
    return cells.to(torch.int32)


def _in_our_words(function: str, text: str) -> str:
    """What a walk found wrong, with the names that `OccupancyEstimator.sampling` has for it."""
    found = re.fullmatch(r"sample_(?:dense|masks): (.*)", text, re.DOTALL)
    if found is None:
        return text
    facts = re.sub(r"^step:", "render_step_size:", found[1])
    facts = facts.replace("(limit)", "(max_samples)")
    return f"{function}: {facts.replace('raise the limit', 'raise max_samples')}"


def _asked(
    what: str, function: SampleFunction, t_starts: Tensor, t_ends: Tensor, rays: Tensor
) -> Tensor:
    """What a function says of samples, [n_samples]; it is not asked about none."""
    if len(t_starts) == 0:
        return torch.zeros_like(t_starts)
    found = function(t_starts, t_ends, rays)
    function_name, argument = what.split(": ")
    check_tensor(function_name, argument, found, tuple(t_starts.shape), like=t_starts)
    return found
