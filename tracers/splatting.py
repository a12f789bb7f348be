# SPDX-License-Identifier: Apache-2.0
"""The splatting renderer: projection, colours, binning and blending, composed.

``rasterization`` has gsplat's signature, defaults, shapes and ``meta``, so that code written for
gsplat runs here, on a CPU too. ``render`` is the short form for our own scenes and cameras.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..cuda.splat import ops
from ..representations import Camera, Gaussians3D
from .splat_gradients import SeenRows, probe_absgrad

RENDER_MODES = ("RGB", "D", "ED", "RGB+D", "RGB+ED")
RASTERIZE_MODES = ("classic", "antialiased")

# What gsplat's signature names and this renderer does not do, and the value that leaves it off.
_UNSUPPORTED = {
    "distributed": False,
    "with_ut": False,
    "with_eval3d": False,
    "radial_coeffs": None,
    "tangential_coeffs": None,
    "thin_prism_coeffs": None,
    "ftheta_coeffs": None,
    "viewmats_rs": None,
}


class Meta(dict[str, Any]):
    """What a rendering went through, under gsplat's names.

    ``isect_ids`` is computed on first use: no part of the renderer needs it.
    """

    def __missing__(self, key: str) -> Any:
        if key != "isect_ids":
            raise KeyError(key)
        self[key] = intersection_ids(
            self["flatten_ids"], self["isect_offsets"], self["depths"].reshape(-1)
        )
        return self[key]

    def get(self, key: str, default: Any = None) -> Any:
        """As ``dict.get``, computing ``isect_ids`` when asked for."""
        return self[key] if key == "isect_ids" or key in self else default


@torch.no_grad()
def intersection_ids(flatten_ids: Tensor, offsets: Tensor, depths: Tensor) -> Tensor:
    """gsplat's 64-bit keys image | tile | depth of sorted (splat, tile) pairs.

    Args:
        flatten_ids: int32 [P], splat of each pair.
        offsets: int32 [I, tile_height, tile_width], where each tile's run begins.
        depths: [M], depth of each splat.

    Returns:
        int64 [P], ascending.

    Example:
        >>> ids = torch.zeros(1, dtype=torch.int32)
        >>> intersection_ids(ids, torch.zeros(1, 1, 1, dtype=torch.int32), torch.zeros(1)).tolist()
        [0]
    """
    starts = offsets.reshape(-1).long()
    runs = torch.diff(starts, append=starts.new_tensor([flatten_ids.numel()]))
    tile = torch.repeat_interleave(torch.arange(starts.numel(), device=starts.device), runs)
    tiles_per_image = max(1, offsets.shape[-1] * offsets.shape[-2])
    image = tile // tiles_per_image
    tile_bits = tiles_per_image.bit_length()
    depth_bits = depths.float()[flatten_ids.long()].contiguous().view(torch.int32).long()
    key = (image << tile_bits) | (tile - image * tiles_per_image)
    return (key << 32) | (depth_bits & 0xFFFFFFFF)


@dataclass(frozen=True)
class _Layout:
    """The batch of a call: leading dimensions, and how many scenes, cameras and Gaussians."""

    batch: tuple[int, ...]
    B: int
    C: int
    N: int

    @property
    def images(self) -> int:
        return self.B * self.C


class _Splats(NamedTuple):
    """The projected splats in the layout that binning and blending take: M rows."""

    radii: Tensor
    means2d: Tensor
    depths: Tensor
    conics: Tensor
    opacities: Tensor
    channels: Tensor | None
    image_ids: Tensor | None


def _expect(name: str, tensor: Tensor, shape: tuple[int | str, ...]) -> None:
    good = tensor.dim() == len(shape) and all(
        isinstance(want, str) or got == want for got, want in zip(tensor.shape, shape)
    )
    if not good:
        wanted = ", ".join(str(s) for s in shape)
        raise ValueError(
            f"rasterization: {name}: expected shape [{wanted}], got {list(tensor.shape)}"
        )


def _check_inputs(
    means: Tensor,
    quats: Tensor | None,
    scales: Tensor | None,
    covars: Tensor | None,
    opacities: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
) -> _Layout:
    if means.dim() < 2:
        raise ValueError(
            f"rasterization: means: expected shape [..., N, 3], got {list(means.shape)}"
        )
    if means.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"rasterization: means: expected float32 or float64, got {means.dtype}")
    batch, N = tuple(means.shape[:-2]), means.shape[-2]
    if viewmats.dim() != len(batch) + 3:
        raise ValueError(
            f"rasterization: viewmats: expected shape {[*batch, 'C', 4, 4]}, "
            f"got {list(viewmats.shape)}"
        )
    C = viewmats.shape[-3]
    _expect("means", means, (*batch, N, 3))
    _expect("viewmats", viewmats, (*batch, C, 4, 4))
    _expect("Ks", Ks, (*batch, C, 3, 3))
    _expect("opacities", opacities, (*batch, N))
    if covars is not None:
        _expect("covars", covars, (*batch, N, 3, 3))
    else:
        if quats is None or scales is None:
            raise ValueError("rasterization: expected quats and scales, or covars")
        _expect("quats", quats, (*batch, N, 4))
        _expect("scales", scales, (*batch, N, 3))
    named = {"quats": quats, "scales": scales, "covars": covars, "opacities": opacities}
    for name, tensor in (*named.items(), ("viewmats", viewmats), ("Ks", Ks)):
        if tensor is not None and (tensor.dtype, tensor.device) != (means.dtype, means.device):
            raise TypeError(
                f"rasterization: {name}: expected {means.dtype} on {means.device}, as means, "
                f"got {tensor.dtype} on {tensor.device}"
            )
    return _Layout(batch, math.prod(batch), C, N)


def _check_options(
    width: int,
    height: int,
    tile_size: int,
    channel_chunk: int,
    render_mode: str,
    rasterize_mode: str,
) -> None:
    if render_mode not in RENDER_MODES:
        raise ValueError(
            f"rasterization: render_mode: expected one of {RENDER_MODES}, got {render_mode!r}"
        )
    if rasterize_mode not in RASTERIZE_MODES:
        raise ValueError(
            f"rasterization: rasterize_mode: expected one of {RASTERIZE_MODES}, "
            f"got {rasterize_mode!r}"
        )
    if width < 1 or height < 1:
        raise ValueError(
            f"rasterization: width, height: expected at least 1, got {width} x {height}"
        )
    if channel_chunk < 1:
        raise ValueError(f"rasterization: channel_chunk: expected at least 1, got {channel_chunk}")
    if not 1 <= tile_size <= 64:
        raise ValueError(f"rasterization: tile_size: expected 1 to 64, got {tile_size}")


def _check_colors(
    colors: Tensor | None, sh_degree: int | None, layout: _Layout, render_mode: str
) -> None:
    if render_mode in ("D", "ED"):
        return
    if colors is None:
        raise ValueError(f"rasterization: colors: expected a tensor for {render_mode!r}, got None")
    shared = len(layout.batch) + 2 if sh_degree is None else len(layout.batch) + 3
    tail: tuple[int | str, ...] = ("D",) if sh_degree is None else ("K", 3)
    if colors.dim() == shared:
        _expect("colors", colors, (*layout.batch, layout.N, *tail))
    else:
        _expect("colors", colors, (*layout.batch, layout.C, layout.N, *tail))
    if colors.shape[-1] == 0:
        raise ValueError(f"rasterization: colors: expected channels, got {list(colors.shape)}")
    if sh_degree is not None and not 0 <= sh_degree <= 4:
        raise ValueError(f"rasterization: sh_degree: expected 0 to 4, got {sh_degree}")
    if sh_degree is not None and colors.shape[-2] < (sh_degree + 1) ** 2:
        raise ValueError(
            f"rasterization: colors: expected at least {(sh_degree + 1) ** 2} SH bases for degree "
            f"{sh_degree}, got {colors.shape[-2]}"
        )


def _view_colors(
    colors: Tensor,
    sh_degree: int | None,
    layout: _Layout,
    means: Tensor,
    viewmats: Tensor,
    radii: Tensor,
) -> Tensor:
    """Colours [B, C, N, D] after spherical harmonics."""
    B, C, N = layout.B, layout.C, layout.N
    tail = colors.shape[-1:] if sh_degree is None else colors.shape[-2:]
    per_camera = colors.dim() == len(layout.batch) + 2 + len(tail)
    if sh_degree is None:
        if per_camera:
            return colors.reshape(B, C, N, *tail)
        return colors.reshape(B, 1, N, *tail).expand(B, C, N, *tail)
    if not per_camera:
        return ops.shade(sh_degree, means, viewmats, colors.reshape(B, N, *tail), radii)
    # Each camera has coefficients of its own: as many scenes of one camera each.
    each = ops.shade(
        sh_degree,
        means[:, None].expand(B, C, N, 3).reshape(B * C, N, 3),
        viewmats.reshape(B * C, 1, 4, 4),
        colors.reshape(B * C, N, *tail),
        radii.reshape(B * C, 1, N, 2),
    )
    return each.reshape(B, C, N, 3)


def _pack(splats: _Splats, layout: _Layout) -> tuple[_Splats, dict[str, Tensor]]:
    """Keeps the visible rows alone."""
    keep = (splats.radii > 0).all(-1).nonzero().squeeze(1)
    image = keep // max(1, layout.N)
    ids = {
        "batch_ids": image // max(1, layout.C),
        "camera_ids": image % max(1, layout.C),
        "gaussian_ids": keep % max(1, layout.N),
    }
    rows = [t.index_select(0, keep) if t is not None else None for t in splats[:6]]
    return _Splats(*rows, image.int()), ids  # pyright: ignore


def _with_depth(
    colors: Tensor | None, depths: Tensor, backgrounds: Tensor | None, render_mode: str
) -> tuple[Tensor, Tensor | None]:
    """The channels [B, C, N, D] to blend, and their backgrounds; depth has background 0."""
    depth = depths[..., None]
    if colors is None:
        return depth, None
    if render_mode == "RGB":
        return colors, backgrounds
    if backgrounds is not None:
        backgrounds = torch.cat([backgrounds, torch.zeros_like(backgrounds[:, :1])], dim=1)
    return torch.cat([colors, depth], dim=-1), backgrounds


def _check_unsupported(options: dict[str, Any]) -> None:
    for name, value in options.items():
        if value is not None and value is not _UNSUPPORTED[name]:
            raise ValueError(f"rasterization: {name}: not supported; expected {_UNSUPPORTED[name]}")


def rasterization(
    means: Tensor,
    quats: Tensor | None,
    scales: Tensor | None,
    opacities: Tensor,
    colors: Tensor | None,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    radius_clip: float = 0.0,
    eps2d: float = 0.3,
    sh_degree: int | None = None,
    packed: bool = True,
    tile_size: int | None = 16,
    backgrounds: Tensor | None = None,
    render_mode: str = "RGB",
    sparse_grad: bool = False,
    absgrad: bool = False,
    rasterize_mode: str = "classic",
    channel_chunk: int = 32,
    distributed: bool = False,
    camera_model: str = "pinhole",
    segmented: bool = False,
    covars: Tensor | None = None,
    with_ut: bool = False,
    with_eval3d: bool = False,
    radial_coeffs: Tensor | None = None,
    tangential_coeffs: Tensor | None = None,
    thin_prism_coeffs: Tensor | None = None,
    ftheta_coeffs: Any = None,
    rolling_shutter: Any = None,
    viewmats_rs: Tensor | None = None,
    *,
    alpha_cap: float = 0.999,
    masks: Tensor | None = None,
) -> tuple[Tensor, Tensor, Meta]:
    """Renders Gaussians into images; gsplat's function, on CPU and GPU.

    Args:
        means: Centres [..., N, 3].
        quats: Rotations [..., N, 4], wxyz, of any length.
        scales: Standard deviations [..., N, 3].
        opacities: [..., N], in [0, 1].
        colors: [..., (C,) N, D], or SH coefficients [..., (C,) N, K, 3] with ``sh_degree``; may
            be None when only depth is rendered.
        viewmats: Rigid world-to-camera matrices [..., C, 4, 4], OpenCV axes.
        Ks: Intrinsics [..., C, 3, 3] in pixels.
        width: Pixels.
        height: Pixels.
        near_plane: Smallest visible depth.
        far_plane: Largest visible depth.
        radius_clip: Splats of at most this radius are left out, pixels.
        eps2d: Variance added to projected covariances, pixels squared.
        sh_degree: SH degree to evaluate, 0 to 4; None: ``colors`` are colours.
        packed: Keep only visible splats in what follows the projection, and in ``meta``.
        tile_size: Pixels along a tile's edge; None: 16.
        backgrounds: [..., C, D]; default black. Depth has background 0.
        render_mode: "RGB", "D" (accumulated depth), "ED" (expected depth), "RGB+D" or "RGB+ED".
        sparse_grad: Gradients of means, quats, scales and covars are in COO layout, over the
            Gaussians that some camera sees; needs ``packed`` and no leading dimensions.
        absgrad: Also leave AbsGS gradients in ``meta["means2d"].absgrad``.
        rasterize_mode: "classic", or "antialiased" (opacity compensated for ``eps2d``).
        channel_chunk: Most channels blended at once.
        distributed: Must be False.
        camera_model: "pinhole", "ortho" or "fisheye".
        segmented: Accepted; sorting here is always by tile.
        covars: Covariances [..., N, 3, 3] in place of quats and scales.
        with_ut: Must be False, as the lens and rolling-shutter arguments that follow it.
        with_eval3d: Must be False.
        radial_coeffs: Must be None.
        tangential_coeffs: Must be None.
        thin_prism_coeffs: Must be None.
        ftheta_coeffs: Must be None.
        rolling_shutter: Ignored, as in gsplat without ``with_ut``.
        viewmats_rs: Must be None.
        alpha_cap: Largest alpha of a splat in a pixel: 0.999 in gsplat 1.5, 0.99 in 1.6 and
            INRIA's rasteriser.
        masks: bool [..., C, tile_height, tile_width]; False tiles show the background only.

    Returns:
        Images [..., C, H, W, X], alphas [..., C, H, W, 1] and ``meta`` with gsplat's entries.

    Raises:
        ValueError: A shape, a mode or an option is not one of the above.
        TypeError: Dtypes or devices differ.

    Source: Kerbl et al., "3D Gaussian Splatting" (2023), as defined by gsplat 1.5.3.

    Example:
        >>> K = torch.tensor([[[50.0, 0, 32], [0, 50, 32], [0, 0, 1]]])
        >>> image, alpha, meta = rasterization(
        ...     torch.tensor([[0.0, 0, 2]]), torch.tensor([[1.0, 0, 0, 0]]),
        ...     torch.full((1, 3), 0.2), torch.ones(1), torch.ones(1, 3),
        ...     torch.eye(4)[None], K, 64, 64)
        >>> image.shape
        torch.Size([1, 64, 64, 3])
    """
    _check_unsupported(
        {
            "distributed": distributed,
            "with_ut": with_ut,
            "with_eval3d": with_eval3d,
            "radial_coeffs": radial_coeffs,
            "tangential_coeffs": tangential_coeffs,
            "thin_prism_coeffs": thin_prism_coeffs,
            "ftheta_coeffs": ftheta_coeffs,
            "viewmats_rs": viewmats_rs,
        }
    )
    tile_size = 16 if tile_size is None else tile_size
    _check_options(width, height, tile_size, channel_chunk, render_mode, rasterize_mode)
    layout = _check_inputs(means, quats, scales, covars, opacities, viewmats, Ks)
    _check_colors(colors, sh_degree, layout, render_mode)
    seen = SeenRows()
    if sparse_grad:
        if not packed or layout.batch:
            raise ValueError(
                "rasterization: sparse_grad: expected packed=True and no leading dimensions, got "
                f"packed={packed} and {list(layout.batch)}"
            )
        means = seen.sparse(means)
        quats, scales, covars = (
            t if t is None else seen.sparse(t) for t in (quats, scales, covars)
        )
    B, C, N = layout.B, layout.C, layout.N
    # One scene goes through as it is: views of its tensors would cost as much as small kernels.
    scenes: tuple[int, ...] = (B,) if layout.batch else ()

    def by_scene(tensor: Tensor, *tail: int) -> Tensor:
        return tensor.reshape(*scenes, *tail) if layout.batch else tensor

    flat_means, flat_views = by_scene(means, N, 3), by_scene(viewmats, C, 4, 4)
    flat_opacities = by_scene(opacities, N)
    compensate = rasterize_mode == "antialiased"
    p = ops.project(
        flat_means,
        flat_views,
        by_scene(Ks, C, 3, 3),
        width,
        height,
        covars=None if covars is None else _upper_triangle(by_scene(covars, N, 3, 3)),
        quats=None if covars is not None else by_scene(quats, N, 4),  # pyright: ignore
        scales=None if covars is not None else by_scene(scales, N, 3),  # pyright: ignore
        opacities=flat_opacities,
        eps2d=eps2d,
        near_plane=near_plane,
        far_plane=far_plane,
        radius_clip=radius_clip,
        camera_model=camera_model,
        compensate=compensate,
    )
    shown_opacities = flat_opacities
    if compensate:
        shown_opacities = flat_opacities[..., None, :] * p.compensations
    # In meta and in the graph means2d is one tensor: strategies read its gradient.
    shape = (*layout.batch, C, N)
    means2d = p.means2d.reshape(*shape, 2) if layout.batch else p.means2d
    ids: dict[str, Tensor | None] = dict.fromkeys(("batch_ids", "camera_ids", "gaussian_ids"))
    tile_width, tile_height = -(-width // tile_size), -(-height // tile_size)
    n_colors = 0
    if render_mode not in ("D", "ED"):
        assert colors is not None
        n_colors = colors.shape[-1]
    if n_colors == 0:
        backgrounds = None
    elif backgrounds is not None:
        _expect("backgrounds", backgrounds, (*layout.batch, C, n_colors))
        backgrounds = backgrounds.reshape(layout.images, n_colors)
    if masks is not None:
        _expect("masks", masks, (*layout.batch, C, tile_height, tile_width))
        masks = masks.reshape(layout.images, tile_height, tile_width)
    blending = {"masks": masks, "alpha_cap": alpha_cap}
    # Harmonics that all cameras share are evaluated while binning; what else there is, here.
    shared_harmonics = (
        render_mode == "RGB"
        and sh_degree is not None
        and colors is not None
        and colors.dim() == len(layout.batch) + 3
    )
    channels = None  # [B, C, N, D]
    if packed or not shared_harmonics:
        if n_colors:
            assert colors is not None
            channels = _view_colors(
                colors,
                sh_degree,
                layout,
                means.reshape(B, N, 3),
                viewmats.reshape(B, C, 4, 4),
                p.radii.reshape(B, C, N, 2),
            )
        channels, backgrounds = _with_depth(
            channels, p.depths.reshape(B, C, N), backgrounds, render_mode
        )
    most_channels = min(channel_chunk, ops.MAX_CHANNELS)
    separate = packed or (channels is not None and channels.shape[-1] > most_channels)
    splats = _Splats(
        p.radii,
        means2d,
        p.depths,
        p.conics,
        shown_opacities,
        None,
        None,
    )
    if separate:
        splats = _Splats(
            p.radii.reshape(-1, 2),
            means2d.reshape(-1, 2),
            p.depths.reshape(-1),
            p.conics.reshape(-1, 3),
            _every_camera(shown_opacities, compensate, C).reshape(-1),
            None if channels is None else channels.reshape(layout.images * N, channels.shape[-1]),
            None,
        )
    if packed:
        splats, found = _pack(splats, layout)
        ids.update(found)
        seen.rows = found["gaussian_ids"].unique() if sparse_grad else None
        means2d = splats.means2d
    if separate:
        bins = ops.bin_splats(
            splats.means2d,
            splats.radii,
            splats.depths,
            layout.images,
            tile_size,
            tile_width,
            tile_height,
            conics=splats.conics,
            opacities=splats.opacities,
            image_ids=splats.image_ids,
        )
        assert splats.channels is not None
        image, alpha = ops.blend(
            splats.means2d,
            splats.conics,
            splats.channels,
            splats.opacities,
            width,
            height,
            tile_size,
            bins,
            backgrounds=backgrounds,
            means2d_abs=probe_absgrad(means2d, splats.means2d.shape) if absgrad else None,
            channel_chunk=most_channels,
            **blending,
        )
    else:
        harmonics: dict[str, Any] = {}
        if channels is None:
            assert colors is not None
            shown = by_scene(colors, N, *colors.shape[-2:])
            harmonics = {"degree": sh_degree, "means": flat_means, "viewmats": flat_views}
        else:
            shown = channels if layout.batch else channels[0]
        projected = by_scene(means2d, C, N, 2)
        image, alpha, bins = ops.draw(
            p._replace(means2d=projected),
            shown_opacities,
            shown,
            width,
            height,
            tile_size,
            backgrounds=backgrounds,
            means2d_abs=probe_absgrad(means2d, projected.shape) if absgrad else None,
            **harmonics,
            **blending,
        )
    if layout.batch:
        image = image.reshape(*layout.batch, C, height, width, -1)
        alpha = alpha.reshape(*layout.batch, C, height, width, 1)
    if render_mode in ("ED", "RGB+ED"):
        depth = image[..., -1:] / alpha.clamp(min=1e-10)
        image = torch.cat([image[..., :-1], depth], dim=-1)
    lead = () if packed else shape
    opacities = splats.opacities
    if not packed:
        opacities = _every_camera(shown_opacities, compensate, C).reshape(shape)
    meta = Meta(
        **ids,
        radii=splats.radii.reshape(*lead, 2) if lead else splats.radii,
        means2d=means2d,
        depths=splats.depths.reshape(lead) if lead else splats.depths,
        conics=splats.conics.reshape(*lead, 3) if lead else splats.conics,
        opacities=opacities,
        tile_width=tile_width,
        tile_height=tile_height,
        tiles_per_gauss=bins.tiles_per_splat.reshape(lead) if lead else bins.tiles_per_splat,
        flatten_ids=bins.flatten_ids,
        isect_offsets=bins.offsets.reshape(*layout.batch, C, tile_height, tile_width),
        width=width,
        height=height,
        tile_size=tile_size,
        n_batches=B,
        n_cameras=C,
    )
    return image, alpha, meta


def _every_camera(opacities: Tensor, per_camera: bool, C: int) -> Tensor:
    """[..., N] that all cameras share, or [..., C, N] already, as [..., C, N]."""
    if per_camera:
        return opacities
    return opacities[..., None, :].expand(*opacities.shape[:-1], C, opacities.shape[-1])


def _upper_triangle(matrices: Tensor) -> Tensor:
    """[..., 3, 3] to xx, xy, xz, yy, yz, zz."""
    rows, columns = (0, 0, 0, 1, 1, 2), (0, 1, 2, 1, 2, 2)
    return matrices[..., rows, columns]


class RenderOutput(NamedTuple):
    """What ``render`` returns."""

    rgb: Tensor  # [..., H, W, 3]
    alpha: Tensor  # [..., H, W]
    depth: Tensor | None  # [..., H, W], expected depth
    meta: Meta


def render(
    gaussians: Gaussians3D,
    camera: Camera,
    *,
    background: Tensor | None = None,
    sh_degree: int | None = None,
    depth: bool = False,
    antialiased: bool = False,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    absgrad: bool = False,
    packed: bool = False,
) -> RenderOutput:
    """Renders Gaussians with a camera.

    Args:
        gaussians: The scene.
        camera: One camera or a batch [..., ] of them.
        background: [3] or [..., 3]; default black.
        sh_degree: Degree to evaluate; default all that the scene has.
        depth: Also return expected depth.
        antialiased: Compensate opacities for the pixel filter (Mip-Splatting).
        near_plane: Smallest visible depth.
        far_plane: Largest visible depth.
        absgrad: As for ``rasterization``.
        packed: As for ``rasterization``.

    Returns:
        Colour [..., H, W, 3], alpha [..., H, W], depth if asked for, and ``rasterization``'s meta.

    Example:
        >>> scene = Gaussians3D.random(100, seed=0)
        >>> camera = Camera.look_at(
        ...     (0, 0, -3), (0, 0, 0), (0, -1, 0), fov_y=0.8, width=32, height=24)
        >>> render(scene, camera).rgb.shape
        torch.Size([24, 32, 3])
    """
    lead = camera.world_to_camera.shape[:-2]
    count = math.prod(lead)
    means = gaussians.means
    if background is not None:
        background = background.to(means).expand(*lead, 3).reshape(count, 3)
    image, alpha, meta = rasterization(
        means,
        gaussians.quats,
        gaussians.scales,
        gaussians.opacities,
        gaussians.sh,
        camera.world_to_camera.to(means).reshape(count, 4, 4),
        camera.K.to(means).reshape(count, 3, 3),
        camera.width,
        camera.height,
        near_plane=near_plane,
        far_plane=far_plane,
        sh_degree=gaussians.sh_degree if sh_degree is None else sh_degree,
        packed=packed,
        backgrounds=background,
        render_mode="RGB+ED" if depth else "RGB",
        absgrad=absgrad,
        rasterize_mode="antialiased" if antialiased else "classic",
        camera_model=camera.model,
    )
    size = (camera.height, camera.width)
    return RenderOutput(
        image[..., :3].reshape(*lead, *size, 3),
        alpha.reshape(*lead, *size),
        image[..., 3].reshape(*lead, *size) if depth else None,
        meta,
    )
