// Arrays from Python, and the checks of their sizes: kernels trust all sizes, so every binding compares them first. A
// mistake in Python is then an exception, never an access outside of an array.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <climits>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace py = pybind11;

// Contiguous float32; bound with .noconvert(): the result would be written to a converted copy and lost.
using Array = py::array_t<float, py::array::c_style>;
using Ints = py::array_t<std::int32_t, py::array::c_style>;
using Bytes = py::array_t<std::uint8_t, py::array::c_style>;
using Optional = std::optional<Array>;              // None, or an array; bound with .noconvert(), too

inline const float* pointer(const Optional& a) { return a ? a->data() : nullptr; }
inline float* mutable_pointer(Optional& a) { return a ? a->mutable_data() : nullptr; }

inline void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

// The product of extents: how many values a shape has. Throws if one is negative or the product exceeds 64 bits.
inline long volume(std::initializer_list<long> extents) {
  long n = 1;
  bool fits = true, empty = false;
  for (long e : extents) {
    require(e >= 0, "a negative extent");
    empty |= e == 0;
    fits &= !__builtin_mul_overflow(n, e, &n);
  }
  require(fits || empty, "the extents' product needs more than 64 bits");
  return empty ? 0 : n;
}

inline void sized_one(long n, long found) {
  if (found == n) return;
  throw std::invalid_argument("arrays of other sizes: one has " + std::to_string(found) + " values, its shape " + std::to_string(n));
}
inline void sized_one(long n, const py::array& a) { sized_one(n, (long)a.size()); }
inline void sized_one(long n, const Optional& a) { if (a) sized_one(n, (long)a->size()); }

// Throws unless all arrays have n values; absent ones have any number.
template <class... A>
inline void sized(long n, const A&... arrays) { (sized_one(n, arrays), ...); }

// Throws unless every index lies in 0..count - 1.
inline void check_indices(const Ints& index, long count, const char* what) {
  const std::int32_t* at = index.data();
  for (long i = 0, n = index.size(); i < n; ++i)
    if (at[i] < 0 || at[i] >= count)
      throw std::out_of_range(std::string(what) + " " + std::to_string(at[i]) + " is not in 0.." + std::to_string(count - 1));
}

// Throws unless every index lies in -1..count - 1; -1 is padding.
inline void check_padded(const Ints& index, long count, const char* what) {
  const std::int32_t* at = index.data();
  for (long i = 0, n = index.size(); i < n; ++i)
    if (at[i] < -1 || at[i] >= count)
      throw std::out_of_range(std::string(what) + " " + std::to_string(at[i]) + " is not in -1.." + std::to_string(count - 1));
}

// Throws unless starts rise from 0 or more to `end` or less: where each group of `end` places begins, and the last ends.
inline void check_starts(const Ints& starts, long end) {
  const std::int32_t* at = starts.data();
  for (long i = 0, n = starts.size(); i < n; ++i)
    require(at[i] >= (i ? at[i - 1] : 0) && at[i] <= end, "starts must rise, and not beyond the places");
}

// Geometry is computed with ints: throws unless windows of `kernel` pixels, `stride` apart, over `size` and `pad` more at
// each end stay within them. `reach`: from the first to the last pixel of a window.
inline void check_axis(long size, long out, long kernel, long stride, long pad, long reach) {
  require(size >= 0 && out >= 0 && kernel >= 0 && stride > 0 && pad >= 0,
          "an axis needs a stride above 0, and no negative extents");
  require(size + 2 * pad + reach + stride <= INT_MAX && (out - 1) <= (INT_MAX - reach) / stride,
          "the windows of an axis span 2^31 pixels or more");
}
