// From plain (N, C, spatial) to a grid with lanes, and back. Padding lanes are written as zeros.
#include "cpu.h"

namespace BREW_ISA {

// One image's block of lanes at a time: lanes are `spatial` apart in the plain array, side by side in the grid.
void to_lanes(const float* plain, float* out, const Grid& g) {
#pragma omp parallel for collapse(2) if (g.size() > kGrain)
  for (long n = 0; n < g.outer; ++n)
    for (long b = 0; b < g.blocks; ++b) {
      const float* x = plain + (n * g.channels + b * g.lanes) * g.spatial;
      float* y = out + (n * g.blocks + b) * g.spatial * g.lanes;
      const long used = g.lanes_of(b);
      for (long s = 0; s < g.spatial; ++s) {
        for (long l = 0; l < used; ++l) y[s * g.lanes + l] = x[l * g.spatial + s];
        for (long l = used; l < g.lanes; ++l) y[s * g.lanes + l] = 0;
      }
    }
}

void from_lanes(const float* in, float* plain, const Grid& g) {
#pragma omp parallel for collapse(2) if (g.size() > kGrain)
  for (long n = 0; n < g.outer; ++n)
    for (long b = 0; b < g.blocks; ++b) {
      const float* x = in + (n * g.blocks + b) * g.spatial * g.lanes;
      float* y = plain + (n * g.channels + b * g.lanes) * g.spatial;
      const long used = g.lanes_of(b);
      for (long l = 0; l < used; ++l)
        for (long s = 0; s < g.spatial; ++s) y[l * g.spatial + s] = x[s * g.lanes + l];
    }
}

void bind_layout(py::module_& m) {
  m.def("to_lanes", [](const Array& plain, Array& out, const std::vector<long>& shape) {
    const Grid g = grid(shape);
    sized(volume({g.outer, g.channels, g.spatial}), plain);
    sized(g.size(), out);
    const float* x = plain.data(); float* y = out.mutable_data(); Release _;
    to_lanes(x, y, g);
  }, py::arg("plain").noconvert(), py::arg("out").noconvert(), py::arg("grid"));
  m.def("from_lanes", [](const Array& in, Array& plain, const std::vector<long>& shape) {
    const Grid g = grid(shape);
    sized(g.size(), in);
    sized(volume({g.outer, g.channels, g.spatial}), plain);
    const float* x = in.data(); float* y = plain.mutable_data(); Release _;
    from_lanes(x, y, g);
  }, py::arg("in").noconvert(), py::arg("plain").noconvert(), py::arg("grid"));
}
}  // namespace BREW_ISA
