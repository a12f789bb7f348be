# SPDX-License-Identifier: Apache-2.0
"""The occupancy estimator whose rays pass over empty space: nested masks instead of a dense grid.

`VDBEstimator` is an `OccupancyEstimator` in all but how rays walk: its cells are also kept as
nested 64-bit masks, which say of whole blocks of 64^3, 16^3 and 4^3 cells that they are empty.
Samples are the same, to the last bit.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..cuda.vdb.grid_change_ops import dilate_masks, intersection, refine_masks
from ..cuda.vdb.grid_ops import (
    Masks,
    active_coordinates,
    build_masks,
    check_masks,
    masks_from_coordinates,
)
from ..cuda.vdb.walk_ops import sample_masks
from .checks import check_count, check_number, check_tensor
from .occupancy import CELLS_AT_ONCE, OccupancyEstimator, OccupancyFunction, check_occupancies

if TYPE_CHECKING:
    from ..representations.vdb import VDBGrid


# Keys of a checkpoint of an estimator without a dense grid.
_MASK_NAMES = ("masks.tops", "masks.nodes", "masks.leaves")


class VDBEstimator(OccupancyEstimator):
    """Finds where rays may meet something, passing over whole empty regions.

    A checkpoint has NerfAcc's keys; that of an estimator made by `from_grid` or `refined` holds its
    masks instead, and any VDBEstimator loads it.

    The masks are built from ``binaries`` when they are needed, and again after ``binaries`` was
    assigned or written to, so that it may train like its parent. Writing through ``binaries.data``
    cannot be noticed: call `refresh` after it.

    Args:
        roi_aabb: The innermost box, 6 numbers: min xyz, max xyz.
        resolution: Cells along each axis, one number or three.
        levels: How many boxes, each twice as large as the one before.
        exact: With a cone_angle, walk every cell, so that samples are those of the parent; False
            lets an empty region count as one cell, which is faster and moves samples by less than a
            step. Without a cone_angle they are always the same.

    Raises:
        TypeError: An argument has another type, or is not known.
        ValueError: A number or shape is wrong.

    Source: Kato and Tarashima, "Efficient VDB traversal for NeRF" (2024), for the idea; Museth,
        "VDB" (2013), for the tree.

    Example:
        >>> trained = OccupancyEstimator([-1, -1, -1, 1, 1, 1], resolution=32)
        >>> trained.binaries[0, 8:24, 8:24, 8:24] = True
        >>> estimator = VDBEstimator.from_estimator(trained)
        >>> estimator.grid_bytes, trained.grid_bytes
        (656, 32768)
    """

    # The base class moves itself to its box's device before there are masks.
    _masks: Masks | None = None
    _fixed = False

    def __init__(
        self,
        roi_aabb: Sequence[float] | Tensor,
        resolution: int | Sequence[int] | Tensor = 128,
        levels: int = 1,
        *,
        exact: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(roi_aabb, resolution, levels, **kwargs)
        self.exact = exact
        self._forget()

    @classmethod
    def from_estimator(cls, estimator: Any, *, exact: bool = True) -> VDBEstimator:
        """Takes over a trained estimator; nothing is learnt again.

        Args:
            estimator: An `OccupancyEstimator` or NerfAcc's OccGridEstimator: anything with its
                ``aabbs``, ``resolution``, ``occs`` and ``binaries``, which are copied.
            exact: As for the constructor.

        Returns:
            The estimator, on the same device and in the same mode.

        Raises:
            TypeError: The object has no such attributes.
            ValueError: Their shapes do not fit together.

        Example:
            >>> VDBEstimator.from_estimator(OccupancyEstimator([0, 0, 0, 1, 1, 1], 8)).levels
            1
        """
        name = f"{cls.__name__}.from_estimator"
        found: dict[str, Tensor] = {}
        for key in ("aabbs", "resolution", "occs", "binaries"):
            value = getattr(estimator, key, None)
            if not isinstance(value, Tensor):
                raise TypeError(
                    f"{name}: estimator: expected a trained occupancy grid with {key}, "
                    f"got {type(estimator).__name__}"
                )
            found[key] = value.detach()
        if found["aabbs"].dim() != 2 or found["aabbs"].shape[1] != 6:
            raise ValueError(
                f"{name}: aabbs: expected shape [levels, 6], got {list(found['aabbs'].shape)}"
            )
        made = cls(found["aabbs"][0], found["resolution"].cpu(), len(found["aabbs"]), exact=exact)
        for key, value in found.items():
            own = getattr(made, key)
            if own.shape != value.shape:
                raise ValueError(
                    f"{name}: {key}: expected shape {list(own.shape)}, got {list(value.shape)}"
                )
            own.copy_(value)
        return made.train(getattr(estimator, "training", True))

    @classmethod
    def from_grid(
        cls, grid: VDBGrid, aabb: Sequence[float] | Tensor | None = None, *, exact: bool = True
    ) -> VDBEstimator:
        """Samples rays in the active voxels of a grid.

        Nothing dense is made, however large the grid. The estimator cannot be trained.

        Args:
            grid: Its masks are shared.
            aabb: The box that level 0 fills, 6 numbers, level i one that is 2^i times as large;
                default each level's own place in the world.
            exact: As for the constructor.

        Returns:
            The estimator, on the grid's device, in evaluation mode.

        Raises:
            ValueError: aabb is no box, or none is given and the grid's transform turns its own.

        Example:
            >>> from fieldline.representations.vdb import VDBGrid
            >>> grid = VDBGrid.from_dense(torch.ones(4, 4, 4, dtype=torch.bool))
            >>> estimator = VDBEstimator.from_grid(grid, [0, 0, 0, 1, 1, 1])
            >>> estimator.sampling(torch.tensor([[-1.0, 0.5, 0.5]]),
            ...                    torch.tensor([[1.0, 0, 0]]), render_step_size=0.25)[1].tolist()
            [1.0, 1.25, 1.5, 1.75]
        """
        masks = grid.masks
        boxes = world_boxes(grid) if aabb is None else None
        innermost = torch.as_tensor(aabb if boxes is None else boxes[0])
        return cls._from_masks(masks, innermost, boxes, exact)

    @classmethod
    def _from_masks(
        cls, masks: Masks, innermost: Tensor, boxes: Tensor | None, exact: bool
    ) -> VDBEstimator:
        """An estimator without a dense grid; boxes of all levels, or twice as large each."""
        made = cls(innermost.cpu(), 1, masks.levels, exact=exact)
        if boxes is not None:
            made.aabbs = boxes.to(made.aabbs)
        made.to(masks.device)
        made._leave_dense_grid(masks)
        return made.eval()

    @torch.no_grad()
    def refined(
        self, occ_eval_fn: OccupancyFunction, factor: int = 2, occ_thre: float = 1e-3
    ) -> VDBEstimator:
        """Splits occupied cells, and keeps the parts in which a trained field holds something.

        A dense grid of such fine cells would be large and slow to walk; nested masks are neither,
        and rays then take fewer samples of nothing. What falls below the threshold is lost.

        Args:
            occ_eval_fn: Positions [N, 3] to occupancies [N, 1] or [N]: density times the length of
                a sample. It is asked about the middle of each part.
            factor: Parts of a cell along each axis.
            occ_thre: A part is kept where it, or one of the 26 around it, is above.

        Returns:
            An estimator of its own, in evaluation mode, which cannot be trained.

        Raises:
            TypeError: A number has another type.
            ValueError: factor is below 1, occ_thre is NaN, or occ_eval_fn gave another shape.

        Example:
            >>> estimator = VDBEstimator([-1, -1, -1, 1, 1, 1], 16)
            >>> estimator.binaries[:] = True
            >>> finer = estimator.refined(lambda x: (x.norm(dim=-1) < 0.3).float(), factor=2)
            >>> finer.resolution.tolist()
            [32, 32, 32]
        """
        name = f"{type(self).__name__}.refined"
        factor = check_count(name, "factor", factor, 1)
        occ_thre = check_number(name, "occ_thre", occ_thre, -math.inf)
        masks = self.masks()
        masks = refine_masks(masks, factor) if factor > 1 else masks
        cells = active_coordinates(masks, with_level=True)
        resolution = torch.tensor(masks.resolution, device=masks.device)
        kept = [cells[:0]]
        for part in cells.split(CELLS_AT_ONCE):
            boxes = self.aabbs[part[:, 0].long()]
            places = (part[:, 1:] + 0.5) / resolution
            found = occ_eval_fn(boxes[:, :3] + places * (boxes[:, 3:] - boxes[:, :3]))
            kept.append(part[check_occupancies(name, found, len(part)) > occ_thre])
        full = masks_from_coordinates(torch.cat(kept), masks.resolution, masks.levels)
        masks = intersection(dilate_masks(full, 26), masks)
        return self._from_masks(masks, self.aabbs[0], self.aabbs, self.exact)

    # -- masks -------------------------------------------------------------------------------------

    def masks(self) -> Masks:
        """The cells as nested masks, built again if ``binaries`` changed.

        Returns:
            The masks.

        Raises:
            TypeError: ``binaries`` was assigned something other than bool.
            ValueError: Its shape or device is wrong.
        """
        if self._masks is None or not (self._fixed or self._is_current()):
            self._check_binaries()
            self._masks = build_masks(self.binaries)
            self._source = weakref.ref(self.binaries)
            self._version = _version(self.binaries)
        return self._masks

    def refresh(self) -> None:
        """Builds the masks again when they are next needed."""
        if not self._fixed:
            self._forget()

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """torch's hook; without a dense grid the masks are what there is to save."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self._fixed:
            for name, part in zip(_MASK_NAMES, self.masks()):
                destination[prefix + name] = part

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """torch's hook; a checkpoint with masks makes an estimator that cannot be trained."""
        names = [prefix + name for name in _MASK_NAMES]
        if not all(name in state_dict for name in names):
            super()._load_from_state_dict(state_dict, prefix, *rest)
            return
        errors: list[str] = rest[-1]
        try:
            masks = _loaded_masks(state_dict, prefix, self.device)
            aabbs = state_dict[f"{prefix}aabbs"]
            check_tensor("VDBEstimator", "aabbs", aabbs, (masks.levels, 6))
        except (TypeError, ValueError, KeyError) as error:
            errors.append(f"masks of {type(self).__name__}: {error}.")
            return
        self.levels = masks.levels
        self.aabbs = aabbs.to(self.aabbs, copy=True)
        self._leave_dense_grid(masks)

    def _leave_dense_grid(self, masks: Masks) -> None:
        """Makes the masks all that there is."""
        self._cells = masks.resolution
        self.resolution = torch.tensor(masks.resolution, dtype=torch.int32, device=masks.device)
        self.occs = self.occs[:0]
        self.binaries = self.binaries.new_zeros(masks.levels, 0, 1, 1)
        self.cells_per_lvl = 0
        self._masks, self._fixed = masks, True

    def _forget(self) -> None:
        self._masks = None
        self._fixed = False
        self._source: Callable[[], Tensor | None] = lambda: None
        self._version: int | None = None

    def _is_current(self) -> bool:
        version = _version(self.binaries)
        return self._source() is self.binaries and version is not None and version == self._version

    def _apply(self, fn: Any, recurse: bool = True) -> VDBEstimator:
        super()._apply(fn, recurse)
        if self._masks is not None and self._fixed:
            tops, nodes, leaves, resolution = self._masks
            self._masks = Masks(fn(tops), fn(nodes), fn(leaves), resolution)
        elif self._masks is not None:
            self._forget()
        return self

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        # What was built is built again; a weak reference cannot be copied.
        state["_source"] = None
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        fixed = self._masks if self._fixed else None
        self._forget()
        if fixed is not None:
            self._masks, self._fixed = fixed, True

    # -- sampling ----------------------------------------------------------------------------------

    @property
    def grid_bytes(self) -> int:
        """Bytes of what sampling reads: the masks."""
        return sum(t.numel() * t.element_size() for t in self.masks()[:3])

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
        return sample_masks(
            self.masks(),
            self.aabbs,
            rays_o,
            rays_d,
            near,
            far,
            step=step,
            cone_angle=cone_angle,
            exact=self.exact,
            limit=limit,
        )

    # -- training ----------------------------------------------------------------------------------

    def _update(self, *args: Any, **kwargs: Any) -> None:
        self._check_trainable("_update")
        super()._update(*args, **kwargs)

    def mark_invisible_cells(self, *args: Any, **kwargs: Any) -> None:
        """Leaves out the cells that no camera sees; see `OccupancyEstimator`."""
        self._check_trainable("mark_invisible_cells")
        super().mark_invisible_cells(*args, **kwargs)

    def _check_trainable(self, method: str) -> None:
        if self._fixed:
            raise RuntimeError(
                f"{type(self).__name__}.{method}: expected an estimator with a dense grid, got one "
                "made by from_grid, which cannot be trained"
            )


def _loaded_masks(state: dict[str, Any], prefix: str, device: torch.device) -> Masks:
    """The masks of a checkpoint, checked: walks follow their words without looking."""
    parts = [state[prefix + name] for name in _MASK_NAMES]
    resolution = state[f"{prefix}resolution"]
    for name, part in zip((*_MASK_NAMES, "resolution"), (*parts, resolution)):
        if not isinstance(part, Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(part).__name__}")
    tops, nodes, leaves = (part.to(device, copy=True).contiguous() for part in parts)
    if resolution.shape != (3,) or tops.dim() != 5:
        raise ValueError(
            "expected resolution [3] and masks.tops [levels, X, Y, Z, 2], got "
            f"{list(resolution.shape)} and {list(tops.shape)}"
        )
    x, y, z = (int(n) for n in resolution)
    masks = Masks(tops, nodes, leaves, (x, y, z))
    check_masks(masks)
    return masks


def _version(tensor: Tensor) -> int | None:
    """Counts writes to a tensor; None where torch does not count them."""
    return None if tensor.is_inference() else tensor._version


def world_boxes(grid: VDBGrid) -> Tensor:
    """Where the masks of each level of a grid lie in the world.

    Args:
        grid: Its transform must scale along the axes only.

    Returns:
        float64 [levels, 6]: min xyz, max xyz.

    Raises:
        ValueError: The transform turns, shears or mirrors.

    Example:
        >>> from fieldline.representations.vdb import VDBGrid
        >>> world_boxes(VDBGrid.from_dense(torch.ones(2, 3, 4, dtype=torch.bool))).tolist()
        [[0.0, 0.0, 0.0, 2.0, 3.0, 4.0]]
    """
    transforms = grid.transform.cpu().double().reshape(-1, 4, 4).expand(grid.masks.levels, 4, 4)
    scales = transforms[:, :3, :3].diagonal(dim1=1, dim2=2)
    if not torch.equal(scales.diag_embed(), transforms[:, :3, :3]) or bool((scales <= 0).any()):
        raise ValueError(
            "VDBEstimator.from_grid: grid: expected a transform that scales along the axes, got "
            f"{transforms[0].tolist()}; give aabb, the box of its masks in coordinates of the rays"
        )
    low = torch.tensor(grid.origin, dtype=torch.float64)
    high = low + torch.tensor(grid.masks.resolution)
    offset = transforms[:, :3, 3]
    return torch.cat([scales * low + offset, scales * high + offset], dim=-1)
