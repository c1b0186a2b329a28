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

// y = (x - mean) scale for cropped images x (n, channels, out_h, out_w) of bytes. The mean is none, one value, one for each
// channel, or one for each pixel of the uncropped image; `crops` are its top, left and mirror for each image.
extern "C" __global__ void normalize(const unsigned char* x, const int* crops, const float* mean, float scale, float* y, int means,
                                     int channels, int out_h, int out_w, int height, int width, long n) {
  BREW_EACH(i, n) {
    const int w = (int)(i % out_w), h = (int)(i / out_w % out_h), c = (int)(i / out_w / out_h % channels);
    const int* at = crops + 3 * (i / out_w / out_h / channels);
    float m = 0;
    if (means > channels) m = mean[((long)c * height + at[0] + h) * width + at[1] + (at[2] ? out_w - 1 - w : w)];
    else if (means) m = mean[means == 1 ? 0 : c];
    y[i] = ((float)x[i] - m) * scale;
  }
}
