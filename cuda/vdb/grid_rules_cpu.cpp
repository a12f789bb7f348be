// SPDX-License-Identifier: Apache-2.0
//
// CPU schedule of rules: threads over tops, each from the top down, empty children left out at
// once.
#include "core/registration.h"
#include "vdb/grid_assemble_cpu.h"
#include "vdb/grid_rules_entry.h"

namespace fl::vdb {
namespace {

struct CpuRules {
  template <typename Rule>
  static MaskTensors run(const Rule& rule, const Tensor& like) {
    return assemble_tops(like, rule.shape, [&](int64_t t, Run& part) {
      const Place top = top_place(rule.shape, t);
      part.add_top(t, rule.template word<Height::top>(top), [&](int bit, uint64_t* words) {
        const Place node = child_place<Height::top>(top, bit);
        uint64_t mask = 0;
        for (uint64_t left = rule.template word<Height::node>(node); left != 0; left &= left - 1) {
          const int leaf = lowest_bit(left);
          const uint64_t word =
              rule.template word<Height::leaf>(child_place<Height::node>(node, leaf));
          if (word == 0) continue;
          words[count_bits(mask)] = word;
          mask |= uint64_t{1} << leaf;
        }
        return mask;
      });
    });
  }
};

}  // namespace

FL_LIBRARY_IMPL_CPU(m) {
  m.impl("vdb_combine", TORCH_BOX(&vdb_combine<CpuRules>));
  m.impl("vdb_morph", TORCH_BOX(&vdb_morph<CpuRules>));
  m.impl("vdb_resample", TORCH_BOX(&vdb_resample<CpuRules>));
}

}  // namespace fl::vdb
