// Softmax and its cross entropy on plain (outer, classes, inner) arrays, one thread per position.
#include "reduce.h"
#include "softmax.h"

extern "C" __global__ void softmax_forward(const float* x, float* y, int classes, int inner, long n) {
  BREW_EACH(p, n) {
    const long first = p / inner * classes * inner + p % inner;
    float most = x[first], sum = 0;
    for (int c = 1; c < classes; ++c) most = fmaxf(most, x[first + (long)c * inner]);
    for (int c = 0; c < classes; ++c) sum += y[first + (long)c * inner] = expf(x[first + (long)c * inner] - most);
    for (int c = 0; c < classes; ++c) y[first + (long)c * inner] /= sum;
  }
}
extern "C" __global__ void softmax_backward(const float* y, const float* dy, float* dx, int classes, int inner, long n) {
  BREW_EACH(p, n) {
    const long first = p / inner * classes * inner + p % inner;
    float dot = 0;
    for (int c = 0; c < classes; ++c) dot += y[first + (long)c * inner] * dy[first + (long)c * inner];
    for (int c = 0; c < classes; ++c) { const long i = first + (long)c * inner; dx[i] = y[i] * (dy[i] - dot); }
  }
}
// state[p]: 1 counted, 0 ignored, -1 a label out of range
extern "C" __global__ void cross_entropy_forward(const float* p, const float* label, float* loss, int* state, int classes, int inner, int has_ignore, int ignore, float smoothing, long n) {
  BREW_EACH(i, n) {
    const long c = class_of(label[i]);
    loss[i] = 0;
    if (has_ignore && c == ignore) state[i] = 0;
    else if (!is_class(label[i], classes)) state[i] = -1;
    else { state[i] = 1; loss[i] = cross_entropy(p + i / inner * classes * inner + i % inner, inner, (int)c, classes, smoothing); }
  }
}
extern "C" __global__ void cross_entropy_backward(const float* p, const float* label, const float* weights, float* dx, int classes, int inner, int has_ignore, int ignore,
                                                  float smoothing, float weight, long n) {
  BREW_EACH(i, n) {
    const long target = class_of(label[i]), first = i / inner * classes * inner + i % inner;
    const bool ignored = has_ignore && target == ignore, wrong = !ignored && !is_class(label[i], classes);
    // A label that forward did not see, and that is no class: the gradient is NaN, for an error would have to wait for the GPU.
    const float w = ignored ? 0.0f : wrong ? nanf("") : weights ? weights[i] * weight : weight;
    for (int c = 0; c < classes; ++c) { const long k = first + (long)c * inner; dx[k] = w == 0 ? 0.0f : (p[k] - label_share(c == target, smoothing, classes)) * w; }
  }
}
