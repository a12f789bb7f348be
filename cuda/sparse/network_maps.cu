// SPDX-License-Identifier: Apache-2.0
//
// CUDA schedule of all maps of a network: a launch or a few for each kind of thing, whatever the
// number of maps.
#include "core/device_guard.h"
#include "core/registration.h"
#include "sparse/network_pairs_cuda.h"
#include "sparse/network_schedules_cuda.h"
#include "sparse/network_tables_cuda.h"

namespace fl::sparse {
namespace {

struct CudaNetwork {
  static NetworkTensors run(const Network& network) {
    const DeviceGuard guard(network.sets[0].get_device_index());
    const Stream stream = current_stream(network.sets[0].get_device_index());
    const NetworkTables tables(network, stream);
    tables.make();
    NetworkPairs pairs(network, tables, stream);
    pairs.count();
    const NetworkSchedules schedules(network, tables, stream);
    schedules.make();
    pairs.list();
    return {tables.all_slots(), tables.all_tables(), schedules.all(),
            pairs.all_rows(),   pairs.all_starts(),  host_numbers(pairs.totals())};
  }
};

}  // namespace

FL_LIBRARY_IMPL_CUDA(m) {
  m.impl("sparse_network_maps", TORCH_BOX(&sparse_network_maps<CudaNetwork>));
}

}  // namespace fl::sparse
