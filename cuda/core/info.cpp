// SPDX-License-Identifier: Apache-2.0
//
// What `fieldline doctor` asks the core: the instruction set that its CPU kernels run at.
#include "core/isa.h"
#include "core/registration.h"

namespace fl {
namespace {

int64_t core_isa() { return static_cast<int64_t>(isa()); }

}  // namespace
}  // namespace fl

STABLE_TORCH_LIBRARY_FRAGMENT(fieldline, m) { m.def("core_isa() -> int"); }

// No argument carries a device, so the operator belongs to all of them.
STABLE_TORCH_LIBRARY_IMPL(fieldline, CompositeExplicitAutograd, m) {
  m.impl("core_isa", TORCH_BOX(&fl::core_isa));
}
