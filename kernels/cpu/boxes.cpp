// Non-maximum suppression of lists of boxes.
#include "../include/boxes.h"

#include "cpu.h"

namespace BREW_ISA {

void bind_boxes(py::module_& m) {
  const auto nc = [](const char* name) { return py::arg(name).noconvert(); };
  // boxes (lists, n, 4), best first, of which the first count[l] of list l hold boxes; kept (lists, n) becomes 1 or 0: a box
  // is kept unless it overlaps one that was kept before by more than the threshold.
  m.def("suppress", [](const Array& boxes_, const Ints& count_, Ints& kept_, float threshold, float eta) {
    require(boxes_.ndim() == 3 && boxes_.shape(2) == 4, "suppress: boxes need the shape (lists, n, 4)");
    sized(boxes_.shape(0), count_);
    sized(boxes_.shape(0) * boxes_.shape(1), kept_);
    check_indices(count_, boxes_.shape(1) + 1, "count");
    const float* boxes = boxes_.data(); const int* count = count_.data(); int* kept = kept_.mutable_data();
    const long lists = boxes_.shape(0), n = boxes_.shape(1); Release _;
    const PerThread<int> kept_before(n, true);
#pragma omp parallel for schedule(dynamic)
    for (long l = 0; l < lists; ++l) {
      const float* b = boxes + l * n * 4; int* k = kept + l * n;
      float limit = threshold;
      std::fill(k, k + n, 0);
      int *good = kept_before.mine(), many = 0;
      for (int i = 0; i < count[l]; ++i) {
        bool keep = true;
        for (int j = 0; j < many && keep; ++j) keep = !(box_overlap(b + 4 * i, b + 4 * good[j]) > limit);
        if (!keep) continue;
        k[i] = 1;
        good[many++] = i;
        limit = next_threshold(limit, eta);
      }
    }
  }, nc("boxes"), nc("count"), nc("kept"), py::arg("threshold"), py::arg("eta"));
}
}  // namespace BREW_ISA
