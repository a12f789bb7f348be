// SPDX-License-Identifier: Apache-2.0
//
// How an operator reaches torch: one schema, one implementation a backend.
//
//   ops.cpp      FL_LIBRARY_FRAGMENT(m)   { m.def("name(Tensor x) -> Tensor"); }
//   *_cpu.cpp    FL_LIBRARY_IMPL_CPU(m)   { m.impl("name", TORCH_BOX(&name_cpu)); }
//   *.cu         FL_LIBRARY_IMPL_CUDA(m)  { m.impl("name", TORCH_BOX(&name_cuda)); }
//
// The emulated build compiles ops.cpp and the .cu files a second time with FL_EMULATE: the same
// schemas then appear as torch.ops.fieldline_emulated.* and the CUDA code serves CPU tensors.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#ifdef FL_EMULATE
#define FL_NAMESPACE fieldline_emulated
#define FL_CUDA_KEY CPU
#else
#define FL_NAMESPACE fieldline
#define FL_CUDA_KEY CUDA
#endif

#define FL_LIBRARY_FRAGMENT(m) STABLE_TORCH_LIBRARY_FRAGMENT(FL_NAMESPACE, m)
#define FL_LIBRARY_IMPL_CPU(m) STABLE_TORCH_LIBRARY_IMPL(FL_NAMESPACE, CPU, m)
#define FL_LIBRARY_IMPL_CUDA(m) STABLE_TORCH_LIBRARY_IMPL(FL_NAMESPACE, FL_CUDA_KEY, m)
