// What every CPU kernel file shares: the channel grid, scratch memory, and when a loop is worth two threads.
#pragma once
#include <omp.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include "arguments.h"

// A loop over fewer elements than this runs on one thread: waking the others takes longer.
constexpr long kGrain = 8192;

// Any layout of (N, C, ...) seen as (outer, blocks, spatial, lanes): plain is (N, C, HW, 1), channels-last is
// (N, 1, HW, C), blocked by 16 is (N, C/16, HW, 16) with the last block padded by zeros.
struct Grid {
  long outer, blocks, spatial, lanes, channels;
  long size() const { return outer * blocks * spatial * lanes; }
  long lanes_of(long block) const { return std::min(lanes, channels - block * lanes); }   // lanes that hold channels
};
inline Grid grid(const std::vector<long>& v) {
  const Grid g{v.at(0), v.at(1), v.at(2), v.at(3), v.at(4)};
  volume({g.outer, g.blocks, g.spatial, g.lanes});
  require(g.lanes > 0 && g.channels >= 0 && g.blocks == (g.channels + g.lanes - 1) / g.lanes, "the grid's blocks do not hold its channels");
  if (g.spatial == 1 && g.lanes == 1) return {1, 1, g.outer, g.blocks, g.channels};      // rows of channels: the same order
  return g;
}

// f(i) for every i < n, each thread a range of its own. f is copied into each thread: through a shared one the compiler
// would reload its pointers at every step, and not vectorise (measured: ReLU 2.0 ms, and 0.04 so).
template <class F>
inline void each(long n, F f) {
#pragma omp parallel if (n > kGrain)
  {
    const long threads = omp_get_num_threads(), t = omp_get_thread_num();
    const long begin = n * t / threads, end = n * (t + 1) / threads;
    const F g = f;
#pragma omp simd
    for (long i = begin; i < end; ++i) g(i);
  }
}

// Scratch for the threads of a parallel region, allocated before it: an exception inside a region would end the process.
// Contents are undefined. `parallel`: the region's own condition for running on more than one thread.
template <class T>
class PerThread {
 public:
  PerThread(long each, bool parallel)
      : each_((each + kLine - 1) / kLine * kLine + kLine), data_(new T[(std::size_t)volume({each_, parallel ? omp_get_max_threads() : 1})]) {}
  T* mine() const { return data_.get() + each_ * omp_get_thread_num(); }

 private:
  static constexpr long kLine = 64 / sizeof(T);       // threads write to different cache lines
  long each_;
  std::unique_ptr<T[]> data_;
};

// Memory that lasts from call to call.
struct Buffer {
  float* at = nullptr;
  size_t size = 0;
  ~Buffer() { std::free(at); }
  float* get(long floats) {
    const size_t bytes = ((size_t)floats * sizeof(float) + 63) / 64 * 64;
    if (bytes > size) {
      std::free(at);
      at = static_cast<float*>(std::aligned_alloc(64, bytes));
      size = at ? bytes : 0;
      if (!at) throw std::bad_alloc();
    }
    return at;
  }
};

// A kernel is bound as: take pointers, let other Python threads run, compute.
using Release = py::gil_scoped_release;
