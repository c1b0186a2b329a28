// Random arrays from Philox: element i depends on (key, stream, i) alone.
#include "../include/philox.h"

#include <cmath>

#include "cpu.h"

namespace BREW_ISA {

template <class F>
void words(long n, std::uint64_t key, std::uint64_t stream, F f) {
#pragma omp parallel for if (n > kGrain / 4)
  for (long block = 0; block < (n + 3) / 4; ++block) f(block * 4, std::min(n, block * 4 + 4), philox(block, stream, key));
}

void bind_random(py::module_& m) {
  const auto nc = [](const char* name) { return py::arg(name).noconvert(); };
  m.def("random_uniform", [](Array& x_, std::uint64_t key, std::uint64_t stream, float low, float high) {
    float* x = x_.mutable_data(); const long n = x_.size(); Release _;
    words(n, key, stream, [=](long i, long end, Words w) {
      const unsigned v[4] = {w.x, w.y, w.z, w.w};
      for (int k = 0; i < end; ++i, ++k) x[i] = low + (high - low) * unit(v[k]);
    });
  }, nc("x"), py::arg("key"), py::arg("stream"), py::arg("low"), py::arg("high"));
  // Two normal numbers from two words (Box and Muller 1958).
  m.def("random_normal", [](Array& x_, std::uint64_t key, std::uint64_t stream, float mean, float std) {
    float* x = x_.mutable_data(); const long n = x_.size(); Release _;
    words(n, key, stream, [=](long i, long end, Words w) {
      const unsigned v[4] = {w.x, w.y, w.z, w.w};
      for (int k = 0; i < end; ++i, ++k) {
        const double r = std::sqrt(-2 * std::log((double)unit(v[k & 2]))), angle = 6.283185307179586 * unit(v[k | 1]);
        x[i] = (float)(mean + std * r * (k & 1 ? std::sin(angle) : std::cos(angle)));
      }
    });
  }, nc("x"), py::arg("key"), py::arg("stream"), py::arg("mean"), py::arg("std"));
  m.def("random_words", [](py::array_t<std::uint32_t, py::array::c_style>& x_, std::uint64_t key, std::uint64_t stream) {
    std::uint32_t* x = x_.mutable_data(); const long n = x_.size(); Release _;
    words(n, key, stream, [=](long i, long end, Words w) {
      const unsigned v[4] = {w.x, w.y, w.z, w.w};
      for (int k = 0; i < end; ++i, ++k) x[i] = v[k];
    });
  }, nc("x"), py::arg("key"), py::arg("stream"));
}
}  // namespace BREW_ISA
