# SPDX-License-Identifier: Apache-2.0
"""A CUDA kernel of your own that walks rays through a VDB grid, over our headers and tensors.

python examples/traverse_in_your_kernel.py

With a GPU and pycuda (pip install pycuda), the kernel is compiled at run time and runs on the
grid's own tensors, without copies. Without, nvcc compiles it if there is one.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

import fieldline as fl

KERNEL = r"""
#include "vdb/walk.h"

using namespace fl::vdb;

// How much of the ray lies in voxels: a visitor is told of every region that the walk passes.
struct Thickness {
  static constexpr bool kEveryCell = false;  // empty regions may come as one
  static constexpr bool kFullLeaves = true;  // and so may 4 x 4 x 4 voxels that are all set
  float until, thickness;

  __device__ bool empty(float exit) { until = exit; return true; }
  __device__ bool occupied(float exit) {
    thickness += exit - until;
    until = exit;
    return true;  // false would end the walk
  }
};

extern "C" __global__ void thickness_kernel(const Node* tops, const Node* nodes,
                                            const uint64_t* leaves, int nx, int ny, int nz,
                                            const float* origins, const float* directions,
                                            float* thickness, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const Masks masks{tops, nodes, leaves, 1, {nx, ny, nz},
                    {(nx + 63) / 64, (ny + 63) / 64, (nz + 63) / 64}};
  const Ray ray = make_ray(origins + 3 * i, directions + 3 * i, 0.0f, 1e10f);
  const float box[6] = {0, 0, 0, float(nx), float(ny), float(nz)};
  float enter, leave;
  thickness[i] = 0.0f;
  if (!intersect(ray, box, enter, leave)) return;
  enter = fmaxf(enter, ray.near);
  auto walk = walk_in_index_space(ray, masks.resolution, enter, leave);
  Thickness visitor{enter, 0.0f};
  walk_masks(masks, 0, walk, visitor);
  thickness[i] = visitor.thickness;
}
"""


def ball(resolution: int) -> fl.VDBGrid:
    """A solid ball that fills the grid."""
    x = (torch.arange(resolution) + 0.5) / resolution * 2 - 1
    inside = x[:, None, None] ** 2 + x[None, :, None] ** 2 + x[None, None, :] ** 2 < 1
    return fl.VDBGrid.from_dense(inside)


def rays(resolution: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One ray through the middle of each voxel column, in index space."""
    middle = torch.arange(resolution) + 0.5
    x, y = torch.meshgrid(middle, middle, indexing="ij")
    origins = torch.stack([x, y, torch.full_like(x, -10.0)], dim=-1).reshape(-1, 3)
    return origins, torch.tensor([0.0, 0.0, 1.0]).expand_as(origins).contiguous()


def expected(grid: fl.VDBGrid, origins: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """The same from the ready-made operator."""
    found = fl.vdb.segments_along_rays(grid, origins, directions)
    length = found.t_exit - found.t_enter
    return torch.zeros(len(origins)).index_add(0, found.ray_indices.cpu(), length.cpu())


def run(resolution: int) -> float:
    """Compiles and runs the kernel with pycuda; returns the largest difference."""
    import pycuda.autoprimaryctx
    from pycuda.compiler import SourceModule

    module = SourceModule(
        KERNEL, include_dirs=[fl.cuda_include_dir()], no_extern_c=True, options=["-std=c++17"]
    )
    kernel = module.get_function("thickness_kernel")
    grid = ball(resolution).to("cuda")
    origins, directions = (t.cuda() for t in rays(resolution))
    thickness = torch.empty(len(origins), device="cuda")
    tensors = (grid.masks.tops, grid.masks.nodes, grid.masks.leaves)
    torch.cuda.synchronize()  # pycuda has a stream of its own
    kernel(
        *(pointer(t) for t in tensors),
        *(torch_int(n) for n in grid.masks.resolution),
        *(pointer(t) for t in (origins, directions, thickness)),
        torch_int(len(origins)),
        block=(128, 1, 1),
        grid=(-(-len(origins) // 128), 1),
    )
    pycuda.autoprimaryctx.context.synchronize()
    return float((thickness.cpu() - expected(grid, origins, directions)).abs().max())


def pointer(tensor: torch.Tensor):
    """A tensor's memory as pycuda takes it."""
    import numpy as np

    return np.uintp(tensor.data_ptr())


def torch_int(value: int):
    """A number as pycuda takes it."""
    import numpy as np

    return np.int32(value)


def compile_only(nvcc: str) -> None:
    """Compiles the kernel for sm_80."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "thickness.cu"
        source.write_text(KERNEL)
        options = ["-std=c++17", "-arch=sm_80", "-cubin", "-I", fl.cuda_include_dir()]
        target = str(source.with_suffix(".cubin"))
        subprocess.run([nvcc, *options, str(source), "-o", target], check=True)


def main(resolution: int = 100) -> str:
    """Runs the kernel where it can, compiles it where it cannot; says which."""
    if torch.cuda.is_available():
        return f"largest difference from segments_along_rays: {run(resolution):.2e} voxels"
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        return "no GPU to run the kernel on, and no nvcc to compile it with"
    compile_only(nvcc)
    return "no GPU to run the kernel on; nvcc compiled it"


if __name__ == "__main__":
    print(main())
