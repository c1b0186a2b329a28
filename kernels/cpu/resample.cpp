// Bilinear resampling of plain planes.
#include "../include/resample.h"

#include "cpu.h"

namespace BREW_ISA {

void bind_resample(py::module_& m) {
  const auto nc = [](const char* name) { return py::arg(name).noconvert(); };
  using Shape = std::vector<int>;
  const auto shape = [](const Shape& v, const Array& bottom, const Array& top) {
    const ResampleShape s{v.at(0), v.at(1), v.at(2), v.at(3), v.at(4), v.at(5), v.at(6), v.at(7)};
    require(s.top >= 0 && s.left >= 0 && s.height > 0 && s.width > 0 && s.out_height >= 0 && s.out_width >= 0 &&
            s.top <= s.plane_height - s.height && s.left <= s.plane_width - s.width, "resample: the part is not in the plane");
    const long planes = bottom.size() / volume({s.plane_height, s.plane_width});
    sized(volume({planes, s.out_height, s.out_width}), top);
    sized(volume({planes, s.plane_height, s.plane_width}), bottom);
    return s;
  };
  m.def("resample_forward", [=](const Array& x_, Array& y_, const Shape& v) {
    const ResampleShape s = shape(v, x_, y_);
    const float* x = x_.data(); float* y = y_.mutable_data(); const long n = y_.size(); Release _;
#pragma omp parallel for if (n > kGrain)
    for (long i = 0; i < n; ++i) y[i] = resample(x, s, i);
  }, nc("x"), nc("y"), py::arg("shape"));
  m.def("resample_backward", [=](const Array& dy_, Array& dx_, const Shape& v) {
    const ResampleShape s = shape(v, dx_, dy_);
    const float* dy = dy_.data(); float* dx = dx_.mutable_data(); const long n = dx_.size(); Release _;
#pragma omp parallel for if (n > kGrain)
    for (long i = 0; i < n; ++i) dx[i] = resample_grad(dy, s, i);
  }, nc("dy"), nc("dx"), py::arg("shape"));
}
}  // namespace BREW_ISA
