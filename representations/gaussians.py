# SPDX-License-Identifier: Apache-2.0
"""A scene as 3D Gaussians: raw parameters an optimiser can move freely, and the activations that
read them.

==============  ==============  ======================  ========================================
parameter       shape           activation              meaning
==============  ==============  ======================  ========================================
means           [N, 3]          none                    centres, world units
quats           [N, 4]          normalised when read    rotations, wxyz, any non-zero length
log_scales      [N, 3]          exp                     standard deviations along the local axes
opacity_logits  [N]             sigmoid                 opacities
sh0, shN        [N, 1, 3] and   colour = SH(direction)  spherical harmonics: band 0, the others;
                [N, K - 1, 3]   + 0.5, at least 0       K = (degree + 1)^2
==============  ==============  ======================  ========================================

Non-finite values are kept as they are: a renderer culls such Gaussians, `bounds` leaves them out,
and `pruned` removes them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .neighbours import nearest_neighbour_distances
from .points import box_of_points

SH_C0 = 0.28209479177387814
"""The constant spherical harmonic, 1 / (2 sqrt(pi))."""

MAX_SH_DEGREE = 4
FORMAT_VERSION = 1
PARAMETER_NAMES = ("means", "quats", "log_scales", "opacity_logits", "sh0", "shN")


def rgb_to_sh0(rgb: Tensor) -> Tensor:
    """Turn colours in [0, 1] into band 0 coefficients, any shape."""
    return (rgb - 0.5) / SH_C0


def sh0_to_rgb(sh0: Tensor) -> Tensor:
    """Turn band 0 coefficients into colours, any shape; not clamped."""
    return sh0 * SH_C0 + 0.5


def sh_degree_of(n_coefficients: int) -> int | None:
    """Give the degree that has this many coefficients per channel, None if there is none up to
    4."""
    degree = math.isqrt(max(n_coefficients, 0)) - 1
    fits = 0 <= degree <= MAX_SH_DEGREE and (degree + 1) ** 2 == n_coefficients
    return degree if fits else None


def _check_parameters(where: str, tensors: dict[str, Tensor]) -> None:
    """Raise ValueError unless the six tensors describe one set of Gaussians."""
    means = tensors["means"]
    n = means.shape[0] if means.dim() else 0
    rest = tensors["shN"]
    n_rest = rest.shape[1] if rest.dim() == 3 else 0
    expected = {
        "means": (n, 3),
        "quats": (n, 4),
        "log_scales": (n, 3),
        "opacity_logits": (n,),
        "sh0": (n, 1, 3),
        "shN": (n, n_rest, 3),
    }
    for name, shape in expected.items():
        tensor = tensors[name]
        if tuple(tensor.shape) != shape:
            raise ValueError(
                f"{where}: {name}: expected shape {list(shape)}, got {list(tensor.shape)}"
            )
        if not tensor.is_floating_point() or tensor.dtype != means.dtype:
            dtype = means.dtype if means.is_floating_point() else "a floating dtype"
            raise ValueError(f"{where}: {name}: expected {dtype}, got {tensor.dtype}")
    if sh_degree_of(n_rest + 1) is None:
        raise ValueError(
            f"{where}: shN: expected 0, 3, 8, 15 or 24 coefficients (degree 0 to 4), got {n_rest}"
        )


class Gaussians3D(nn.Module):
    """N anisotropic 3D Gaussians with opacity and view-dependent colour.

    Args:
        means: [N, 3] centres.
        quats: [N, 4] rotations, wxyz, of any non-zero length.
        log_scales: [N, 3] natural logarithms of the standard deviations.
        opacity_logits: [N] opacities before the sigmoid.
        sh0: [N, 1, 3] band 0 spherical harmonics (RGB).
        shN: [N, (degree + 1)^2 - 1, 3] higher bands, or None for degree 0.

    Raises:
        ValueError: If shapes or dtypes do not fit together.

    Source:
        Kerbl et al., 3D Gaussian Splatting for Real-Time Radiance Field Rendering, SIGGRAPH 2023.

    Example:
        >>> gaussians = Gaussians3D.random(1000, sh_degree=2, seed=0)
        >>> gaussians.sh.shape, gaussians.sh_degree
        (torch.Size([1000, 9, 3]), 2)
    """

    means: nn.Parameter
    quats: nn.Parameter
    log_scales: nn.Parameter
    opacity_logits: nn.Parameter
    sh0: nn.Parameter
    shN: nn.Parameter
    version: Tensor

    def __init__(
        self,
        means: Tensor,
        quats: Tensor,
        log_scales: Tensor,
        opacity_logits: Tensor,
        sh0: Tensor,
        shN: Tensor | None = None,
    ) -> None:
        super().__init__()
        if shN is None:
            shN = sh0.new_empty(sh0.shape[0], 0, 3)
        values = (means, quats, log_scales, opacity_logits, sh0, shN)
        tensors: dict[str, Tensor] = dict(zip(PARAMETER_NAMES, values))
        _check_parameters("Gaussians3D", tensors)
        for name, tensor in tensors.items():
            self.register_parameter(name, nn.Parameter(tensor.detach().contiguous()))
        self.register_buffer("version", torch.tensor(FORMAT_VERSION))

    # -- reading -----------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self.means.shape[0]

    def __bool__(self) -> bool:
        # A module without Gaussians is still a module: `if model` must not depend on its length.
        return True

    @property
    def n(self) -> int:
        """The number of Gaussians."""
        return len(self)

    @property
    def scales(self) -> Tensor:
        """Standard deviations along the local axes, [N, 3]."""
        return self.log_scales.exp()

    @property
    def opacities(self) -> Tensor:
        """Opacities in (0, 1), [N]."""
        return self.opacity_logits.sigmoid()

    @property
    def sh(self) -> Tensor:
        """All spherical harmonics, [N, (degree + 1)^2, 3]."""
        return torch.cat((self.sh0, self.shN), dim=1)

    @property
    def sh_degree(self) -> int:
        """The highest spherical-harmonic band, 0 to 4."""
        return math.isqrt(self.shN.shape[1] + 1) - 1

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.means.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the parameters."""
        return self.means.dtype

    def bounds(self) -> Tensor:
        """Give the box around the finite centres.

        Returns:
            [2, 3]: the lower corner, then the upper. All zero if there is no finite centre.
        """
        return box_of_points(self.means)

    def finite(self) -> Tensor:
        """Tell which Gaussians have only finite parameters.

        Returns:
            bool [N].
        """
        flags = [torch.isfinite(p.unsqueeze(-1)).flatten(1).all(dim=1) for p in self.parameters()]
        return torch.stack(flags).all(dim=0)

    def extra_repr(self) -> str:
        """Show size, degree, dtype and device."""
        return f"n={self.n}, sh_degree={self.sh_degree}, dtype={self.dtype}, device={self.device}"

    # -- rearranging -------------------------------------------------------------------------------

    def select(self, index: Tensor) -> Gaussians3D:
        """Take some of the Gaussians into a new set.

        Args:
            index: bool [N], or integers [M] in any order.

        Returns:
            A new set with its own memory, without gradients.

        Raises:
            ValueError: If a mask has another length, or the index another dtype.

        Example:
            >>> len(Gaussians3D.random(4, seed=0).select(torch.tensor([3, 0])))
            2
        """
        if index.dim() != 1 or index.is_floating_point() or index.is_complex():
            raise ValueError(
                f"Gaussians3D.select: index: expected bool [{self.n}] or integers [M], "
                f"got {index.dtype} {list(index.shape)}"
            )
        if index.dtype == torch.bool:
            if index.shape[0] != self.n:
                raise ValueError(
                    f"Gaussians3D.select: index: expected bool [{self.n}], got [{index.shape[0]}]"
                )
            index = index.nonzero().squeeze(1)
        index = index.to(device=self.device, dtype=torch.int64)
        return Gaussians3D(*(getattr(self, name).detach()[index] for name in PARAMETER_NAMES))

    def pruned(self, min_opacity: float = 0.005, max_scale: float | None = None) -> Gaussians3D:
        """Drop Gaussians that are not finite, nearly transparent, or too large.

        Args:
            min_opacity: Keep opacities of at least this; default 0.005.
            max_scale: Keep those whose largest standard deviation is at most this; default no
                limit.

        Returns:
            A new set.

        Example:
            >>> len(Gaussians3D.random(100, seed=0).pruned(min_opacity=1.0))
            0
        """
        keep = self.finite() & (self.opacities >= min_opacity)
        if max_scale is not None:
            keep &= self.scales.amax(dim=-1) <= max_scale
        return self.select(keep)

    @staticmethod
    def concatenate(parts: Sequence[Gaussians3D]) -> Gaussians3D:
        """Join several sets; lower degrees are filled up with zeros.

        Args:
            parts: At least one set; all on one device and of one dtype.

        Returns:
            A new set with its own memory, without gradients.

        Raises:
            ValueError: If there is none, or devices or dtypes differ.

        Example:
            >>> a, b = Gaussians3D.random(2, seed=0), Gaussians3D.random(3, sh_degree=0, seed=1)
            >>> Gaussians3D.concatenate([a, b]).sh.shape
            torch.Size([5, 16, 3])
        """
        parts = list(parts)
        if not parts:
            raise ValueError("Gaussians3D.concatenate: parts: expected at least one, got none")
        first = parts[0]
        for i, part in enumerate(parts):
            if (part.dtype, part.device) != (first.dtype, first.device):
                raise ValueError(
                    f"Gaussians3D.concatenate: parts[{i}]: expected {first.dtype} on "
                    f"{first.device}, got {part.dtype} on {part.device}"
                )
        degree = max(part.sh_degree for part in parts)
        parts = [part.with_sh_degree(degree) for part in parts]
        columns = ([getattr(part, name).detach() for part in parts] for name in PARAMETER_NAMES)
        return Gaussians3D(*(torch.cat(column) for column in columns))

    def with_sh_degree(self, degree: int) -> Gaussians3D:
        """Cut off, or fill up with zeros, the spherical harmonics.

        Args:
            degree: 0 to 4.

        Returns:
            A new set; parameters that stay the same share memory with this one's.

        Raises:
            ValueError: If the degree is out of range.

        Example:
            >>> Gaussians3D.random(2, seed=0).with_sh_degree(1).shN.shape
            torch.Size([2, 3, 3])
        """
        _check_degree("Gaussians3D.with_sh_degree", "degree", degree)
        count = (degree + 1) ** 2 - 1
        rest = self.shN.detach()[:, :count]
        missing = rest.new_zeros(self.n, count - rest.shape[1], 3)
        tensors = [getattr(self, name).detach() for name in PARAMETER_NAMES[:-1]]
        return Gaussians3D(*tensors, shN=torch.cat((rest, missing), dim=1))

    # -- making ------------------------------------------------------------------------------------

    @classmethod
    def empty(cls, sh_degree: int = 3, *, device: torch.device | str = "cpu") -> Gaussians3D:
        """Make a set without Gaussians, for instance to load a state dict into.

        Args:
            sh_degree: 0 to 4; default 3.
            device: Where; default CPU.

        Returns:
            A float32 set of length 0.

        Example:
            >>> model = Gaussians3D.empty()
            >>> model.load_state_dict(Gaussians3D.random(7, seed=0).state_dict())
            <All keys matched successfully>
            >>> len(model)
            7
        """
        return cls.random(0, sh_degree=sh_degree, seed=0, device=device)

    @classmethod
    def random(
        cls,
        n: int,
        *,
        sh_degree: int = 3,
        bounds: Any = ((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0)),
        scale: tuple[float, float] = (0.005, 0.05),
        generator: torch.Generator | None = None,
        seed: int | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Gaussians3D:
        """Draw Gaussians uniformly in a box, with uniform rotations, log-uniform scales and any
        colours.

        The numbers are drawn on the CPU (or the generator's device) in float32 and then moved, so
        that a seed gives the same scene everywhere.

        Args:
            n: How many.
            sh_degree: 0 to 4; default 3.
            bounds: [2, 3] box of the centres; default the cube from -1 to 1.
            scale: Smallest and largest standard deviation, relative to the box's longest side.
            generator: Source of the random numbers; or give `seed`.
            seed: Seed of a new generator; default torch's global generator.
            device: Where the parameters go.
            dtype: Their dtype.

        Returns:
            The Gaussians.

        Raises:
            ValueError: If n, the degree, the box or the scales are out of range, or both sources
                are given.

        Example:
            >>> a, b = Gaussians3D.random(9, seed=1), Gaussians3D.random(9, seed=1)
            >>> torch.equal(a.means, b.means)
            True
        """
        where = "Gaussians3D.random"
        if n < 0:
            raise ValueError(f"{where}: n: expected an int >= 0, got {n}")
        _check_degree(where, "sh_degree", sh_degree)
        if generator is not None and seed is not None:
            raise ValueError(f"{where}: expected a generator or a seed, got both")
        if not 0 < scale[0] <= scale[1]:
            raise ValueError(f"{where}: scale: expected 0 < smallest <= largest, got {scale}")
        if seed is not None:
            generator = torch.Generator().manual_seed(seed)
        source = {"generator": generator, "device": generator.device if generator else "cpu"}
        box = torch.as_tensor(bounds, dtype=torch.float32, device=source["device"])
        if box.shape != (2, 3) or not bool((box[0] <= box[1]).all()):
            raise ValueError(f"{where}: bounds: expected lower and upper corner, got {bounds}")
        side = box[1] - box[0]
        low, high = math.log(scale[0]), math.log(scale[1])
        # A box without volume still gets Gaussians of some size.
        log_side = math.log(float(side.max()) or 1.0)
        tensors = (
            box[0] + side * torch.rand(n, 3, **source),
            torch.nn.functional.normalize(torch.randn(n, 4, **source), dim=-1),
            log_side + low + (high - low) * torch.rand(n, 3, **source),
            torch.logit(0.05 + 0.9 * torch.rand(n, **source)),
            rgb_to_sh0(torch.rand(n, 1, 3, **source)),
            0.1 * torch.randn(n, (sh_degree + 1) ** 2 - 1, 3, **source),
        )
        return cls(*(tensor.to(device=device, dtype=dtype) for tensor in tensors))

    @classmethod
    def from_points(
        cls,
        points: Tensor,
        colors: Tensor | None = None,
        sh_degree: int = 3,
        *,
        opacity: float = 0.1,
        scale_factor: float = 1.0,
    ) -> Gaussians3D:
        """Place a round Gaussian on every point, as wide as the mean distance to its 3 neighbours.

        Points at one place count once, so that a duplicate does not shrink to nothing; a place
        without neighbours gets the standard deviation 1.

        Args:
            points: [N, 3], finite.
            colors: uint8 [N, 3], or floating [N, 3] in [0, 1]; default grey.
            sh_degree: 0 to 4; default 3. The higher bands start at zero.
            opacity: Of all Gaussians, in (0, 1); default 0.1.
            scale_factor: Multiplies the scales; default 1.

        Returns:
            The Gaussians, on the device of `points`.

        Raises:
            ValueError: If a shape, dtype or value is out of range.

        Source:
            Kerbl et al. 2023, section 5.1.

        Example:
            >>> corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
            >>> Gaussians3D.from_points(corners).scales[0]
            tensor([1., 1., 1.], grad_fn=<SelectBackward0>)
        """
        where = "Gaussians3D.from_points"
        _check_degree(where, "sh_degree", sh_degree)
        if not (0 < opacity < 1 and scale_factor > 0):
            raise ValueError(
                f"{where}: expected opacity in (0, 1) and scale_factor > 0, "
                f"got {opacity}, {scale_factor}"
            )
        places, which = torch.unique(points.detach(), dim=0, return_inverse=True)
        distances = nearest_neighbour_distances(places, k=3)
        found = torch.isfinite(distances)
        mean = distances.where(found, 0.0).sum(-1) / found.sum(-1).clamp(min=1)
        mean = torch.where(found.any(-1), mean, torch.ones_like(mean))
        log_scales = (mean[which] * scale_factor).log()
        n = points.shape[0]
        identity = points.new_tensor([1.0, 0.0, 0.0, 0.0]).repeat(n, 1)
        logits = points.new_full((n,), math.log(opacity / (1 - opacity)))
        rgb = _unit_colors(where, colors, points)
        rest = points.new_zeros(n, (sh_degree + 1) ** 2 - 1, 3)
        scales = log_scales.unsqueeze(1).repeat(1, 3).to(points.dtype)
        # Training moves the means in place; the caller's points stay where they are.
        means = points.detach().clone()
        return cls(means, identity, scales, logits, rgb_to_sh0(rgb).unsqueeze(1), rest)

    # -- saving ------------------------------------------------------------------------------------

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        keys = {name: prefix + name for name in PARAMETER_NAMES}
        if all(key in state_dict for key in keys.values()):
            _check_version(int(state_dict.get(prefix + "version", FORMAT_VERSION)))
            tensors = {name: state_dict[key] for name, key in keys.items()}
            _check_parameters("Gaussians3D.load_state_dict", tensors)
            for name, tensor in tensors.items():
                parameter = getattr(self, name)
                if parameter.shape != tensor.shape:
                    # Through .data the parameter stays the object that an optimiser may hold.
                    parameter.data = parameter.data.new_empty(tensor.shape)
                    parameter.grad = None
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


def _check_version(version: int) -> None:
    if not 1 <= version <= FORMAT_VERSION:
        raise ValueError(
            f"Gaussians3D.load_state_dict: version: expected 1 to {FORMAT_VERSION}, got {version}"
        )


def _check_degree(function: str, name: str, degree: int) -> None:
    if not 0 <= degree <= MAX_SH_DEGREE:
        raise ValueError(f"{function}: {name}: expected 0 to {MAX_SH_DEGREE}, got {degree}")


def _unit_colors(function: str, colors: Tensor | None, points: Tensor) -> Tensor:
    """Return colours as floats in [0, 1], [N, 3], like `points`."""
    if colors is None:
        return torch.full_like(points, 0.5)
    readable = colors.dtype == torch.uint8 or colors.is_floating_point()
    if colors.shape != points.shape or not readable:
        raise ValueError(
            f"{function}: colors: expected uint8 or floating {list(points.shape)}, "
            f"got {colors.dtype} {list(colors.shape)}"
        )
    rgb = colors.to(points)
    return rgb / 255 if colors.dtype == torch.uint8 else rgb
