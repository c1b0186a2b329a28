// Sums, products and maxima of arrays of one shape, one thread per element.
#include "neuron.h"
#include "reduce.h"

extern "C" __global__ void linear(const float* x, float a, float* y, float b, long n) {      // y = a x + b y; b == 0: y is not read
  BREW_EACH(i, n) y[i] = b == 0 ? a * x[i] : a * x[i] + b * y[i];
}
extern "C" __global__ void add(const float* x, float a, const float* z, float b, float* y, int cut, long n) {      // y = a x + b z, or 0 where that is less and `cut`
  BREW_EACH(i, n) { const float v = a * x[i] + b * z[i]; y[i] = cut ? relu(v, 0.0f) : v; }
}
extern "C" __global__ void add_backward(const float* y, const float* dy, float a, float* dx, float b, float* dz, long n) {      // y only if it was cut
  BREW_EACH(i, n) { const float g = y ? relu_grad(y[i], dy[i], 0.0f) : dy[i]; dx[i] = a * g; dz[i] = b * g; }
}
extern "C" __global__ void multiply(const float* x, const float* y, float* z, long n) { BREW_EACH(i, n) z[i] = x[i] * y[i]; }
extern "C" __global__ void divide(const float* x, const float* y, float* z, long n) { BREW_EACH(i, n) z[i] = x[i] / y[i]; }

// Among the first two a tie goes to the second, later ones must be larger (Caffe).
extern "C" __global__ void maximum(const float* x, float* y, int* winner, int index, long n) {
  BREW_EACH(i, n) {
    const bool wins = index == 0 || (index == 1 ? !(y[i] > x[i]) : x[i] > y[i]);
    if (wins) { y[i] = x[i]; winner[i] = index; }
  }
}
extern "C" __global__ void maximum_backward(const float* dy, const int* winner, int index, float* dx, long n) {
  BREW_EACH(i, n) dx[i] = winner[i] == index ? dy[i] : 0.0f;
}

// y[index[n]] += x[n], row by row. The first of all equal indices adds for all of them, in their order: nothing races.
extern "C" __global__ void add_rows(const float* x, const int* index, float* y, int rows, int columns, long n) {
  BREW_EACH(i, n) {
    const int row = (int)(i / columns), c = (int)(i % columns), target = index[row];
    bool first = true;
    for (int k = 0; k < row && first; ++k) first = index[k] != target;
    if (!first) continue;
    float sum = 0;
    for (int k = row; k < rows; ++k) if (index[k] == target) sum += x[(long)k * columns + c];
    y[(long)target * columns + c] += sum;
  }
}
