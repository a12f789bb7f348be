# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of sparse networks between libraries: the same numbers in another layout.

A sparse convolution has one matrix [C_in, C_out] a tap. Libraries agree on that and on which tap
meets which neighbour, and differ in four things: how axes are ordered in the parameter, which axis
of the kernel runs fastest, what a kernel of one tap looks like, and what the parameter is called.
Every layout is described by a function to ours and one back; ours is

    weight [*kernel_size, C_in, C_out], the last axis of the kernel fastest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .arguments import (
    MOST_DIMENSIONS,
    Ints,
    check_kind,
    check_tensor,
    flag,
    ints,
    one_of,
    shown,
    whole,
)

KernelSize = tuple[int, ...]
_NAME = "convert_state_dict"


@dataclass(frozen=True)
class Layout:
    """How one library keeps a convolution.

    Attributes:
        parameter: The parameter's name in its module.
        flat: Taps stand in one axis, so that the kernel's size is not to be seen in the shape.
        to_native: (parameter, kernel size, strided) to [*kernel_size, C_in, C_out].
        from_native: The way back.
        kernel_size: Reads the size of the kernel in a parameter that is not flat.
        bias_is_row: Biases are [1, C_out].
        wraps_norm: Normalisation layers keep torch's module in an attribute ``bn``.
    """

    parameter: str
    flat: bool
    to_native: Callable[[Tensor, KernelSize, bool], Tensor]
    from_native: Callable[[Tensor, KernelSize, bool], Tensor]
    kernel_size: Callable[[Tensor], KernelSize] = lambda weight: tuple(weight.shape[:-2])
    bias_is_row: bool = False
    wraps_norm: bool = False


def convert_state_dict(
    state_dict: Mapping[str, Tensor],
    source: str,
    target: str,
    *,
    ndim: int = 3,
    kernel_sizes: Mapping[str, KernelSize] | None = None,
    strided: Collection[str] = (),
    keep: Collection[str] = (),
    prefixes: Mapping[str, str] | None = None,
    strict: bool = True,
) -> dict[str, Tensor]:
    """Rewrites the sparse convolutions of a state dict in another library's layout.

    Layouts: "native" (ours), "torchsparse" (2.1), "torchsparse20" (1.4 to 2.0), "spconv" (2.x),
    "spconv1" (1.x, mmcv), "minkowski" (MinkowskiEngine), "fvdb". Weights are converted exactly;
    what a layer does with its padding may still differ between libraries (a strided kernel of 3 is
    centred in torchsparse 2.0 and MinkowskiEngine, and starts at ``-padding`` in the others).

    Sparse convolutions are found by name and shape: in torchsparse and MinkowskiEngine every
    ``kernel``, elsewhere every ``weight`` with ndim + 2 axes. In MinkowskiEngine the layers of
    torch that its normalisation wraps (``norm.bn.weight``) become ``norm.weight``, and back.

    Args:
        state_dict: Parameters and buffers by name; not changed.
        source: Its layout.
        target: The layout wanted.
        ndim: Axes of space, 1 to 4.
        kernel_sizes: Module name to the size of its kernel, for kernels of torchsparse and
            MinkowskiEngine whose taps stand in one axis and that are not cubes.
        strided: Names of the modules with a kernel of one tap and a stride greater than 1, which
            some libraries keep in another shape.
        keep: Names of modules to leave alone, such as dense 3-D convolutions.
        prefixes: Beginnings of names to replace, old to new; the longest that fits is taken.
        strict: Whether entries that look like convolutions of another layout, or of another number
            of axes, are an error; otherwise they stay what they are.

    Returns:
        A new dict in the same order. Tensors that needed no change are the same objects.

    Raises:
        TypeError: The state dict is no mapping of tensors, or an argument of another kind.
        ValueError: A layout's name is unknown, two entries would get one name, a kernel's size
            cannot be told, or (strict) a convolution is in another layout.

    Example:
        >>> import torch
        >>> kernel = torch.randn(27, 4, 32)
        >>> converted = convert_state_dict({"stem.kernel": kernel}, "torchsparse", "spconv")
        >>> {name: tuple(weight.shape) for name, weight in converted.items()}
        {'stem.weight': (32, 3, 3, 3, 4)}
        >>> back = convert_state_dict(converted, "spconv", "torchsparse")
        >>> torch.equal(back["stem.kernel"], kernel)
        True
    """
    old, new = _layout("source", source), _layout("target", target)
    _check_arguments(state_dict, ndim, kernel_sizes, strided, keep, prefixes)
    sizes = dict(kernel_sizes or {})
    modules = {
        name.rpartition(".")[0]
        for name, value in state_dict.items()
        if _is_convolution(name, value, old, ndim)
    } - set(keep)
    if flag(_NAME, "strict", strict):
        _check_all_known(state_dict, modules | set(keep), source, ndim)
    norms = {name.rpartition(".")[0] for name in state_dict if name.endswith("running_mean")}
    converted: dict[str, Tensor] = {}
    for name, value in state_dict.items():
        module, _, leaf = name.rpartition(".")
        if module in modules and leaf == old.parameter:
            size = _kernel_size(module, value, old, ndim, sizes)
            one_tap_strided = module in strided
            native = old.to_native(value, size, one_tap_strided)
            value, leaf = new.from_native(native, size, one_tap_strided), new.parameter
        elif module in modules and leaf == "bias":
            value = value.reshape(1, -1) if new.bias_is_row else value.reshape(-1)
        elif module in norms:
            module = _norm_name(module, old, new)
        name = _replace_prefix(f"{module}.{leaf}" if module else leaf, prefixes or {})
        if name in converted:
            raise ValueError(f"convert_state_dict: two entries of state_dict become {name!r}")
        converted[name] = value
    return converted


def _layout(argument: str, name: str) -> Layout:
    return LAYOUTS[one_of(_NAME, argument, name, tuple(LAYOUTS))]


def _check_arguments(
    state_dict: object,
    ndim: int,
    kernel_sizes: object,
    strided: Any,
    keep: Any,
    prefixes: Mapping[str, str] | None,
) -> None:
    check_kind(_NAME, "state_dict", state_dict, Mapping)
    assert isinstance(state_dict, Mapping)
    for name, value in state_dict.items():
        check_tensor(_NAME, f"state_dict[{name!r}]", value)
    if whole(_NAME, "ndim", ndim) > MOST_DIMENSIONS:
        raise ValueError(f"{_NAME}: ndim: expected 1 to {MOST_DIMENSIONS}, got {ndim}")
    for argument, mapping in (("kernel_sizes", kernel_sizes), ("prefixes", prefixes)):
        if mapping is not None:
            check_kind(_NAME, argument, mapping, Mapping)
    for old, new in (prefixes or {}).items():
        check_kind(_NAME, "prefixes", old, str)
        check_kind(_NAME, "prefixes", new, str)
    for argument, names in (("strided", strided), ("keep", keep)):
        listed = isinstance(names, Collection) and not isinstance(names, str | bytes | Tensor)
        if not listed or not all(isinstance(name, str) for name in names):
            raise TypeError(
                f"{_NAME}: {argument}: expected a list of names of modules, got {shown(names)}"
            )


def _check_all_known(
    state_dict: Mapping[str, Tensor], known: Collection[str], source: str, ndim: int
) -> None:
    """Raises if something of a module that is not known looks like a sparse convolution."""
    for name, value in state_dict.items():
        module, _, leaf = name.rpartition(".")
        # A weight of 2 to 4 axes is a layer of torch: a product, or a dense convolution.
        if module not in known and (leaf == "kernel" or (leaf == "weight" and value.dim() > 4)):
            raise ValueError(
                f"{_NAME}: state_dict[{name!r}]: expected no convolution but those of {source!r} "
                f"with ndim={ndim}, got shape {list(value.shape)}; source or ndim may be another, "
                f"keep=[{module!r}] leaves it alone, strict=False all such"
            )


def _is_convolution(name: str, value: Tensor, layout: Layout, ndim: int) -> bool:
    """Whether an entry is a sparse convolution's weight."""
    if name.rpartition(".")[2] != layout.parameter:
        return False
    return value.dim() in (2, 3) if layout.flat else value.dim() == ndim + 2


def _kernel_size(
    module: str, value: Tensor, layout: Layout, ndim: int, sizes: Mapping[str, Ints]
) -> KernelSize:
    """The size of a kernel: seen, told, or that of the cube with so many taps."""
    if not layout.flat:
        return layout.kernel_size(value)
    taps = value.shape[0] if value.dim() == 3 else 1
    size = ints(_NAME, "kernel_sizes", sizes.get(module, round(taps ** (1 / ndim))), ndim)
    if math.prod(size) != taps:
        raise ValueError(
            f"convert_state_dict: kernel_sizes: {module!r} has {taps} taps; expected its size of "
            f"{ndim} axes, got {sizes.get(module)}"
        )
    return size


def _norm_name(module: str, old: Layout, new: Layout) -> str:
    """A normalisation layer's name, with or without the module that wraps it."""
    if old.wraps_norm and module.endswith(".bn"):
        module = module[: -len(".bn")]
    return f"{module}.bn" if new.wraps_norm else module


def _replace_prefix(name: str, prefixes: Mapping[str, str]) -> str:
    for prefix in sorted(prefixes, key=len, reverse=True):
        if name.startswith(prefix):
            return prefixes[prefix] + name[len(prefix) :]
    return name


# Flat layouts: [K, C_in, C_out], and [C_in, C_out] where there is one tap.


def _from_flat(
    first_axis_fastest: Callable[[int], bool],
) -> Callable[[Tensor, KernelSize, bool], Tensor]:
    def to_native(kernel: Tensor, size: KernelSize, strided: bool) -> Tensor:
        channels = kernel.shape[-2:]
        if not first_axis_fastest(math.prod(size)):
            return kernel.reshape(*size, *channels)
        return _reverse_axes(kernel.reshape(*reversed(size), *channels)).contiguous()

    return to_native


def _to_flat(
    first_axis_fastest: Callable[[int], bool], keeps_strided_axis: bool
) -> Callable[[Tensor, KernelSize, bool], Tensor]:
    def from_native(weight: Tensor, size: KernelSize, strided: bool) -> Tensor:
        taps = math.prod(size)
        if taps == 1 and not (strided and keeps_strided_axis):
            return weight.reshape(weight.shape[-2:])
        if first_axis_fastest(taps):
            weight = _reverse_axes(weight)
        return weight.reshape(taps, *weight.shape[-2:])

    return from_native


def _reverse_axes(weight: Tensor) -> Tensor:
    """[k0, k1, ..., C_in, C_out] with the axes of the kernel in the opposite order."""
    ndim = weight.dim() - 2
    return weight.permute(*reversed(range(ndim)), ndim, ndim + 1)


def _is_odd(taps: int) -> bool:
    return taps % 2 == 1


def _always(taps: int) -> bool:
    return True


# spconv 2: [C_out, *kernel_size, C_in]. It multiplies by a kernel of one tap without a stride as
# if the same memory were [C_in, C_out].


def _from_spconv(weight: Tensor, size: KernelSize, strided: bool) -> Tensor:
    if math.prod(size) == 1 and not strided:
        return weight.reshape(*size, weight.shape[-1], weight.shape[0])
    return weight.movedim(0, -1).contiguous()


def _to_spconv(weight: Tensor, size: KernelSize, strided: bool) -> Tensor:
    if math.prod(size) == 1 and not strided:
        return weight.reshape(weight.shape[-1], *size, weight.shape[-2])
    return weight.movedim(-1, 0).contiguous()


# fvdb: [C_out, C_in, *kernel_size], torch's own.


def _from_fvdb(weight: Tensor, size: KernelSize, strided: bool) -> Tensor:
    return weight.movedim((1, 0), (-2, -1)).contiguous()


def _to_fvdb(weight: Tensor, size: KernelSize, strided: bool) -> Tensor:
    return weight.movedim((-2, -1), (1, 0)).contiguous()


def _as_it_is(weight: Tensor, size: KernelSize, strided: bool) -> Tensor:
    return weight


LAYOUTS = {
    "native": Layout("weight", False, _as_it_is, _as_it_is),
    "torchsparse": Layout("kernel", True, _from_flat(_is_odd), _to_flat(_is_odd, True)),
    "torchsparse20": Layout("kernel", True, _from_flat(_is_odd), _to_flat(_is_odd, False)),
    "spconv": Layout(
        "weight", False, _from_spconv, _to_spconv, lambda weight: tuple(weight.shape[1:-1])
    ),
    "spconv1": Layout("weight", False, _as_it_is, _as_it_is),
    "minkowski": Layout(
        "kernel",
        True,
        _from_flat(_always),
        _to_flat(_always, True),
        bias_is_row=True,
        wraps_norm=True,
    ),
    "fvdb": Layout("weight", False, _from_fvdb, _to_fvdb, lambda weight: tuple(weight.shape[2:])),
}
