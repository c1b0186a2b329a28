// The portable convolution: im2col and a matrix product, for any number of spatial axes. Plain layout.
#include <cblas.h>

#include "../include/im2col.h"
#include "cpu.h"

namespace BREW_ISA {

void gemm(bool ta, bool tb, int m, int n, int k, float alpha, const float* a, const float* b, float beta, float* c) {
  scipy_cblas_sgemm(CblasRowMajor, ta ? CblasTrans : CblasNoTrans, tb ? CblasTrans : CblasNoTrans, m, n, k, alpha, a, ta ? m : k,
                    b, tb ? k : n, beta, c, n);
}

ConvShape conv_shape(const std::vector<int>& v) {   // axes, then for each axis: in, out, kernel, stride, pad, dilation
  ConvShape s;
  s.axes = v.at(0);
  if (s.axes > kMaxAxes) throw std::invalid_argument("a convolution has at most " + std::to_string(kMaxAxes) + " spatial axes");
  for (int a = 0; a < s.axes; ++a)
    s.axis[a] = {v.at(1 + 6 * a), v.at(2 + 6 * a), v.at(3 + 6 * a), v.at(4 + 6 * a), v.at(5 + 6 * a), v.at(6 + 6 * a)};
  return s;
}

void im2col(const float* image, float* columns, int channels, const ConvShape& s) {
  const long rows = (long)channels * kernel_count(s), width = out_count(s);
#pragma omp parallel for if (rows * width > kGrain)
  for (long r = 0; r < rows; ++r)
    for (long o = 0; o < width; ++o) {
      const long at = pixel_of(s, r, o);
      columns[r * width + o] = at < 0 ? 0.0f : image[at];
    }
}

// Columns that share a pixel lie in the same channel: channels may run on different threads.
void col2im(const float* columns, float* image, int channels, const ConvShape& s) {
  const long kernel = kernel_count(s), width = out_count(s), plane = in_count(s);
#pragma omp parallel for if (channels * kernel * width > kGrain)
  for (long c = 0; c < channels; ++c) {
    std::memset(image + c * plane, 0, plane * sizeof(float));
    for (long r = c * kernel; r < (c + 1) * kernel; ++r)
      for (long o = 0; o < width; ++o) {
        const long at = pixel_of(s, r, o);
        if (at >= 0) image[at] += columns[r * width + o];
      }
  }
}

struct Conv {
  ConvShape s;
  long images, channels, outputs, groups;
  long k() const { return channels / groups * kernel_count(s); }      // rows of columns in one group
  long width() const { return out_count(s); }
};

void forward(const Conv& v, const float* x, const float* w, const float* bias, float* y) {
  std::vector<float> columns(v.groups * v.k() * v.width());
  const long m = v.outputs / v.groups;
  for (long n = 0; n < v.images; ++n) {
    im2col(x + n * v.channels * in_count(v.s), columns.data(), (int)v.channels, v.s);
    float* out = y + n * v.outputs * v.width();
    for (long g = 0; g < v.groups; ++g)
      gemm(false, false, m, v.width(), v.k(), 1, w + g * m * v.k(), columns.data() + g * v.k() * v.width(), 0, out + g * m * v.width());
    if (bias)
      for (long o = 0; o < v.outputs; ++o)
        for (long i = 0; i < v.width(); ++i) out[o * v.width() + i] += bias[o];
  }
}

void backward_data(const Conv& v, const float* dy, const float* w, float* dx) {
  std::vector<float> columns(v.groups * v.k() * v.width());
  const long m = v.outputs / v.groups;
  for (long n = 0; n < v.images; ++n) {
    const float* out = dy + n * v.outputs * v.width();
    for (long g = 0; g < v.groups; ++g)
      gemm(true, false, v.k(), v.width(), m, 1, w + g * m * v.k(), out + g * m * v.width(), 0, columns.data() + g * v.k() * v.width());
    col2im(columns.data(), dx + n * v.channels * in_count(v.s), (int)v.channels, v.s);
  }
}

void backward_weights(const Conv& v, const float* x, const float* dy, float* dw, float* dbias, float beta) {
  std::vector<float> columns(v.groups * v.k() * v.width());
  const long m = v.outputs / v.groups;
  for (long n = 0; n < v.images; ++n) {
    im2col(x + n * v.channels * in_count(v.s), columns.data(), (int)v.channels, v.s);
    const float* out = dy + n * v.outputs * v.width();
    for (long g = 0; g < v.groups; ++g)
      gemm(false, true, m, v.k(), v.width(), 1, out + g * m * v.width(), columns.data() + g * v.k() * v.width(), n ? 1 : beta, dw + g * m * v.k());
    if (dbias)
      for (long o = 0; o < v.outputs; ++o) {
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (long i = 0; i < v.width(); ++i) sum += out[o * v.width() + i];
        dbias[o] = (n ? dbias[o] : beta * dbias[o]) + sum;
      }
  }
}

void bind_convolution(py::module_& m) {
  const auto nc = [](const char* name) { return py::arg(name).noconvert(); };
  const auto optional = [](py::object& o) { return o.is_none() ? nullptr : o.cast<Array>().mutable_data(); };
  using Shape = std::vector<int>;
  m.def("gemm", [](bool ta, bool tb, int rows, int cols, int inner, const Array& a, const Array& b, Array& c, float beta) {
    const float *p = a.data(), *q = b.data(); float* r = c.mutable_data(); Release _;
    gemm(ta, tb, rows, cols, inner, 1, p, q, beta, r);
  }, py::arg("ta"), py::arg("tb"), py::arg("rows"), py::arg("cols"), py::arg("inner"), nc("a"), nc("b"), nc("c"), py::arg("beta"));
  m.def("conv_forward", [=](const Array& x, const Array& w, py::object bias, Array& y, long images, long channels, long outputs, long groups, const Shape& shape) {
    const Conv v{conv_shape(shape), images, channels, outputs, groups};
    const float *a = x.data(), *b = w.data(), *c = optional(bias); float* d = y.mutable_data(); Release _;
    forward(v, a, b, c, d);
  }, nc("x"), nc("w"), py::arg("bias"), nc("y"), py::arg("images"), py::arg("channels"), py::arg("outputs"), py::arg("groups"), py::arg("shape"));
  m.def("conv_backward_data", [](const Array& dy, const Array& w, Array& dx, long images, long channels, long outputs, long groups, const Shape& shape) {
    const Conv v{conv_shape(shape), images, channels, outputs, groups};
    const float *a = dy.data(), *b = w.data(); float* d = dx.mutable_data(); Release _;
    backward_data(v, a, b, d);
  }, nc("dy"), nc("w"), nc("dx"), py::arg("images"), py::arg("channels"), py::arg("outputs"), py::arg("groups"), py::arg("shape"));
  m.def("conv_backward_weights", [=](const Array& x, const Array& dy, Array& dw, py::object dbias, float beta, long images, long channels, long outputs, long groups, const Shape& shape) {
    const Conv v{conv_shape(shape), images, channels, outputs, groups};
    const float *a = x.data(), *b = dy.data(); float *c = dw.mutable_data(), *d = optional(dbias); Release _;
    backward_weights(v, a, b, c, d, beta);
  }, nc("x"), nc("dy"), nc("dw"), py::arg("dbias"), py::arg("beta"), py::arg("images"), py::arg("channels"), py::arg("outputs"), py::arg("groups"), py::arg("shape"));
  m.def("im2col", [](const Array& image, Array& columns, int channels, const Shape& shape) {
    const ConvShape s = conv_shape(shape); const float* a = image.data(); float* b = columns.mutable_data(); Release _;
    im2col(a, b, channels, s);
  }, nc("image"), nc("columns"), py::arg("channels"), py::arg("shape"));
  m.def("col2im", [](const Array& columns, Array& image, int channels, const Shape& shape) {
    const ConvShape s = conv_shape(shape); const float* a = columns.data(); float* b = image.mutable_data(); Release _;
    col2im(a, b, channels, s);
  }, nc("columns"), nc("image"), py::arg("channels"), py::arg("shape"));
  m.def("set_blas_threads", [](int n) { scipy_openblas_set_num_threads(n); });
}
}  // namespace BREW_ISA
