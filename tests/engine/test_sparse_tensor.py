# SPDX-License-Identifier: Apache-2.0
"""Sparse tensors: what they hold, what they refuse, and what is made of them."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import pytest
import sparse_twin as twin
import torch
from op_harness import seeded
from torch import Tensor

import fieldline as fl

LOWEST, HIGHEST = -(2**31), 2**31 - 1


def ints(*rows) -> Tensor:
    return torch.tensor(rows, dtype=torch.int32)


def line(*places: int, channels: int = 1, **settings) -> fl.SparseTensor:
    """A 1D tensor with features 1, 2, 3, ..."""
    coords = ints(*[(0, p) for p in places]) if places else torch.zeros(0, 2, dtype=torch.int32)
    feats = torch.arange(1.0, len(places) + 1)[:, None].expand(-1, channels)
    return fl.SparseTensor(coords, feats.clone(), **settings)


# -- making ----------------------------------------------------------------------------------------


def test_properties_and_repr() -> None:
    x = fl.SparseTensor(ints((1, 2, 3)), torch.ones(1, 5).half(), (2, 4), (9, 9))
    assert (x.ndim, x.stride, x.spatial_range, x.batch_size) == (2, (2, 4), (9, 9), 2)
    assert (len(x), x.channels, x.dtype, x.device.type) == (1, 5, torch.float16, "cpu")
    assert repr(x) == (
        "SparseTensor(1 rows, 5 channels, float16, cpu, 2D, stride (2, 4), spatial_range (9, 9), "
        "batch_size 2)"
    )


BAD = {
    "coords-type": (([[0, 0]], torch.ones(1, 1)), {}, TypeError, "coords: expected a tensor"),
    "coords-dtype": ((ints((0, 0)).long(), torch.ones(1, 1)), {}, TypeError, "expected int32, got"),
    "coords-float": ((ints((0, 0)).float(), torch.ones(1, 1)), {}, TypeError, "expected int32"),
    "coords-shape": ((ints((0,)), torch.ones(1, 1)), {}, ValueError, r"\[N, 1 \+ D\]"),
    "coords-5d": ((ints((0,) * 6), torch.ones(1, 1)), {}, ValueError, "D = 1 to 4"),
    "feats-type": ((ints((0, 0)), None), {}, TypeError, "feats: expected a tensor"),
    "feats-rows": ((ints((0, 0)), torch.ones(2, 1)), {}, ValueError, r"expected shape \[1, C\]"),
    "feats-1d": ((ints((0, 0)), torch.ones(1)), {}, ValueError, r"expected shape \[1, C\]"),
    "feats-device": (
        (ints((0, 0)), torch.ones(1, 1, device="meta")),
        {},
        ValueError,
        "feats: expected device cpu, got meta",
    ),
    "stride": ((ints((0, 0)), torch.ones(1, 1), 0), {}, ValueError, "stride: expected at least 1"),
    "stride-many": ((ints((0, 0)), torch.ones(1, 1), (1, 2)), {}, ValueError, "expected 1 numbers"),
    "stride-type": ((ints((0, 0)), torch.ones(1, 1), 0.5), {}, TypeError, "stride"),
    "reduce": ((ints((0, 0)), torch.ones(1, 1)), {"reduce": "or"}, ValueError, "reduce: expected"),
    "batch-high": (
        (ints((3, 0)), torch.ones(1, 1)),
        {"batch_size": 3},
        ValueError,
        "below batch_size 3, got 3 to 3",
    ),
    "batch-low": ((ints((-1, 0)), torch.ones(1, 1)), {}, ValueError, "at least 0, got -1 to -1"),
    "range-high": (
        (ints((0, 5)), torch.ones(1, 1)),
        {"spatial_range": 5},
        ValueError,
        "expected 0 to 4 in axis 0",
    ),
    "range-low": (
        (ints((0, -1)), torch.ones(1, 1)),
        {"spatial_range": 5},
        ValueError,
        "got -1 to -1",
    ),
    "duplicates": (
        (ints((0, 7), (0, 1), (0, 7)), torch.ones(3, 1)),
        {},
        ValueError,
        r"got 1 that stood before, the first \[0, 7\] in rows 0 and 2",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_are_named(name: str) -> None:
    arguments, settings, exception, match = BAD[name]
    with pytest.raises(exception, match=match) as caught:
        fl.SparseTensor(*arguments, **settings)
    assert str(caught.value).startswith("SparseTensor: ")


@pytest.mark.parametrize(
    ("reduce", "expected"),
    [("first", [1, 2]), ("sum", [5, 7]), ("mean", [2.5, 3.5]), ("max", [4, 5]), ("min", [1, 2])],
)
def test_duplicates_are_merged_where_the_first_was(reduce: str, expected: list) -> None:
    coords = ints((0, 9), (0, 1), (0, 9), (0, 1))
    feats = torch.tensor([[1.0], [2.0], [4.0], [5.0]], requires_grad=True)
    x = fl.SparseTensor(coords, feats, reduce=reduce)
    assert x.coords.tolist() == [[0, 9], [0, 1]]
    assert x.feats[:, 0].tolist() == expected
    (gradient,) = torch.autograd.grad(x.feats.sum(), feats)
    assert float(gradient.sum()) == {"sum": 4.0}.get(reduce, 2.0)


def test_many_duplicates() -> None:
    """A detector's own test draws 200,000 rows from 256 coordinates."""
    generator = seeded("many")
    coords = torch.randint(0, 4, (20_000, 5), generator=generator, dtype=torch.int32)
    coords[:, 0] = 0
    x = fl.SparseTensor(coords, torch.ones(20_000, 2), reduce="sum")
    assert len(x) == 256
    assert float(x.feats[:, 0].sum()) == 20_000


def test_input_that_is_not_contiguous() -> None:
    """What torch.nonzero and transposes give: a peer reads it wrongly without a word."""
    coords = ints((0, 0, 1, 0), (3, 1, 4, 1), (5, 9, 2, 6)).t()  # [4, 3], column by column
    assert not coords.is_contiguous()
    feats = torch.randn(3, 4, generator=seeded("strided")).t()
    weight = torch.randn(3, 3, 3, 3, generator=seeded("weight"))
    y = fl.nn.functional.subm_conv(fl.SparseTensor(coords, feats), weight)
    plain = fl.SparseTensor(coords.contiguous(), feats.contiguous())
    assert torch.equal(y.feats, fl.nn.functional.subm_conv(plain, weight).feats)
    assert torch.equal(y.coords, coords)


# -- caches and aliases ----------------------------------------------------------------------------


def test_editing_what_was_handed_in_changes_nothing() -> None:
    coords = ints((0, 1), (0, 2))
    x = fl.SparseTensor(coords, torch.ones(2, 1))
    before = fl.nn.functional.subm_conv(x, torch.ones(3, 1, 1)).feats
    coords[:, 1] *= 2
    assert x.coords.tolist() == [[0, 1], [0, 2]]
    after = fl.nn.functional.subm_conv(x, torch.ones(3, 1, 1)).feats
    assert torch.equal(before, after)


@pytest.mark.parametrize("cached", [False, True])
def test_editing_what_is_handed_out_is_an_error(cached: bool) -> None:
    x = line(1, 2)
    if cached:
        fl.nn.MaxPool(2)(x)
    x.coords[:, 1] *= 2
    with pytest.raises(ValueError, match="edited in place"):
        fl.nn.MaxPool(2)(x)
    with pytest.raises(ValueError, match="edited in place"):
        x.prune(torch.tensor([True, False]))


def test_maps_are_made_once_and_follow_the_tensor() -> None:
    x = line(0, 1, 5, channels=4)
    layers = [fl.nn.SubmConv1d(4, 4, 3), fl.nn.ReLU(), fl.nn.SubmConv1d(4, 4, 3, bias=False)]
    y = fl.nn.Sequential(*layers)(x)
    assert y.maps is x.maps and y.level is x.level and len(x.maps.entries) == 1
    fl.nn.SubmConv1d(4, 4, 3, dilation=2)(y)
    fl.nn.SubmConv1d(4, 4, 5)(y)
    assert len(x.maps.entries) == 3


def test_two_levels_of_one_stride_are_told_apart() -> None:
    """Stride 2 by a kernel of 2 and by one of 3 are different coordinates."""
    x = line(3, 4, channels=2)
    two, three = fl.nn.Conv1d(2, 2, 2, 2)(x), fl.nn.Conv1d(2, 2, 3, 2, 1)(x)
    assert two.coords[:, 1].tolist() == [1, 2] and three.coords[:, 1].tolist() == [1, 2]
    three = fl.nn.Conv1d(2, 2, 3, 2)(x)
    assert three.coords[:, 1].tolist() == [1, 2]
    five = fl.nn.Conv1d(2, 2, 5, 2)(x)
    assert five.coords[:, 1].tolist() == [0, 1, 2]
    for y, size in ((two, 2), (five, 5)):
        assert fl.nn.InverseConv1d(2, 2, size, 2)(y).level is x.level
    with pytest.raises(ValueError, match=r"made by kernel_size=\(5,\), stride=\(2,\)"):
        fl.nn.InverseConv1d(2, 2, 2, 2)(five)
    with pytest.raises(ValueError, match="was made by none"):
        fl.nn.InverseConv1d(2, 2, 2, 2)(x)
    with pytest.raises(ValueError, match="Upsample"):
        fl.nn.Upsample(2)(x)


def test_maps_made_in_inference_serve_training() -> None:
    x = twin.random_tensor((5, 5, 5), 4, 1, seeded("inference"))
    model = network().double()
    with torch.inference_mode():
        expected = model(x).feats
        made = fl.SparseTensor(x.coords, x.feats, 1, x.spatial_range, 1)
        model(made)
    for tensor in (x, made.replace(x.feats)):
        y = model(tensor)
        twin.assert_close(y.feats.detach(), expected.clone())
        y.feats.sum().backward()


def test_maps_go_with_the_last_tensor() -> None:
    """Nothing waits for the garbage collector, which knows nothing of a GPU's memory."""
    layers = [fl.nn.SubmConv1d(1, 1, 3), fl.nn.Conv1d(1, 1, 2, 2), fl.nn.InverseConv1d(1, 1, 2, 2)]
    gc.collect()
    gc.disable()
    try:
        x = line(1, 2, 5)
        fl.nn.Sequential(*layers)(x).feats.sum().backward()
        held = [weakref.ref(x.maps), *(weakref.ref(f.kernel_map) for f in x.maps.entries.values())]
        del x
        assert [reference() for reference in held] == [None] * len(held)
        x = line(1, 2, 5)
        with pytest.raises(ValueError, match="channels"):
            fl.nn.SubmConv1d(2, 1, 3)(x)
        with pytest.raises(TypeError, match="dtype of features"):
            fl.nn.SubmConv1d(1, 1, 3).half()(x)
        held = [weakref.ref(x.maps)]
        del x
        assert held[0]() is None, "an error keeps nothing"
    finally:
        gc.enable()


def test_copies_and_pickles_leave_maps_behind() -> None:
    x = line(1, 5, stride=2, spatial_range=9, batch_size=3)
    fl.nn.MaxPool(2)(x)
    for other in (pickle.loads(pickle.dumps(x)), copy.deepcopy(x)):
        assert repr(other) == repr(x) and other.maps is not x.maps
        assert torch.equal(other.coords, x.coords) and torch.equal(other.feats, x.feats)
        assert not other.maps.entries
        fl.nn.MaxPool(2)(other)


# -- arithmetic ------------------------------------------------------------------------------------


def test_arithmetic_on_the_same_coordinates() -> None:
    x = line(1, 5)
    assert (x + x).feats[:, 0].tolist() == [2, 4]
    assert (x - x).feats[:, 0].tolist() == [0, 0]
    assert (x * 3 + 1).feats[:, 0].tolist() == [4, 7]
    assert (2 * x).feats[:, 0].tolist() == [2, 4]
    assert (x + torch.ones(2, 1)).feats[:, 0].tolist() == [2, 3]
    assert fl.sparse.cat([x, x, x]).channels == 3
    assert (x + line(1, 5)).level is x.level  # equal coordinates, made twice


def test_different_coordinates_are_named_with_the_way_out() -> None:
    for other in (line(1, 6), line(5, 1), line(1, 5, stride=2), line(1)):
        with pytest.raises(ValueError, match=r"__add__: other: .*union"):
            line(1, 5) + other
        with pytest.raises(ValueError, match=r"cat: tensors: .*union"):
            fl.sparse.cat([line(1, 5), other])


@pytest.mark.parametrize(
    ("reduce", "both"), [("sum", 3.0), ("mean", 1.5), ("max", 2.0), ("min", 1.0), ("first", 2.0)]
)
def test_union_and_intersection(reduce: str, both: float) -> None:
    a, b = line(9, 4), line(4, -2)
    assert float(a.feats[1]) == 2 and float(b.feats[0]) == 1  # at 4
    whole = fl.sparse.union(a, b, reduce=reduce)
    assert whole.coords[:, 1].tolist() == [-2, 4, 9]
    assert whole.feats[:, 0].tolist() == [2, both, 1]
    common = fl.sparse.intersection(a, b, reduce=reduce)
    assert common.coords.tolist() == [[0, 4]]
    assert common.feats[:, 0].tolist() == [both]


def test_union_checks_and_keeps_ranges() -> None:
    whole = fl.sparse.union(line(1, spatial_range=3), line(2, spatial_range=7, batch_size=4))
    assert whole.spatial_range == (7,) and whole.batch_size == 4
    assert fl.sparse.union(line(1, spatial_range=3), line(2)).spatial_range is None
    with pytest.raises(ValueError, match=r"union: tensors: expected stride \(1,\)"):
        fl.sparse.union(line(1), line(1, stride=2))
    with pytest.raises(ValueError, match="intersection: tensors: expected channels 1"):
        fl.sparse.intersection(line(1), line(1, channels=2))
    with pytest.raises(ValueError, match="at least one"):
        fl.sparse.union()


def test_prune_and_crop() -> None:
    x = line(-5, 3, 8, spatial_range=None)
    kept = x.prune(torch.tensor([True, False, True]))
    assert kept.coords[:, 1].tolist() == [-5, 8] and kept.maps is not x.maps
    assert x.crop(-5, 8).coords[:, 1].tolist() == [-5, 3]
    assert x.crop(low=3).coords[:, 1].tolist() == [3, 8]
    assert len(x.crop(high=LOWEST)) == 0
    with pytest.raises(TypeError, match="mask: expected bool"):
        x.prune(torch.ones(3))
    with pytest.raises(ValueError, match=r"mask: expected shape \[3\]"):
        x.prune(torch.ones(2, dtype=torch.bool))


def test_replace_checks_rows() -> None:
    with pytest.raises(ValueError, match=r"replace: feats: expected shape \[2, C\]"):
        line(1, 2).replace(torch.ones(3, 1))


def test_to_and_detach() -> None:
    x = line(1, 2)
    assert x.half().dtype == torch.float16 and x.half().level is x.level
    assert x.to(torch.float64).cpu().maps is x.maps
    assert x.to(x.half()).dtype == torch.float16
    grown = x.replace(x.feats.requires_grad_())
    assert "requires_grad" in repr(grown) and not grown.detach().feats.requires_grad
    elsewhere = x.to("meta")
    assert elsewhere.coords.device.type == "meta" and elsewhere.maps is not x.maps


# -- dense -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ndim", [1, 2, 3, 4])
def test_dense_and_back(ndim: int) -> None:
    x = twin.random_tensor((4, 3, 5, 2)[:ndim], 3, 2, seeded("dense", ndim))
    dense = x.dense()
    assert dense.shape == (2, 3, *(4, 3, 5, 2)[:ndim])
    back = fl.SparseTensor.from_dense(dense)
    assert torch.equal(back.dense(), dense)
    assert back.spatial_range == x.spatial_range and len(back) == len(x)
    for row in range(len(x)):
        item, *place = x.coords[row].tolist()
        assert torch.equal(dense[(item, slice(None), *place)], x.feats[row])
    assert torch.autograd.gradcheck(lambda f: x.replace(f).dense(), x.feats)
    assert torch.autograd.gradcheck(
        lambda d: fl.SparseTensor.from_dense(d, twin.occupancy(x)[:, 0] > 0).feats,
        dense.detach().requires_grad_(),
    )


def test_dense_of_part() -> None:
    x = line(-2, 0, 3)
    assert x.dense().tolist() == [[[1, 0, 2, 0, 0, 3]]]  # from the lowest to the highest
    assert x.dense(0, 5).tolist() == [[[2, 0, 0, 3, 0]]]
    assert x.dense(low=3).tolist() == [[[3]]]
    assert line(batch_size=2).dense().shape == (2, 1, 0)
    assert line(spatial_range=4, batch_size=2).dense().tolist() == [[[0] * 4]] * 2
    with pytest.raises(ValueError, match="crop first"):
        line(LOWEST, HIGHEST, channels=1024).dense()
    with pytest.raises(ValueError, match="from_dense: dense"):
        fl.SparseTensor.from_dense(torch.ones(3, 3))
    with pytest.raises(ValueError, match="from_dense: mask"):
        fl.SparseTensor.from_dense(torch.ones(1, 1, 3), torch.ones(1, 4, dtype=torch.bool))


# -- points ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum", "max", "min", "first"])
def test_from_points(reduction: str) -> None:
    generator = seeded("points")
    points = torch.randn(200, 3, generator=generator) * 2
    batch = torch.randint(0, 3, (200,), generator=generator)
    feats = torch.randn(200, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    size = (0.5, 1.0, 2.0)
    x, inverse = fl.SparseTensor.from_points(points, feats, size, batch, reduction)
    voxels = torch.cat([batch[:, None], (points.double() / torch.tensor(size)).floor()], 1).int()
    assert torch.equal(x.coords[inverse], voxels)
    assert torch.equal(x.coords, torch.unique(voxels, dim=0))
    for row in (0, 5, len(x) - 1):
        part = feats[inverse == row]
        reduce = {
            "mean": part.mean(0),
            "sum": part.sum(0),
            "max": part.amax(0),
            "min": part.amin(0),
            "first": part[0],
        }
        twin.assert_close(x.feats[row], reduce[reduction])
    x.feats.sum().backward()
    back = x.devoxelize(inverse=inverse)
    assert torch.equal(back, x.feats[inverse])
    nearest = x.devoxelize(points, size, batch)
    assert torch.equal(nearest, back)


def test_devoxelize_trilinear() -> None:
    """Between centres a linear function stays itself; alone, a voxel counts whole."""
    coords = torch.cartesian_prod(torch.arange(1), *[torch.arange(5)] * 3).int()
    feats = (coords[:, 1:].double() + 0.5) @ torch.tensor([[1.0], [10.0], [100.0]]).double() * 0.2
    x = fl.SparseTensor(coords, feats.requires_grad_(), stride=2)
    points = torch.rand(50, 3, generator=seeded("trilinear"), dtype=torch.float64) * 1.6 + 0.2
    got = x.devoxelize(points, 0.2, mode="trilinear")
    twin.assert_close(got, points @ torch.tensor([[1.0], [10.0], [100.0]]).double() / 2)
    assert torch.autograd.gradcheck(
        lambda f: x.replace(f).devoxelize(points[:5], 0.2, mode="trilinear"), x.feats
    )
    alone = line(3)
    assert alone.devoxelize(torch.tensor([[4.2]]), mode="trilinear").tolist() == [[1.0]]
    assert alone.devoxelize(torch.tensor([[9.0]]), mode="trilinear").tolist() == [[0.0]]


def test_points_that_no_voxel_holds() -> None:
    far = torch.tensor([[1e30], [-1e30], [float("nan")], [2.0**31], [3.5]])
    x = line(3, HIGHEST, LOWEST)
    assert x.devoxelize(far)[:, 0].tolist() == [0, 0, 0, 0, 1]
    assert x.devoxelize(far, mode="trilinear")[:3, 0].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"points": torch.tensor([[float("inf")]])}, "points: expected finite points"),
        ({"points": torch.tensor([[1e10]])}, "within 2\\^31 voxels"),
        ({"voxel_size": 0.0}, "voxel_size: expected a positive length"),
        ({"voxel_size": (1.0, 1.0)}, "voxel_size: expected a positive length"),
        ({"points": torch.ones(1)}, r"points: expected shape \[N, D\]"),
        ({"batch": torch.zeros(2, dtype=torch.int64)}, r"batch: expected shape \[1\]"),
        ({"batch": torch.tensor([-1])}, "batch items"),
        ({"reduction": "or"}, "reduction: expected one of"),
        ({"feats": torch.ones(3, 1)}, "feats: expected shape"),
    ],
)
def test_bad_points_are_named(arguments: dict, match: str) -> None:
    good = {"points": torch.ones(1, 1), "feats": torch.ones(1, 1), "voxel_size": 1.0}
    with pytest.raises(ValueError, match=match):
        fl.SparseTensor.from_points(**{**good, **arguments})


def test_devoxelize_checks() -> None:
    with pytest.raises(ValueError, match="either points or inverse"):
        line(1).devoxelize()
    with pytest.raises(ValueError, match="mode: expected one of"):
        line(1).devoxelize(torch.ones(1, 1), mode="cubic")
    with pytest.raises(ValueError, match=r"points: expected shape \[N, 1\]"):
        line(1).devoxelize(torch.ones(1, 3))


# -- quantize, hash, collate -----------------------------------------------------------------------


def test_quantize_and_hash() -> None:
    points = torch.tensor([[0.1, 0.1], [0.9, 0.9], [0.2, 0.3], [-0.1, 0.0]])
    voxels = fl.sparse.quantize(points, 0.5)
    assert voxels.coords.tolist() == [[0, -1, 0], [0, 0, 0], [0, 1, 1]]
    assert voxels.first.tolist() == [3, 0, 1] and voxels.counts.tolist() == [1, 2, 1]
    assert voxels.inverse.tolist() == [1, 2, 1, 0]
    keys = fl.sparse.hash(voxels.coords)
    assert keys.dtype == torch.int64 and len(set(keys.tolist())) == 3
    assert fl.sparse.hash_query(keys.flip(0), keys).tolist() == [2, 1, 0]
    none = fl.sparse.hash(ints((0, 7, 7)))
    assert fl.sparse.hash_query(none, keys).tolist() == [-1]
    assert fl.sparse.hash_query(none, keys[:0]).tolist() == [-1]
    assert fl.sparse.hash_query(keys[None], torch.cat([keys, keys])).tolist() == [[0, 1, 2]]
    with pytest.raises(TypeError, match="queries: expected int64"):
        fl.sparse.hash_query(keys.int(), keys)


def test_voxels_of_points_far_out_are_exact() -> None:
    """In float32 these points would all round to one voxel's face."""
    points = torch.tensor([[16777216.0], [16777218.0]])
    assert fl.sparse.quantize(points, 0.01).coords[:, 1].tolist() == [1677721600, 1677721800]


def test_collate() -> None:
    empty = line(batch_size=0)
    pair = fl.sparse.collate([line(1, 2), empty, line(1)])
    assert pair.coords.tolist() == [[0, 1], [0, 2], [2, 1]] and pair.batch_size == 3
    two = fl.sparse.collate([pair, pair])
    assert two.batch_size == 6 and two.coords[-1].tolist() == [5, 1]
    batch = fl.sparse.collate([{"x": line(1), "y": (7, [line(2)])}] * 2)
    assert batch["x"].coords[:, 0].tolist() == [0, 1]
    assert batch["y"][0].tolist() == [7, 7] and len(batch["y"][1][0]) == 2
    loader = torch.utils.data.DataLoader(
        [line(1), line(5), line(7)], batch_size=2, collate_fn=fl.sparse.collate
    )
    assert [len(x) for x in loader] == [2, 1]
    with pytest.raises(ValueError, match="expected channels 1 as in the first, got 2 in sample 1"):
        fl.sparse.collate([line(1), line(1, channels=2)])
    with pytest.raises(ValueError, match="at least one"):
        fl.sparse.collate([])


# -- extreme coordinates ---------------------------------------------------------------------------


@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_submanifold_at_the_ends_of_int32(dilation: int) -> None:
    places = [LOWEST, LOWEST + 1, LOWEST + 2, -1, 0, 1, HIGHEST - 1, HIGHEST]
    x = line(*places)
    y = fl.nn.functional.subm_conv(x, torch.ones(3, 1, 1), dilation=dilation)
    for row, place in enumerate(places):
        near = [i for i, p in enumerate(places) if abs(p - place) in (0, dilation)]
        assert float(y.feats[row]) == sum(i + 1 for i in near)


@pytest.mark.parametrize("kernel_size", [2, 3])
def test_strided_and_back_at_the_ends_of_int32(kernel_size: int) -> None:
    """Sums are taken in 64 bits; nothing wraps from one end to the other."""
    places = [LOWEST, LOWEST + 1, -3, 0, HIGHEST - 1, HIGHEST]
    x = line(*places)
    y = fl.nn.functional.conv(x, torch.ones(kernel_size, 1, 1), stride=2, padding=1)
    expected = {}
    for value, place in enumerate(places, 1):
        for tap in range(kernel_size):
            if (place + 1 - tap) % 2 == 0:
                coarse = (place + 1 - tap) // 2
                expected[coarse] = expected.get(coarse, 0) + value
    assert y.coords[:, 1].tolist() == sorted(expected)
    assert y.feats[:, 0].tolist() == [expected[c] for c in sorted(expected)]
    made = fl.nn.functional.conv_transpose(line(LOWEST, 0, HIGHEST), torch.ones(3, 1, 1), stride=1)
    assert made.coords[:, 1].tolist() == [LOWEST, LOWEST + 1, LOWEST + 2, 0, 1, 2, HIGHEST]


def test_more_positions_than_32_bits_count() -> None:
    """A peer reads a ravelled coordinate into 32 bits: batch x range^3 past 2^31 loses pairs."""
    generator = seeded("large")
    size = 2000
    coords = torch.randint(0, size, (500, 3), generator=generator, dtype=torch.int32)
    coords = torch.cat([coords, coords + torch.tensor([1, 0, 1]).int()])
    coords = torch.unique(coords, dim=0)
    batch = torch.arange(4).repeat_interleave(len(coords)).int()
    four = torch.cat([batch[:, None], coords.repeat(4, 1)], 1)
    x = fl.SparseTensor(four, torch.ones(len(four), 1), 1, size + 1)
    one = fl.SparseTensor(four[: len(coords)], torch.ones(len(coords), 1), 1, size + 1)
    for layer in (fl.nn.SumPool(3, 2, 1), fl.nn.SumPool(3, 1, 1), fl.nn.SumPool(2)):
        y, expected = layer(x), layer(one)
        assert torch.equal(y.feats, expected.feats.repeat(4, 1))
        assert torch.equal(y.coords[:, 1:], expected.coords[:, 1:].repeat(4, 1))


# -- nothing, one, empty items ---------------------------------------------------------------------


def network(channels: int = 4) -> torch.nn.Module:
    n = fl.nn
    return n.Sequential(
        n.SubmConv3d(channels, 8, 3),
        n.BatchNorm(8),
        n.ReLU(),
        n.Residual(n.Sequential(n.SubmConv3d(8, 8, 3), n.GroupNorm(2, 8)), activation=n.ReLU()),
        n.Conv3d(8, 8, 3, 2, 1),
        n.InstanceNorm(8),
        n.LayerNorm(8),
        n.SiLU(),
        n.InverseConv3d(8, 8, 3, 2),
        n.MaxPool(2),
        n.Upsample(2),
        n.ConvTranspose3d(8, 8, 2, 2),
        n.AvgPool(2),
        n.SubmConv3d(8, 2, 1),
    )


@pytest.mark.parametrize("bounded", [False, True])
def test_no_rows(bounded: bool) -> None:
    coords = torch.zeros(0, 4, dtype=torch.int32)
    feats = torch.zeros(0, 4, requires_grad=True)
    x = fl.SparseTensor(coords, feats, 1, 16 if bounded else None, 2)
    y = network()(x)
    assert len(y) == 0 and y.channels == 2 and y.batch_size == 2
    y.feats.sum().backward()
    assert fl.nn.GlobalAvgPool()(y).tolist() == [[0, 0]] * 2
    assert fl.sparse.union(x, x).feats.shape == (0, 4)
    if bounded:
        assert fl.nn.ToBEVDense()(y).shape == (2, 32, 16, 16)


def test_one_voxel() -> None:
    x = fl.SparseTensor(ints((0, 5, 5, 5)), torch.ones(1, 4))
    y = network().eval()(x)
    assert len(y) == 1 and bool(torch.isfinite(y.feats).all())
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        fl.nn.BatchNorm(4)(x)  # there is no variance of one value


def test_items_without_rows() -> None:
    """Item 1 of 3 is empty: the others are what they would be alone."""
    x = twin.random_tensor((6, 6, 6), 4, 2, seeded("items"))
    spaced = fl.SparseTensor(x.coords * torch.tensor([2, 1, 1, 1]).int(), x.feats, 1, 6, 3)
    model = network().double().eval()
    assert torch.equal(model(spaced).feats, model(x).feats)


@pytest.mark.parametrize("conv", ["Conv3d", "SubmConv3d", "ConvTranspose3d"])
def test_layers_name_what_does_not_fit(conv: str) -> None:
    layer = getattr(fl.nn, conv)(4, 8, 3)
    with pytest.raises(ValueError, match=f"{conv}: x: expected 4 channels, got 1"):
        layer(fl.SparseTensor(ints((0, 0, 0, 0)), torch.ones(1, 1)))
    with pytest.raises(ValueError, match="expected 3 dimensions, got 1"):
        layer(line(1, channels=4))
    with pytest.raises(TypeError, match="float64"):
        layer(fl.SparseTensor(ints((0, 0, 0, 0)), torch.ones(1, 4).double()))
    with pytest.raises(ValueError, match=f"{conv}: groups: expected a divisor"):
        getattr(fl.nn, conv)(4, 8, 3, groups=3)
    with pytest.raises(ValueError, match=f"{conv}: kernel_size: expected at least 1"):
        getattr(fl.nn, conv)(4, 8, 0)
    with pytest.raises(ValueError, match=f"{conv}: dilation: expected 3 numbers"):
        getattr(fl.nn, conv)(4, 8, 3, dilation=(1, 2))


def test_functions_name_what_does_not_fit() -> None:
    x = line(1, channels=4)
    f = fl.nn.functional
    with pytest.raises(ValueError, match="weight: expected 3 axes"):
        f.conv(x, torch.ones(3, 3, 4, 4))
    with pytest.raises(ValueError, match="multiple of the 3"):
        f.conv(x, torch.ones(3, 3, 4))
    with pytest.raises(ValueError, match="group_norm: groups"):
        f.group_norm(x, 3)
    with pytest.raises(ValueError, match="max_pool: padding: expected at least 0"):
        f.max_pool(x, 2, padding=-1)
    with pytest.raises(ValueError, match="global_pool: mode"):
        f.global_pool(x, "median")
    with pytest.raises(ValueError, match="residual: expected the coordinates of the output"):
        fl.nn.SubmConv1d(4, 4, 3)(x, residual=line(2, channels=4))
