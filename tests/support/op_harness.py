# SPDX-License-Identifier: Apache-2.0
"""One table for every operator: what it takes, what it should give, and how that is checked.

A test module states its operators as cases and lets the harness make the tests:

    from op_harness import Case, Error, parametrize

    def square_reference(x: Tensor) -> Tensor:          # slow, plain torch, read at a glance
        return x * x

    def some(generator: torch.Generator) -> dict:       # float64 on the CPU; the harness casts
        return {"x": torch.randn(5, generator=generator, dtype=torch.float64)}

    def none(generator: torch.Generator) -> dict:
        return {"x": torch.zeros(0, dtype=torch.float64)}

    CASES = [
        Case(
            name="square",
            op=ops.square,                              # the typed face of ops.py
            reference=square_reference,                 # same arguments, by name
            variants={"some": some, "none": none},      # the first is traced, compiled, strided
            differentiable=("x",),
            gradcheck=("some",),                        # variants small enough for it
            errors=(Error("dtype", {"x": torch.ones(3).int()}, TypeError, "x: expected float32"),),
        ),
    ]

    @parametrize(CASES)
    def test_square(check: Callable[[], None]) -> None:
        check()

From each case come these checks, named ``case-check-backend-...``:

- values: outputs and gradients against the reference in float64, for every variant, dtype and
  backend: cpu, emulated (the CUDA kernels on the CPU) and cuda where there is one;
- gradcheck: finite differences in float64;
- opcheck: ``torch.library.opcheck`` of every operator that the call and its gradient reach;
- compile: ``torch.compile(fullgraph=True)`` gives the same outputs and gradients;
- strided: tensors that are not contiguous give the same bits;
- threads: 1, 2 and 3 threads and a second run give the same bits;
- order: the emulator running its threads backwards or shuffled gives the same bits: no barrier is
  missing, and no sum depends on who comes first;
- errors: each bad argument raises the exception and text of its row.

Empty inputs are a variant like any other. Arguments that are floating tensors are cast to the
dtype under test; integers, masks and plain values pass through. An operator that writes to its
arguments is wrapped: ``op=lambda p, g: step_(q := p.clone(), g) or q``.

The emulated library may be absent (the checks are then skipped, except in CI), but where it is
present it must have every operator, unless the case gives a reason in ``no_emulated``.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import pytest
import torch
from fieldline.cuda import library
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

Inputs = dict[str, Any]
Factory = Callable[[torch.Generator], Inputs]

HAS_CUDA = torch.cuda.is_available()
IN_CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")
_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


@dataclass(frozen=True)
class Error:
    """One bad call: the arguments that replace those of the first variant, and what is raised."""

    name: str
    arguments: Inputs
    exception: type[Exception]
    match: str


@dataclass(frozen=True, eq=False)
class Case:
    """One operator and how it is checked.

    Args:
        name: Appears in the tests' names; seeds the inputs.
        op: The function under test, called with the inputs by name.
        reference: The same in plain torch; also called with the inputs by name.
        variants: Named factories of inputs. The first one is also traced, compiled and strided.
        differentiable: Names of the arguments that get gradients.
        gradcheck: The variants that finite differences run on.
        step: Of finite differences.
        large: The variants too large for the reference: only threads are compared.
        emulated: The variants small enough for the emulator; None: all.
        emulated_gradcheck: The variants that finite differences run on in the emulator.
        dtypes: Floating types of the inputs.
        tolerance: Largest error of an output by dtype, relative to its largest entry.
        gradient_tolerance: The same for gradients; default: ten times ``tolerance``.
        compare: Replaces the comparison of outputs: ``compare(outputs, expected, inputs, dtype)``,
            given lists of float64 CPU tensors.
        errors: Bad calls and what they raise.
        no_emulated: Why there is no emulated kernel; empty if there is one.
        no_compile: Why the operator is not compiled; empty if it is.
        varies_on_cuda: Why CUDA runs may differ in the last bits, such as sums by atomics; empty
            if they may not.
    """

    name: str
    op: Callable[..., Any]
    reference: Callable[..., Any]
    variants: Mapping[str, Factory]
    differentiable: tuple[str, ...] = ()
    gradcheck: tuple[str, ...] = ()
    step: float = 1e-6
    large: tuple[str, ...] = ()
    emulated: tuple[str, ...] | None = None
    emulated_gradcheck: tuple[str, ...] = ()
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.float64)
    tolerance: Mapping[torch.dtype, float] = field(default_factory=lambda: dict(_TOLERANCE))
    gradient_tolerance: Mapping[torch.dtype, float] | None = None
    compare: Callable[[list[Tensor], list[Tensor], Inputs, torch.dtype], None] | None = None
    errors: tuple[Error, ...] = ()
    no_emulated: str = ""
    no_compile: str = ""
    varies_on_cuda: str = ""

    @property
    def first(self) -> str:
        return next(iter(self.variants))


def parametrize(cases: Sequence[Case]) -> pytest.MarkDecorator:
    """Turns a test function with the argument ``check`` into one test for each check."""
    return pytest.mark.parametrize(
        "check", [pytest.param(run, id=name) for case in cases for name, run in _checks(case)]
    )


def _checks(case: Case) -> Iterator[tuple[str, Callable[[], None]]]:
    for backend in _backends(case):
        for variant in _referenced(case, backend):
            for dtype in case.dtypes:
                name = f"{case.name}-values-{backend}-{variant}-{str(dtype).split('.')[1]}"
                yield name, partial(check_values, case, backend, variant, dtype)
        gradchecked = case.emulated_gradcheck if backend == "emulated" else case.gradcheck
        for variant in gradchecked:
            name = f"{case.name}-gradcheck-{backend}-{variant}"
            yield name, partial(check_gradients_numerically, case, backend, variant)
        yield f"{case.name}-strided-{backend}", partial(check_strided, case, backend)
        if backend == "emulated":
            yield f"{case.name}-order-emulated", partial(check_thread_order, case)
        else:
            yield f"{case.name}-opcheck-{backend}", partial(check_operators, case, backend)
            if not case.no_compile:
                yield f"{case.name}-compile-{backend}", partial(check_compiles, case, backend)
    for variant in case.variants:
        yield f"{case.name}-threads-{variant}", partial(check_threads, case, variant)
    if HAS_CUDA and not case.varies_on_cuda:
        yield f"{case.name}-repeat-cuda", partial(check_repeats, case, "cuda")
    for error in case.errors:
        yield f"{case.name}-error-{error.name}", partial(check_error, case, error)


def _referenced(case: Case, backend: str) -> list[str]:
    """The variants whose values are compared with the reference."""
    small = [variant for variant in case.variants if variant not in case.large]
    if backend != "emulated" or case.emulated is None:
        return small
    return [variant for variant in small if variant in case.emulated]


def _backends(case: Case) -> list[str]:
    emulated = [] if case.no_emulated else ["emulated"]
    return ["cpu", *emulated, *(["cuda"] if HAS_CUDA else [])]


@contextlib.contextmanager
def running_on(backend: str) -> Iterator[torch.device]:
    """The device that inputs go to; inside, the operators are those of the backend."""
    if backend != "emulated":
        yield torch.device(backend)
        return
    try:
        library.load_emulated()
    except ImportError as error:
        if IN_CI:
            pytest.fail(f"CI builds the emulated kernels, but {error}")
        pytest.skip(str(error))
    with library.emulated():
        yield torch.device("cpu")


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Runs the block with that many CPU threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def seeded(*words: object) -> torch.Generator:
    """A CPU generator whose seed is drawn from the words."""
    return torch.Generator().manual_seed(zlib.crc32(" ".join(map(str, words)).encode()))


@lru_cache(maxsize=128)
def _drawn(case: Case, variant: str) -> Inputs:
    return case.variants[variant](seeded(case.name, variant))


def make_inputs(case: Case, variant: str, dtype: torch.dtype) -> Inputs:
    """The variant's inputs on the CPU, floating tensors rounded to ``dtype``.

    They are drawn once: whoever writes to them copies them first.
    """
    inputs = _drawn(case, variant)
    return _map_tensors(inputs, lambda t: t.to(dtype) if t.is_floating_point() else t)


def _map_tensors(inputs: Inputs, f: Callable[[Tensor], Tensor]) -> Inputs:
    def apply(value: Any) -> Any:
        if isinstance(value, Tensor):
            return f(value)
        if isinstance(value, list | tuple) and any(isinstance(v, Tensor) for v in value):
            parts = [apply(v) for v in value]
            return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
        return value

    return {name: apply(value) for name, value in inputs.items()}


def tensors_of(outputs: Any) -> list[Tensor]:
    """What an operator returned, as a flat list of tensors."""
    if outputs is None:
        return []
    if isinstance(outputs, Tensor):
        return [outputs]
    return [tensor for output in outputs for tensor in tensors_of(output)]


@dataclass
class Result:
    """Outputs of one call, and the gradients of the differentiable arguments."""

    outputs: list[Tensor]
    gradients: dict[str, Tensor]


def call(case: Case, function: Callable[..., Any], inputs: Inputs) -> Result:
    """Runs forward and, with fixed random gradients of the outputs, backward."""
    names = [name for name in case.differentiable if inputs.get(name) is not None]
    inputs = {**inputs, **{n: inputs[n].detach().requires_grad_() for n in names}}
    outputs = tensors_of(function(**inputs))
    return Result([t.detach() for t in outputs], _gradients(outputs, names, inputs))


def _gradients(outputs: list[Tensor], names: list[str], inputs: Inputs) -> dict[str, Tensor]:
    reached = [t for t in outputs if t.requires_grad]
    if not names or not reached:
        return {}
    generator = torch.Generator().manual_seed(1)
    seeds = [torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t) for t in reached]
    leaves = [inputs[name] for name in names]
    found = torch.autograd.grad(reached, leaves, seeds, allow_unused=True)
    return {
        name: torch.zeros_like(leaf) if g is None else g
        for name, leaf, g in zip(names, leaves, found)
    }


@lru_cache(maxsize=64)
def _expected(case: Case, variant: str, dtype: torch.dtype) -> Result:
    """The reference's result, in float64 whatever the dtype of the inputs."""
    inputs = make_inputs(case, variant, dtype)
    return call(case, case.reference, _map_tensors(inputs, _as_double))


def _as_double(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def check_values(case: Case, backend: str, variant: str, dtype: torch.dtype) -> None:
    """Outputs and gradients are those of the reference."""
    expected = _expected(case, variant, dtype)
    inputs = make_inputs(case, variant, dtype)
    with running_on(backend) as device:
        result = call(case, case.op, _map_tensors(inputs, lambda t: t.to(device)))
    outputs = [_as_double(t.cpu()) for t in result.outputs]
    for output, tensor in zip(result.outputs, tensors_of(expected.outputs)):
        assert output.is_floating_point() == tensor.is_floating_point()
        assert not output.is_floating_point() or output.dtype == dtype
    if case.compare is not None:
        case.compare(outputs, expected.outputs, inputs, dtype)
    else:
        assert len(outputs) == len(expected.outputs)
        for index, (output, wanted) in enumerate(zip(outputs, expected.outputs)):
            assert_near(f"output {index}", output, wanted, case.tolerance[dtype])
    tolerance = (case.gradient_tolerance or {}).get(dtype, 10 * case.tolerance[dtype])
    for name, wanted in expected.gradients.items():
        assert result.gradients[name].dtype == dtype
        assert_near(f"gradient of {name}", result.gradients[name].cpu().double(), wanted, tolerance)


def assert_near(what: str, value: Tensor, expected: Tensor, tolerance: float) -> None:
    """The largest difference is within ``tolerance`` of the largest expected entry."""
    assert value.shape == expected.shape, f"{what}: {list(value.shape)}, {list(expected.shape)}"
    if not expected.is_floating_point():
        assert torch.equal(value, expected), what
        return
    if expected.numel() == 0:
        return
    scale = max(float(expected.abs().max()), 1e-30)
    error = float((value - expected).abs().max())
    assert error <= tolerance * scale, f"{what}: error {error:.3g} of {scale:.3g}"


def check_gradients_numerically(case: Case, backend: str, variant: str) -> None:
    """Gradients agree with finite differences in float64."""
    inputs = make_inputs(case, variant, torch.float64)
    with running_on(backend) as device:
        inputs = _map_tensors(inputs, lambda t: t.to(device))
        names = [name for name in case.differentiable if inputs.get(name) is not None]

        def function(*leaves: Tensor) -> tuple[Tensor, ...]:
            outputs = tensors_of(case.op(**{**inputs, **dict(zip(names, leaves))}))
            return tuple(t for t in outputs if t.requires_grad)

        leaves = [inputs[name].clone().requires_grad_() for name in names]
        assert torch.autograd.gradcheck(function, leaves, eps=case.step, atol=1e-6, rtol=1e-4)


class _Recorder(TorchDispatchMode):
    """Keeps every call of our operators."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], list[Tensor]]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func.namespace in (library.NAMESPACE, library.EMULATED):
            outputs = func(*args, **(kwargs or {}))
            self.calls.append((func, args, tensors_of(outputs)))
            return outputs
        return func(*args, **(kwargs or {}))


def check_operators(case: Case, backend: str) -> None:
    """Every operator behind the call has a true schema, fake kernel and autograd registration."""
    recorder = _Recorder()
    dtype = torch.float32 if torch.float32 in case.dtypes else case.dtypes[0]
    inputs = make_inputs(case, case.first, dtype)
    with running_on(backend) as device:
        inputs = _map_tensors(inputs, lambda t: t.to(device))
        with recorder:
            call(case, case.op, inputs)
        assert recorder.calls, "the call reached no operator of ours"
        for operator, arguments, outputs in recorder.calls:
            # Leaves: whatever graph they came out of has been walked, and is gone. What writes to
            # its arguments has no gradient of its own, but is part of something that has.
            needed = not (operator.name().endswith("_backward") or operator._schema.is_mutable)
            arguments = tuple(
                a.detach().requires_grad_(needed and a.requires_grad)
                if isinstance(a, Tensor)
                else a
                for a in arguments
            )
            utilities = ["test_schema", "test_autograd_registration", "test_faketensor"]
            # This one adds the outputs up, from the first on: it must be a floating tensor.
            if outputs and outputs[0].is_floating_point():
                utilities.append("test_aot_dispatch_dynamic")
            torch.library.opcheck(operator, arguments, test_utils=utilities)


def check_compiles(case: Case, backend: str) -> None:
    """``torch.compile(fullgraph=True)`` traces forward and backward and changes no value."""
    dtype = torch.float32 if torch.float32 in case.dtypes else case.dtypes[0]
    torch._dynamo.reset()
    inputs = make_inputs(case, case.first, dtype)
    with running_on(backend) as device:
        inputs = _map_tensors(inputs, lambda t: t.to(device))
        # Some outputs are as long as their values say; asked to, the compiler allows that.
        with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
            compiled = torch.compile(case.op, fullgraph=True, backend="aot_eager", dynamic=False)
            result = call(case, compiled, inputs)
        expected = call(case, case.op, inputs)
    _assert_same(result, expected, 0.0 if backend == "cpu" else 10 * case.tolerance[dtype])


def _assert_same(result: Result, expected: Result, tolerance: float) -> None:
    assert len(result.outputs) == len(expected.outputs)
    assert result.gradients.keys() == expected.gradients.keys()
    pairs = [
        *zip(result.outputs, expected.outputs),
        *((result.gradients[name], expected.gradients[name]) for name in expected.gradients),
    ]
    for index, (value, wanted) in enumerate(pairs):
        if tolerance == 0:
            assert torch.equal(value, wanted), f"tensor {index} differs"
        else:
            assert_near(f"tensor {index}", value, wanted, tolerance)


def _strided(tensor: Tensor) -> Tensor:
    """The same values with gaps between them in memory."""
    if tensor.dim() == 0:
        return tensor
    junk = torch.ones_like(tensor) if tensor.dtype == torch.bool else torch.full_like(tensor, 7)
    return torch.stack([tensor, junk], dim=-1)[..., 0]


def check_strided(case: Case, backend: str) -> None:
    """Inputs that are not contiguous give the same bits."""
    dtype = torch.float32 if torch.float32 in case.dtypes else case.dtypes[0]
    inputs = make_inputs(case, case.first, dtype)
    with running_on(backend) as device:
        inputs = _map_tensors(inputs, lambda t: t.to(device))
        expected = call(case, case.op, inputs)
        result = call(case, case.op, _map_tensors(inputs, _strided))
    varies = backend == "cuda" and case.varies_on_cuda
    _assert_same(result, expected, 10 * case.tolerance[dtype] if varies else 0.0)


def check_threads(case: Case, variant: str) -> None:
    """The number of threads changes no bit, nor does a second run."""
    for dtype in case.dtypes:
        inputs = make_inputs(case, variant, dtype)
        results = []
        for count in (1, 2, 3, 1, 3):
            with threads(count):
                results.append(call(case, case.op, inputs))
        for result in results[1:]:
            _assert_same(result, results[0], 0.0)


def check_thread_order(case: Case) -> None:
    """The emulated kernels do not depend on the order in which threads and blocks run."""
    variant = _referenced(case, "emulated")[0]
    inputs = make_inputs(case, variant, case.dtypes[0])
    results = []
    with running_on("emulated"):
        for order in (0, -1, 12345):  # ascending, descending, shuffled
            library.ops().set_thread_order(order)
            try:
                results.append(call(case, case.op, inputs))
            finally:
                library.ops().set_thread_order(0)
    tolerance = 10 * case.tolerance[case.dtypes[0]] if case.varies_on_cuda else 0.0
    for result in results[1:]:
        _assert_same(result, results[0], tolerance)


def check_repeats(case: Case, backend: str) -> None:
    """Two runs give the same bits."""
    inputs = make_inputs(case, case.first, case.dtypes[0])
    with running_on(backend) as device:
        inputs = _map_tensors(inputs, lambda t: t.to(device))
        first, second = (call(case, case.op, inputs) for _ in range(2))
    _assert_same(second, first, 0.0)


def check_error(case: Case, error: Error) -> None:
    """A bad argument raises with the facts."""
    inputs = {**make_inputs(case, case.first, torch.float32), **error.arguments}
    with pytest.raises(error.exception, match=error.match):
        case.op(**inputs)
