// SPDX-License-Identifier: Apache-2.0
#include "core/registration.h"
#include "splat/draw_entry.h"

FL_LIBRARY_IMPL_CPU(m) {
  m.impl("splat_draw", TORCH_BOX(&fl::splat::splat_draw));
  m.impl("splat_draw_backward", TORCH_BOX(&fl::splat::splat_draw_backward));
}
