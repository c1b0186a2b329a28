// Rows of a matrix by their numbers: sparse inputs times weights, and the gradients of the rows that occur. A thread
// makes one value of the result, and adds in the order of the CPU's loops: nothing races, and runs are repeatable.
#include "reduce.h"

extern "C" __global__ void rows_forward(const float* x, const int* index, const float* w, float* y, int width,
                                        int columns, long n) {
  BREW_EACH(i, n) {
    const long item = i / columns, c = i % columns;
    float sum = y[i];
    for (long s = item * width; s < (item + 1) * width; ++s)
      if (index[s] >= 0) sum += x[s] * w[(long)index[s] * columns + c];
    y[i] = sum;
  }
}
extern "C" __global__ void rows_backward(const float* dy, const int* index, const float* w, float* dx, int width,
                                         int columns, long n) {
  BREW_EACH(i, n) {
    float sum = 0;
    if (index[i] >= 0)
      for (int c = 0; c < columns; ++c) sum += dy[i / width * columns + c] * w[(long)index[i] * columns + c];
    dx[i] = sum;
  }
}
extern "C" __global__ void sum_rows(const float* x, const float* scale, const int* order, const int* starts, float* y,
                                    int width, int columns, long n) {
  BREW_EACH(i, n) {
    const long r = i / columns, c = i % columns;
    float sum = 0;
    for (int e = starts[r]; e < starts[r + 1]; ++e)
      sum += (scale ? scale[order[e]] : 1.0f) * x[(long)(order[e] / width) * columns + c];
    y[i] = sum;
  }
}
