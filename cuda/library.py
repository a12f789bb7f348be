# SPDX-License-Identifier: Apache-2.0
"""Loads the compiled libraries and declares each operator's fake kernel and gradient.

Three libraries lie beside this file. ``_C`` holds every schema and the CPU kernels. ``_C_cuda``
adds CUDA kernels to the same operators and is loaded when torch has CUDA. ``_C_emulated`` holds
the CUDA kernels compiled for the CPU, as operators of the namespace ``fieldline_emulated``; only
tests load it. FIELDLINE_LIBRARY_DIR names another folder to load them from, for builds with
sanitizers.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

FOLDER = Path(os.environ.get("FIELDLINE_LIBRARY_DIR") or Path(__file__).parent).resolve()
NAMESPACE = "fieldline"
EMULATED = "fieldline_emulated"


@dataclass
class _State:
    """What has been loaded, and which namespace ``ops()`` answers with."""

    loaded: dict[str, Path] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    active: str = NAMESPACE
    declared: list[Callable[[str], None]] = field(default_factory=list)
    differentiable: dict[tuple[str, str], Any] = field(default_factory=dict)


_state = _State()


def _load(name: str) -> None:
    path = FOLDER / f"{name}.so"
    if not path.exists():
        _state.problems[name] = f"{path.name} was not built"
        return
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        _state.problems[name] = str(error)
        return
    _state.loaded[name] = path


def load() -> None:
    """Loads the libraries that this torch can use; called once, by the import of an ops module.

    Raises:
        ImportError: The CPU library is missing or does not load.
    """
    if "_C" in _state.loaded:
        return
    _load("_C")
    if "_C" not in _state.loaded:
        raise ImportError(
            f"fieldline's core did not load ({_state.problems['_C']}); build it with: "
            "pip install --no-build-isolation -e ."
        )
    if torch.version.cuda is None:
        _state.problems["_C_cuda"] = "this torch has no CUDA"
    else:
        _load("_C_cuda")


def load_emulated() -> None:
    """Loads the emulated CUDA kernels, for tests.

    Raises:
        ImportError: The library was not built (FIELDLINE_EMULATED=OFF).
    """
    load()
    if "_C_emulated" in _state.loaded:
        return
    _load("_C_emulated")
    if "_C_emulated" not in _state.loaded:
        raise ImportError(f"the emulated kernels: {_state.problems['_C_emulated']}")
    for declare in _state.declared:
        declare(EMULATED)


def loaded() -> dict[str, Path]:
    """Each loaded library and its file."""
    return dict(_state.loaded)


def problems() -> dict[str, str]:
    """Each library that did not load and why."""
    return dict(_state.problems)


def ops() -> Any:
    """The operators: ``torch.ops.fieldline``, or their emulated twins inside ``emulated()``."""
    return getattr(torch.ops, _state.active)


@contextlib.contextmanager
def emulated() -> Iterator[None]:
    """Runs the CUDA kernels on the CPU inside the block, for tests.

    Example:
        >>> with emulated():  # doctest: +SKIP
        ...     project(means, quats, scales, viewmats, Ks, width=64, height=64)
    """
    load_emulated()
    before, _state.active = _state.active, EMULATED
    try:
        yield
    finally:
        _state.active = before


def declare(
    name: str,
    fake: Callable[..., Any],
    setup_context: Callable[..., None] | None = None,
    backward: Callable[..., Any] | None = None,
    twice: bool = False,
) -> None:
    """Registers an operator's fake kernel and, if given, its gradient, in both namespaces.

    Args:
        name: The operator's name without namespace.
        fake: Returns outputs of the right shape, dtype and device without computing them.
        setup_context: As for ``torch.library.register_autograd``.
        backward: ``backward(ctx, *grads)``. It reaches operators through ``ctx_ops(ctx)``.
        twice: Whether all that it calls has gradients itself.
    """

    def register(namespace: str) -> None:
        qualified = f"{namespace}::{name}"
        torch.library.register_fake(qualified, fake)
        if backward is None:
            return

        def setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            ctx.namespace = namespace
            if setup_context is not None:
                setup_context(ctx, inputs, output)

        torch.library.register_autograd(qualified, backward, setup_context=setup)
        # A second derivative would come out as zero; asked for, it is an error instead.
        _state.differentiable[namespace, name] = _plain_function(
            namespace, name, setup, backward if twice else once_differentiable(backward)
        )

    load()
    _state.declared.append(register)
    register(NAMESPACE)
    if EMULATED in _state.active or "_C_emulated" in _state.loaded:
        register(EMULATED)


def _plain_function(namespace: str, name: str, setup: Any, gradient: Any) -> Any:
    """The operator and its gradient as an ``autograd.Function``."""
    operator = getattr(getattr(torch.ops, namespace), name).default

    class Plain(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:  # pyright: ignore
            with torch._C._AutoDispatchBelowAutograd():
                output = operator(*inputs)
            setup(ctx, inputs, output)
            return output

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            return gradient(ctx, *grads)

    return Plain


def call(name: str, *args: Any) -> Any:
    """Calls an operator that has a gradient.

    Outside ``torch.compile`` and function transforms it does without what ``torch.library`` wraps
    around every call for their sake, which for a small scene costs more than the work itself. Of
    the transforms of ``torch.func``, operators know none but ``vmap`` over their forward pass.

    Args:
        name: The operator's name without namespace.
        *args: All its arguments, in the order of the schema.

    Returns:
        What the operator returns.
    """
    return call_in(_state.active, name, *args)


def call_in(namespace: str, name: str, *args: Any) -> Any:
    """Calls an operator of a namespace; `call` says how, and takes that of ``ops()``."""
    operator = getattr(getattr(torch.ops, namespace), name)
    if is_traced():
        return operator(*args)
    if torch.is_grad_enabled() and any(
        isinstance(value, Tensor) and value.requires_grad for value in args
    ):
        return _state.differentiable[namespace, name].apply(*args)
    with torch._C._AutoDispatchBelowAutograd():
        return operator.default(*args)


def is_traced() -> bool:
    """Whether ``torch.compile`` or a function transform watches: it has to see operators whole."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


def active_namespace() -> str:
    """The namespace that ``ops()`` answers with."""
    return _state.active


def ctx_ops(ctx: Any) -> Any:
    """The namespace that the forward ran in, for its backward."""
    return getattr(torch.ops, ctx.namespace)
