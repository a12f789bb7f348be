# SPDX-License-Identifier: Apache-2.0
"""The CUDA emulator itself: right kernels compute what they should, wrong ones are reported."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from fieldline.cuda import library
from torch import Tensor

# The order of threads and blocks. 0: ascending, -1: descending, others: shuffled by that seed.
ORDERS = [0, -1, 5, 77]


def on_gpu() -> bool:
    """Whether the test kernels were built for the GPU too (FIELDLINE_CUDA_SELFTEST=ON)."""
    if not torch.cuda.is_available():
        return False
    library.load()
    return hasattr(torch.ops.fieldline, "selftest_reduce")


TARGETS = [*(f"order{order}" for order in ORDERS), *(["cuda"] if on_gpu() else [])]

pytestmark = pytest.mark.skipif(
    not (library.FOLDER / "_C_emulated.so").exists() and "CI" not in os.environ,
    reason="the emulated kernels were not built (FIELDLINE_EMULATED=OFF)",
)


@pytest.fixture(scope="module")
def ops():
    library.load_emulated()
    return torch.ops.fieldline_emulated


@dataclass
class Target:
    """Where the kernels run: on the emulator in one order of threads, or on the GPU."""

    ops: Any
    device: str = "cpu"

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """The operator selftest_NAME, with inputs and outputs on the CPU."""

        def run(*arguments: Tensor | int) -> Any:
            moved = [a.to(self.device) if isinstance(a, Tensor) else a for a in arguments]
            result = getattr(self.ops, f"selftest_{name}")(*moved)
            return result.cpu() if isinstance(result, Tensor) else [r.cpu() for r in result]

        return run


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest, ops) -> Iterator[Target]:
    if request.param == "cuda":
        yield Target(torch.ops.fieldline, "cuda")
        return
    ops.set_thread_order(int(request.param.removeprefix("order")))
    yield Target(ops)
    ops.set_thread_order(0)


def random_ints(low: int, high: int, *shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randint(low, high, shape, generator=generator, dtype=dtype)


@pytest.mark.parametrize("n", [0, 1, 255, 256, 257, 5000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_reduction_sums_integers_exactly(target: Target, n: int, dtype: torch.dtype):
    x = random_ints(-100, 100, n).to(dtype)
    assert target.reduce(x).item() == x.sum().item()


@pytest.mark.parametrize("n", [0, 1, 31, 32, 256, 257, 4000])
def test_scan_across_blocks(target: Target, n: int):
    x = random_ints(0, 50, n)
    assert torch.equal(target.scan(x), x.cumsum(0).int())


@pytest.mark.parametrize("n", [0, 1, 5000])
def test_histogram_with_atomics(target: Target, n: int):
    x = random_ints(0, 256, n, dtype=torch.uint8)
    assert torch.equal(target.histogram(x), torch.bincount(x.long(), minlength=256).int())


@pytest.mark.parametrize("shape", [(1, 1, 1), (16, 16, 16), (33, 20, 47)])
def test_matrix_product_with_shared_tiles(target: Target, shape: tuple[int, int, int]):
    rows, inner, columns = shape
    a = random_ints(-9, 9, rows, inner).double()
    b = random_ints(-9, 9, inner, columns).double()
    assert torch.equal(target.matmul(a, b), a @ b)
    assert torch.equal(target.matmul(a.float(), b.float()), (a @ b).float())


def as_int32(bits: int) -> int:
    return bits - (1 << 32) if bits >> 31 else bits


def votes_of_lane(values: list[int], lane: int, block: list[int]) -> list[int]:
    """What CUDA's programming guide says one lane of a full warp sees in selftest_votes."""

    def ballot(predicate, lanes=range(32)) -> int:
        return sum(1 << i for i in lanes if predicate(values[i]))

    def segment(width: int) -> int:
        return lane // width * width

    # Each half of the warp is in its own branch.
    even = as_int32(ballot(lambda v: v > 0, range(0, 32, 2)))
    return [
        as_int32(ballot(lambda v: v > 0)),
        int(any(v > 5 for v in values)),
        int(all(v > -5 for v in values)),
        as_int32(ballot(lambda v: v == values[lane])),
        values[3],
        values[max(lane - 1, 0)],
        values[lane + 2 if lane + 2 < segment(8) + 8 else lane],
        values[lane ^ 5],
        values[segment(4) + (lane + 1) % 4],
        sum(v > 0 for v in block),
        int(any(v > 5 for v in block)),
        int(all(v > -5 for v in block)),
        even if lane % 2 == 0 else values[lane ^ 2],
        0,  # all lanes match, 0xffffffff, plus 1
        values[lane ^ 1],
        values[lane - 3 if lane - 3 >= segment(16) else lane],
        bin(ballot(lambda v: v > 0) & ((1 << lane) - 1)).count("1"),
    ]


@pytest.mark.parametrize("threads", [32, 64, 96])
def test_votes_and_shuffles(target: Target, threads: int):
    values = random_ints(-6, 8, threads)
    block = values.tolist()
    expected = [
        votes_of_lane(block[i // 32 * 32 : i // 32 * 32 + 32], i % 32, block)
        for i in range(threads)
    ]
    assert target.votes(values, 32).tolist() == expected


def test_ended_lanes_do_not_hold_up_a_warp(target: Target):
    values = random_ints(-6, 8, 64)
    live = 20
    out = target.votes(values, live)
    for warp in range(2):
        lanes = values[warp * 32 : warp * 32 + live].tolist()
        ballot = sum(1 << i for i, v in enumerate(lanes) if v > 0)
        assert (out[warp * 32 : warp * 32 + live, 0] == ballot).all()
        assert (out[warp * 32 + live : warp * 32 + 32] == 0).all()
        # Lane 18 reads lane 20, which has ended: undefined in CUDA, a NaN's bits in the emulator.
        if target.device == "cpu":
            assert out[warp * 32 + 18, 6] == 0x7FFDCDCD
    live_values = torch.cat([values[:live], values[32 : 32 + live]])
    assert (out[:live, 9] == (live_values > 0).sum()).all()


def test_same_result_every_run(ops):
    x = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    assert len({ops.selftest_reduce(x).item() for _ in range(3)}) == 1


def test_a_million_threads(ops):
    x = random_ints(0, 100, 1 << 20)
    assert torch.equal(ops.selftest_scan(x), x.cumsum(0).int())


def test_launches_from_several_host_threads_take_turns(ops):
    x = random_ints(0, 50, 5000)
    expected = x.cumsum(0).int()
    results: list[Tensor] = []
    workers = [
        threading.Thread(target=lambda: results.append(ops.selftest_scan(x))) for _ in range(8)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 8
    assert all(torch.equal(result, expected) for result in results)


# --------------------------------------------------------------------------- wrong kernels

FAILURES = {
    "divergent barrier": (
        *(0, 0),
        r"fail_divergent_barrier, block \(0, 0, 0\), thread \(40, 0, 0\): divergent barrier.*"
        r"40 of them, first \(0, 0, 0\), at __syncthreads in .*selftest\.cu:\d+; "
        r"1 of them, first \(40, 0, 0\), at __syncthreads in .*selftest\.cu:\d+",
    ),
    "deadlock": (
        *(1, 0),
        r"fail_deadlock, block \(0, 0, 0\): deadlock: 64 of 64 threads wait.*"
        r"63 of them, first \(0, 0, 0\), at __syncthreads in .*"
        r"1 of them, first \(32, 0, 0\), at __syncwarp with mask 0x3",
    ),
    "different operations": (
        *(2, 0),
        r"deadlock: 64 of 64.*32 of them.*__any_sync with mask 0xffffffff.*32 of them.*__shfl_sync",
    ),
    "mask without caller": (3, 0, r"thread \(0, 0, 0\): __any_sync .*the mask does not name.*0"),
    "index at the end": (4, 64, r"thread \(5, 0, 0\): shared array 'values' of 64 indexed with 64"),
    "negative index": (4, -1, r"shared array 'values' of 64 indexed with -1"),
    "row": (5, 4, r"shared array 'grid_values' of 4 indexed with 4"),
    "column": (6, 8, r"shared array 'grid_values' of 8 indexed with 8"),
    "dynamic": (7, 32, r"shared array 'scratch' of 32 indexed with 32"),
    "dynamic negative": (7, -1, r"shared array 'scratch' of 32 indexed with -1"),
    "trap": (9, 0, r"fail_trap, block \(0, 0, 0\), thread \(5, 0, 0\): __trap"),
    "livelock": (10, 0, r"livelock: 1000000 times __nanosleep"),
    "too many threads": (11, 0, r"expected a block of 1 to 1024 threads, got \(2048, 1, 1\)"),
    "too much shared memory": (12, 0, r"at most 101376 bytes of dynamic shared memory, got 307200"),
    "negative grid": (13, -1, r"expected an extent in \[0, 2\^31\), got -1"),
    "huge grid": (13, 1 << 31, r"expected an extent in \[0, 2\^31\), got 2147483648"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_wrong_kernels_are_reported(ops, name: str):
    number, index, message = FAILURES[name]
    alive = torch.zeros(64, dtype=torch.int32)
    with pytest.raises(RuntimeError) as caught:
        ops.selftest_fail(alive, number, index)
    assert re.search(message, str(caught.value)), str(caught.value)
    assert alive[0] == 0, "objects on the stacks of the failed block were not destroyed"
    # What failed leaves nothing behind.
    x = random_ints(0, 50, 1000)
    assert torch.equal(ops.selftest_scan(x), x.cumsum(0).int())


@pytest.mark.skipif("cuda" not in TARGETS, reason="no GPU, or FIELDLINE_CUDA_SELFTEST=OFF")
@pytest.mark.parametrize("number", [11, 12])
def test_launches_that_the_gpu_refuses(number: int):
    gpu = torch.ops.fieldline
    with pytest.raises(RuntimeError, match=r"kernel fail_livelock, grid \(1, 1, 1\), .*CUDA error"):
        gpu.selftest_fail(torch.zeros(64, dtype=torch.int32, device="cuda"), number, 0)
    assert gpu.selftest_reduce(torch.ones(5000, device="cuda")).item() == 5000


@pytest.mark.parametrize("order", ORDERS[1:])
def test_failures_unwind_in_every_order(ops, order: int):
    ops.set_thread_order(order)
    try:
        for number, index in [(0, 0), (1, 0), (4, 64), (7, 32)]:
            alive = torch.zeros(64, dtype=torch.int32)
            with pytest.raises(RuntimeError):
                ops.selftest_fail(alive, number, index)
            assert alive[0] == 0
    finally:
        ops.set_thread_order(0)


@pytest.mark.parametrize(("number", "index"), [(4, 63), (5, 3), (6, 7), (7, 31), (8, 31)])
def test_the_last_element_is_not_out_of_bounds(ops, number: int, index: int):
    alive = torch.zeros(64, dtype=torch.int32)
    ops.selftest_fail(alive, number, index)
    assert alive[0] == 0
    assert alive[1] == 1


STRAY_POINTERS = {32: "past the end of", 40: "past the end of", -1: "before"}


@pytest.mark.parametrize("offset", STRAY_POINTERS)
def test_stray_pointers_are_reported(ops, offset: int):
    if not ops.built_with_asan():
        with pytest.raises(RuntimeError, match=rf"write {STRAY_POINTERS[offset]} shared array"):
            ops.selftest_fail(torch.zeros(64, dtype=torch.int32), 8, offset)
        return
    # AddressSanitizer ends the process at the very write.
    program = (
        "import torch; from fieldline.cuda import library; library.load_emulated();"
        "torch.ops.fieldline_emulated.selftest_fail(torch.zeros(64, dtype=torch.int32),"
        f" 8, {offset})"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )
    assert run.returncode != 0
    assert "use-after-poison" in run.stderr
    assert "fail_stray_pointer" in run.stderr


@pytest.mark.parametrize("order", ORDERS)
def test_a_missing_barrier_shows_as_unwritten_memory(ops, order: int):
    out = torch.zeros(64, dtype=torch.int32)
    ops.set_thread_order(order)
    ops.selftest_fail(out, 14, 0)
    ops.set_thread_order(0)
    assert not torch.equal(out, torch.arange(63, -1, -1, dtype=torch.int32))
    assert (out == 0x7FFDCDCD).any()
    assert torch.tensor([0x7FFDCDCD], dtype=torch.int32).view(torch.float32).isnan().all()


# --------------------------------------------------------------------------- sort and scan


# The library's sort and scans: the order of the threads does not matter to them.
any_device = pytest.mark.parametrize("target", [TARGETS[0], *TARGETS[len(ORDERS) :]], indirect=True)

KEY_TYPES = {torch.int16: np.uint16, torch.int32: np.uint32, torch.int64: np.uint64}


@pytest.fixture(params=[1, 2, 3])
def any_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def sorted_by_bits(keys: Tensor, begin_bit: int, end_bit: int) -> Tensor:
    """The places of a stable sort by those bits of the keys, read as unsigned."""
    unsigned = keys.numpy().view(KEY_TYPES[keys.dtype]).astype(np.uint64)
    mask = np.uint64((1 << (end_bit - begin_bit)) - 1)
    return torch.from_numpy(np.argsort(unsigned >> np.uint64(begin_bit) & mask, kind="stable"))


@any_device
@pytest.mark.parametrize("n", [0, 1, 2, 1000, 5000, 70_000])
@pytest.mark.parametrize(
    ("dtype", "begin_bit", "end_bit"),
    [
        (torch.int16, 0, 16),
        (torch.int16, 3, 10),
        (torch.int32, 0, 32),
        (torch.int32, 0, 13),
        (torch.int32, 7, 8),
        (torch.int64, 0, 64),
        (torch.int64, 20, 45),
    ],
)
def test_sort_is_stable_and_by_the_asked_bits(
    target: Target, any_threads: int, n: int, dtype: torch.dtype, begin_bit: int, end_bit: int
):
    limits = torch.iinfo(dtype)
    keys = random_ints(limits.min, limits.max, n, dtype=dtype)
    values = torch.arange(n, dtype=torch.int32)
    order = sorted_by_bits(keys, begin_bit, end_bit)
    keys_out, values_out = target.sort(keys, values, begin_bit, end_bit)
    assert torch.equal(values_out.long(), order)
    assert torch.equal(keys_out, keys[order])


@any_device
@pytest.mark.parametrize("pattern", ["equal", "ascending", "descending", "few bits"])
def test_sort_of_structured_keys(target: Target, any_threads: int, pattern: str):
    n = 50_000
    ascending = torch.arange(n, dtype=torch.int32)
    keys = {
        "equal": torch.full((n,), 12345, dtype=torch.int32),
        "ascending": ascending,
        "descending": ascending.flip(0).contiguous(),
        "few bits": (ascending % 7) << 25 | (ascending % 3),
    }[pattern]
    keys_out, values_out = target.sort(keys, ascending, 0, 32)
    order = sorted_by_bits(keys, 0, 32)
    assert torch.equal(values_out.long(), order)
    assert torch.equal(keys_out, keys[order])


@any_device
@pytest.mark.parametrize("n", [0, 1, 1000, 32_768, 32_769, 100_000])
def test_scans_sums_and_selection(target: Target, any_threads: int, n: int):
    x = random_ints(0, 4, n, dtype=torch.uint8)
    exclusive, inclusive, total, indices, count = target.scans(x)
    sums = x.long().cumsum(0)
    assert torch.equal(exclusive, sums - x.long())
    assert torch.equal(inclusive, sums.float())
    assert total.item() == x.long().sum().item()
    assert torch.equal(indices[: count.item()].long(), x.nonzero()[:, 0])
