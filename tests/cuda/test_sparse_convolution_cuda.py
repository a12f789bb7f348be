# SPDX-License-Identifier: Apache-2.0
"""Convolution on a GPU: the plan, every schedule, the tuner. Without a GPU, in the emulator."""

from __future__ import annotations

import doctest
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sparse_convolution_reference as reference
import torch
from fieldline.cuda import library
from fieldline.cuda.sparse import tuning
from fieldline.cuda.sparse.conv_ops import sparse_convolution
from fieldline.cuda.sparse.kernel_map import KernelMap
from fieldline.cuda.sparse.tuning import Schedule, padded_pairs
from op_harness import HAS_CUDA, Case, assert_near, parametrize, running_on
from sparse_map_reference import gray_ranks, plan_reference
from torch import Tensor

SCHEDULES = [
    *(Schedule("implicit", splits, rows) for splits in (1, 2, 3) for rows in (64, 128)),
    Schedule("grouped", 1, 64),
]
BACKENDS = ["emulated", *(["cuda"] if HAS_CUDA else [])]
TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.float16: 6e-4,
    torch.bfloat16: 5e-3,
}


def a_table(n: int = 150, kernel_size: tuple[int, ...] = (3, 3, 3), seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coords = reference.random_coordinates(generator, n, (7, 8, 6))
    return reference.submanifold_table(coords, kernel_size)


def by_plan(table: Tensor, splits: int, tile_rows: int) -> tuple[Tensor, ...]:
    return tuple(library.ops().sparse_conv_plan(table, splits, tile_rows))


def test_gray_ranks() -> None:
    assert gray_ranks(torch.tensor([0, 1, 3, 2, 6, 7, 5, 4])).tolist() == list(range(8))


PLAN = Case(
    name="plan",
    op=by_plan,
    reference=plan_reference,
    variants={
        "three": lambda _: {"table": a_table(), "splits": 3, "tile_rows": 64},
        "one": lambda _: {"table": a_table(), "splits": 1, "tile_rows": 128},
        "two": lambda _: {"table": a_table(200), "splits": 2, "tile_rows": 128},
        "large": lambda _: {"table": a_table(40, (5, 5, 5)), "splits": 4, "tile_rows": 64},
        # 32 taps in a run: the mask's last bit is the sign's.
        "full": lambda _: {"table": a_table(90, (4, 4, 4)), "splits": 2, "tile_rows": 64},
        "uneven": lambda _: {"table": a_table(70, (2, 2)), "splits": 3, "tile_rows": 64},
        "empty": lambda _: {"table": a_table()[:, :0].clone(), "splits": 3, "tile_rows": 64},
    },
)


@parametrize([PLAN])
def test_plan(check: Callable[[], None]) -> None:
    check()


@pytest.mark.parametrize(
    ("splits", "tile_rows", "text"),
    [(0, 64, "splits: expected 1 to K"), (28, 64, "splits"), (3, 32, "tile_rows: expected 64 or")],
)
def test_plan_of_bad_settings(splits: int, tile_rows: int, text: str) -> None:
    with pytest.raises(RuntimeError, match=text):
        by_plan(a_table(), splits, tile_rows)
    with pytest.raises(RuntimeError, match="at most 32"):
        by_plan(a_table(10, (5, 5, 5)), 3, 64)


@pytest.fixture
def scheduled(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Schedule], None]]:
    def use(chosen: Schedule) -> None:
        monkeypatch.setattr(tuning, "schedule", lambda *_: chosen)

    return use  # type: ignore[return-value]


def inputs_of(table: Tensor, channels: tuple[int, int], dtype: torch.dtype) -> dict[str, Tensor]:
    normal = partial(torch.randn, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    scale = (channels[0] * table.shape[0]) ** -0.5
    return {
        "features": normal(int(table.max()) + 1, channels[0]).to(dtype),
        "weight": (normal(table.shape[0], *channels) * scale).to(dtype),
        "bias": normal(channels[1]).to(dtype),
        "residual": normal(table.shape[1], channels[1]).to(dtype),
    }


def results(made: KernelMap, inputs: dict[str, Tensor], **settings: Any) -> list[Tensor]:
    leaves = {name: value.clone().requires_grad_() for name, value in inputs.items()}
    out = sparse_convolution(kernel_map=made, **leaves, **settings)
    weights = torch.linspace(-1, 2, out.numel(), dtype=torch.float64).view_as(out).to(out)
    return [out.detach(), *torch.autograd.grad(out, list(leaves.values()), weights)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("chosen", SCHEDULES, ids=lambda s: "-".join(map(str, s)))
def test_schedules_agree(
    backend: str, dtype: torch.dtype, chosen: Schedule, scheduled: Callable[[Schedule], None]
) -> None:
    """Every schedule gives the reference's values and gradients, and the same bits twice."""
    scheduled(chosen)
    table = a_table(200)
    inputs = inputs_of(table, (24, 40), dtype)
    wide = {name: value.double() for name, value in inputs.items()}
    n_in = len(inputs["features"])
    expected = results(KernelMap.from_table(table, n_in), wide, activation="relu")
    with running_on(backend) as device:
        placed = {name: value.to(device) for name, value in inputs.items()}
        made = KernelMap.from_table(table.to(device), n_in)
        found = results(made, placed, activation="relu")
        again = results(made, placed, activation="relu")
    for index, (value, wanted, repeated) in enumerate(zip(found, expected, again)):
        factor = 1 if index == 0 else 5
        assert_near(f"{index}", value.cpu().double(), wanted, factor * TOLERANCE[dtype])
        assert torch.equal(value, repeated)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "channels",
    [
        (1, 1),
        (4, 32),
        (12, 72),
        (8, 8),
        (3, 64),
        (96, 96),
        (40, 136),
        (64, 200),
        (128, 128),
        (520, 16),
    ],
    ids=lambda c: f"{c[0]}-{c[1]}",
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_channels(backend: str, channels: tuple[int, int], dtype: torch.dtype) -> None:
    table = a_table(80)
    inputs = inputs_of(table, channels, dtype)
    wide = {name: value.double() for name, value in inputs.items()}
    n_in = len(inputs["features"])
    expected = results(KernelMap.from_table(table, n_in), wide)
    with running_on(backend) as device:
        placed = {name: value.to(device) for name, value in inputs.items()}
        found = results(KernelMap.from_table(table.to(device), n_in), placed)
    for index, (value, wanted) in enumerate(zip(found, expected)):
        factor = 1 if index == 0 else 5
        assert_near(f"{index}", value.cpu().double(), wanted, factor * TOLERANCE[dtype])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("channels", [(20, 36), (18, 36), (48, 100)], ids=str)
@pytest.mark.parametrize("chosen", [SCHEDULES[4], SCHEDULES[5], SCHEDULES[6]], ids=str)
def test_tf32_is_used_where_torch_allows_it(
    backend: str,
    channels: tuple[int, int],
    chosen: Schedule,
    scheduled: Callable[[Schedule], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scheduled(chosen)
    table = a_table(100)
    inputs = inputs_of(table, channels, torch.float32)
    wide = {name: value.double() for name, value in inputs.items()}
    n_in = len(inputs["features"])
    expected = results(KernelMap.from_table(table, n_in), wide)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", True)
    with running_on(backend) as device:
        placed = {name: value.to(device) for name, value in inputs.items()}
        found = results(KernelMap.from_table(table.to(device), n_in), placed)
    for index, (value, wanted) in enumerate(zip(found, expected)):
        assert_near(f"{index}", value.cpu().double(), wanted, 2e-3)
    assert not torch.allclose(found[0].cpu().double(), expected[0], rtol=0, atol=2e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_features_that_do_not_begin_at_a_vector(backend: str) -> None:
    """A slice of a larger tensor may be contiguous and yet begin between two vectors."""
    table = a_table(80)
    inputs = inputs_of(table, (16, 16), torch.float16)
    n_in = len(inputs["features"])
    with running_on(backend) as device:
        placed = {name: value.to(device) for name, value in inputs.items()}
        made = KernelMap.from_table(table.to(device), n_in)
        expected = sparse_convolution(kernel_map=made, **placed)
        shifted = torch.empty(n_in * 16 + 1, dtype=torch.float16, device=device)[1:].view(n_in, 16)
        shifted.copy_(placed["features"])
        found = sparse_convolution(kernel_map=made, **(placed | {"features": shifted}))
    assert_near("shifted", found.cpu().double(), expected.cpu().double(), 6e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("chosen", SCHEDULES[3:], ids=lambda s: "-".join(map(str, s)))
def test_thread_order_changes_no_bit(
    dtype: torch.dtype, chosen: Schedule, scheduled: Callable[[Schedule], None]
) -> None:
    scheduled(chosen)
    table = a_table(140)
    inputs = inputs_of(table, (24, 24), dtype)
    found = []
    with running_on("emulated"):
        for order in (0, -1, 12345):
            library.ops().set_thread_order(order)
            try:
                made = KernelMap.from_table(table, len(inputs["features"]))
                found.append(results(made, inputs))
            finally:
                library.ops().set_thread_order(0)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other))


def test_rows_beyond_the_features_are_read_as_none() -> None:
    """Whoever calls the operator directly reads no memory that is not theirs."""
    table = torch.tensor([[0, 5, -7]], dtype=torch.int32)
    with running_on("emulated"):
        made = KernelMap.from_table(table, 1)
        out = sparse_convolution(torch.ones(1, 2), torch.ones(1, 2, 2), made)
    assert out.tolist() == [[2, 2], [0, 0], [0, 0]]


def test_a_plan_of_other_sizes_is_an_error() -> None:
    table = a_table(150)
    made = KernelMap.from_table(table, table.shape[1])
    forms = made.gpu_operands("implicit", 3, 64)
    x, w = torch.ones(table.shape[1], 8), torch.ones(27, 8, 8)

    def call(**changed: Tensor) -> None:
        given = forms._replace(**changed)
        library.ops().sparse_conv(
            *(x, w, None, None, 0, 0.0, False, made.n_out, *given, *given, False)
        )

    with running_on("emulated"):
        call()
        with pytest.raises(RuntimeError, match="tile_masks: expected"):
            call(tile_masks=forms.tile_masks[:, 2:].contiguous())
        with pytest.raises(RuntimeError, match="order: expected shape"):
            call(order=forms.order[:, :, 1:].contiguous())
        with pytest.raises(RuntimeError, match="table: expected shape"):
            call(table=forms.table[:, 1:].contiguous())


def test_forms_that_lie_stay_inside_their_tensors() -> None:
    """What comes out is unsaid, what went in stays; with AddressSanitizer this would stop at the
    first stray access."""
    table = a_table(150)
    made = KernelMap.from_table(table, table.shape[1])
    x, w = torch.ones(table.shape[1], 8), torch.ones(27, 8, 8)
    kept = table.clone()
    for form in ("implicit", "grouped"):
        forms = made.gpu_operands(form, 3, 64)
        for name, value in zip(forms._fields, forms):
            for lie in (torch.iinfo(value.dtype).max, torch.iinfo(value.dtype).min, -1):
                given = forms._replace(**{name: torch.full_like(value, lie)})
                with running_on("emulated"):
                    out = library.ops().sparse_conv(
                        *(x, w, None, None, 0, 0.0, False, made.n_out, *given, *given, False)
                    )
                    assert out.shape == (made.n_out, 8)
                    if form == "grouped":
                        library.ops().sparse_conv_backward(
                            *(x, x, None, made.n_in, 1, False, False, *given, *given, True)
                        )
    assert torch.equal(table, kept) and bool((x == 1).all()) and bool((w == 1).all())


def test_padded_pairs_count_whole_tiles() -> None:
    table = a_table(200)
    made = KernelMap.from_table(table, table.shape[1])
    for splits, tile_rows in ((1, 64), (3, 64), (3, 128)):
        _, masks, _ = plan_reference(table, splits, tile_rows)
        bits = sum(bin(mask & 0xFFFFFFFF).count("1") for mask in masks.flatten().tolist())
        assert padded_pairs(made, tile_rows, splits) == bits * tile_rows
    assert made.n_pairs <= padded_pairs(made, 64, 3) <= padded_pairs(made, 64, 1)
    full = KernelMap.from_table(torch.zeros(32, 64, dtype=torch.int32), 1)
    assert padded_pairs(full, 64, 1) == 32 * 64


def test_measured_schedules_are_kept_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIELDLINE_CACHE", str(tmp_path))
    monkeypatch.setattr(tuning, "_measured", {"card": Schedule("grouped", 1, 64)})
    tuning._save(tuning.cache_file())
    monkeypatch.setattr(tuning, "_measured", {"other": Schedule("implicit", 2, 128)})
    tuning._save(tuning.cache_file())
    assert tuning._load(tuning.cache_file()) == {
        "card": Schedule("grouped", 1, 64),
        "other": Schedule("implicit", 2, 128),
    }
    assert [path.name for path in tmp_path.iterdir()] == ["sparse_schedules.json"]


@pytest.mark.parametrize(
    "text", ["{", "[]", json.dumps({"card": ["magic", 1, 64]}), json.dumps({"card": [1]})]
)
def test_a_broken_file_of_schedules_is_ignored(tmp_path: Path, text: str) -> None:
    (tmp_path / "broken.json").write_text(text)
    with pytest.warns(UserWarning, match="schedules of convolutions are ignored"):
        assert tuning._load(tmp_path / "broken.json") == {}


def test_measured_schedules_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "_card", lambda device: "Some-Card")
    device, chosen = torch.device("cuda", 0), Schedule("grouped", 1, 64)
    size = (device, torch.float16, 1000, 27, 64, 64)
    assert tuning.schedule(*size) == tuning.default_schedule(1000, 27, 64)
    monkeypatch.setattr(tuning, "_measured", {tuning._key(*size): chosen})
    assert tuning.schedule(*size) == chosen
    assert tuning.schedule(device, torch.float16, 1023, 27, 64, 64) == chosen
    assert tuning.schedule(device, torch.float16, 1024, 27, 64, 64) != chosen
    assert tuning.schedule(torch.device("cpu"), *size[1:]) != chosen


@pytest.mark.parametrize(
    ("size", "chosen"),
    [
        ((1000, 27, 256), (3, 64)),
        ((1000, 27, 32), (3, 64)),
        ((50000, 27, 32), (1, 64)),
        ((50000, 27, 128), (3, 128)),
        ((50000, 8, 128), (1, 64)),
        ((50000, 125, 32), (4, 64)),
    ],
)
def test_default_schedules(size: tuple[int, int, int], chosen: tuple[int, int]) -> None:
    assert tuning.default_schedule(*size) == ("implicit", *chosen)


def test_tuning_needs_a_gpu() -> None:
    table = a_table(20)
    made = KernelMap.from_table(table, table.shape[1])
    with pytest.raises(ValueError, match="features: expected a CUDA tensor"):
        tuning.tune(torch.ones(table.shape[1], 8), torch.ones(27, 8, 8), made)


@pytest.mark.skipif(not HAS_CUDA, reason="needs a GPU")
def test_tuning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIELDLINE_CACHE", str(tmp_path))
    monkeypatch.setattr(tuning, "_measured", {})
    table = a_table(200).cuda()
    made = KernelMap.from_table(table, table.shape[1])
    x, w = torch.randn(table.shape[1], 16).cuda().half(), torch.randn(27, 16, 16).cuda().half()
    best = tuning.tune(x, w, made)
    assert best in tuning.candidates(made.n_out, 27, 16)
    assert tuning.schedule(x.device, x.dtype, made.n_out, 27, 16, 16) == best
    assert list(tuning._load(tuning.cache_file()).values()) == [best]


@pytest.mark.skipif(not HAS_CUDA, reason="needs a GPU")
def test_captured_in_a_graph() -> None:
    table = a_table(200).cuda()
    made = KernelMap.from_table(table, table.shape[1])
    x, w = torch.randn(table.shape[1], 16).cuda().half(), torch.randn(27, 16, 16).cuda().half()
    expected = sparse_convolution(x, w, made)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = sparse_convolution(x, w, made)
    captured.zero_()
    graph.replay()
    assert torch.equal(captured, expected)


def test_examples() -> None:
    found = doctest.testmod(tuning, extraglobs={"torch": torch})
    assert found.attempted > 0 and found.failed == 0
