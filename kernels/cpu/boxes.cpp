// Non-maximum suppression of lists of boxes.
#include "../include/boxes.h"

#include "cpu.h"

namespace BREW_ISA {

void bind_boxes(py::module_& m) {
  const auto nc = [](const char* name) { return py::arg(name).noconvert(); };
  // boxes (lists, n, 4), best first, of which the first count[l] of list l hold boxes; kept (lists, n) becomes 1 or 0: a box
  // is kept unless it overlaps one that was kept before by more than the threshold.
  m.def("suppress", [](const Array& boxes_, const Ints& count_, Ints& kept_, float threshold, float eta) {
    const float* boxes = boxes_.data(); const int* count = count_.data(); int* kept = kept_.mutable_data();
    const long lists = boxes_.shape(0), n = boxes_.shape(1); Release _;
#pragma omp parallel for schedule(dynamic)
    for (long l = 0; l < lists; ++l) {
      const float* b = boxes + l * n * 4; int* k = kept + l * n;
      float limit = threshold;
      std::fill(k, k + n, 0);
      std::vector<int> good;
      for (int i = 0; i < count[l]; ++i) {
        bool keep = true;
        for (int j : good) if (box_overlap(b + 4 * i, b + 4 * j) > limit) { keep = false; break; }
        if (!keep) continue;
        k[i] = 1;
        good.push_back(i);
        limit = next_threshold(limit, eta);
      }
    }
  }, nc("boxes"), nc("count"), nc("kept"), py::arg("threshold"), py::arg("eta"));
}
}  // namespace BREW_ISA
