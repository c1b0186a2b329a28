// The portable convolution: im2col and a matrix product, for any number of spatial axes. Plain layout.
#include <cblas.h>

#include <mutex>
#include <shared_mutex>

#include "../include/im2col.h"
#include "cpu.h"

namespace BREW_ISA {

// OpenBLAS has one number of threads for the process. Products of Python threads that want the same number run side by
// side; one that wants another waits until they are done.
std::shared_mutex blas;
int blas_threads = 0;

std::shared_lock<std::shared_mutex> with_blas_threads(int wanted) {
  for (;;) {
    std::shared_lock<std::shared_mutex> lock(blas);
    if (blas_threads == wanted) return lock;
    lock.unlock();
    std::unique_lock<std::shared_mutex> alone(blas);
    scipy_openblas_set_num_threads(blas_threads = wanted);
  }
}

void gemm(bool ta, bool tb, int m, int n, int k, float alpha, const float* a, const float* b, float beta, float* c) {
  const auto lock = with_blas_threads(omp_get_max_threads());
  scipy_cblas_sgemm(CblasRowMajor, ta ? CblasTrans : CblasNoTrans, tb ? CblasTrans : CblasNoTrans, m, n, k, alpha, a, ta ? m : k,
                    b, tb ? k : n, beta, c, n);
}

ConvShape conv_shape(const std::vector<int>& v) {   // axes, then for each axis: in, out, kernel, stride, pad, dilation
  ConvShape s;
  s.axes = v.at(0);
  if (s.axes < 0 || s.axes > kMaxAxes) throw std::invalid_argument("a convolution has at most " + std::to_string(kMaxAxes) + " spatial axes");
  long in = 1, out = 1, kernel = 1;                   // the products that in_count() and others will take
  for (int a = 0; a < s.axes; ++a) {
    const ConvAxis& x = s.axis[a] = {v.at(1 + 6 * a), v.at(2 + 6 * a), v.at(3 + 6 * a), v.at(4 + 6 * a), v.at(5 + 6 * a), v.at(6 + 6 * a)};
    require(x.dilation > 0, "an axis needs a dilation above 0");
    check_axis(x.in, x.out, x.kernel, x.stride, x.pad, (x.kernel - 1L) * x.dilation + 1);
    in = volume({in, x.in});
    out = volume({out, x.out});
    kernel = volume({kernel, x.kernel});
  }
  return s;
}

// The outputs of one line (all but the last axis fixed) that kernel element `element` takes from the image: output `first`
// <= o < `last` sees pixel `start` + o * stride of the channel. Divisions are made once for a line, not for each pixel.
struct Line { long start; int first, last, stride; };
Line line_of(const ConvShape& s, long element, long outer) {
  const ConvAxis& x = s.axis[s.axes - 1];
  const int shift = (int)(element % x.kernel) * x.dilation - x.pad;
  element /= x.kernel;
  Line line{0, 0, 0, x.stride};
  long step = x.in;
  for (int a = s.axes - 2; a >= 0; --a) {
    const ConvAxis& y = s.axis[a];
    const long i = outer % y.out * y.stride - y.pad + element % y.kernel * y.dilation;
    if (i < 0 || i >= y.in) return line;
    line.start += i * step;
    step *= y.in;
    outer /= y.out;
    element /= y.kernel;
  }
  line.start += shift;
  line.first = shift < 0 ? std::min((-shift + x.stride - 1) / x.stride, x.out) : 0;
  line.last = shift >= x.in ? 0 : std::min((x.in - 1 - shift) / x.stride + 1, x.out);
  if (line.last < line.first) line.last = line.first;
  return line;
}
int line_length(const ConvShape& s) { return s.axis[s.axes - 1].out; }

void im2col(const float* image, float* columns, int channels, const ConvShape& s) {
  const long kernel = kernel_count(s), rows = channels * kernel, width = out_count(s), plane = in_count(s);
  if (!s.axes) { std::memcpy(columns, image, channels * sizeof(float)); return; }
  const int length = line_length(s);
  const long lines = length ? width / length : 0;
#pragma omp parallel for if (rows * width > kGrain)
  for (long r = 0; r < rows; ++r)
    for (long outer = 0; outer < lines; ++outer) {
      const Line line = line_of(s, r % kernel, outer);
      const float* from = image + r / kernel * plane + line.start;
      float* to = columns + r * width + outer * length;
      std::fill(to, to + line.first, 0.0f);
      if (line.stride == 1) std::copy(from + line.first, from + line.last, to + line.first);
      else for (int o = line.first; o < line.last; ++o) to[o] = from[(long)o * line.stride];
      std::fill(to + line.last, to + length, 0.0f);
    }
}

// Columns that share a pixel lie in the same channel: channels may run on different threads.
void col2im(const float* columns, float* image, int channels, const ConvShape& s) {
  const long kernel = kernel_count(s), width = out_count(s), plane = in_count(s);
  if (!s.axes) { std::memcpy(image, columns, channels * sizeof(float)); return; }
  const int length = line_length(s);
  const long lines = length ? width / length : 0;
#pragma omp parallel for if (channels * kernel * width > kGrain)
  for (long c = 0; c < channels; ++c) {
    std::memset(image + c * plane, 0, plane * sizeof(float));
    for (long k = 0; k < kernel; ++k)
      for (long outer = 0; outer < lines; ++outer) {
        const Line line = line_of(s, k, outer);
        const float* from = columns + (c * kernel + k) * width + outer * length;
        float* to = image + c * plane + line.start;
        for (int o = line.first; o < line.last; ++o) to[(long)o * line.stride] += from[o];
      }
  }
}

struct Conv {
  ConvShape s;
  long images, channels, outputs, groups;
  long k() const { return channels / groups * kernel_count(s); }      // rows of columns in one group
  long width() const { return out_count(s); }
};

// The convolution of arrays of these sizes.
Conv conv(const std::vector<int>& shape, long images, long channels, long outputs, long groups, const Array& x, const Array& w, const Optional& bias, const Array& y) {
  const Conv v{conv_shape(shape), images, channels, outputs, groups};
  require(groups > 0 && channels % groups == 0 && outputs % groups == 0, "groups must divide the channels and the outputs");
  require(volume({channels / groups, kernel_count(v.s)}) <= INT_MAX && v.width() <= INT_MAX && outputs <= INT_MAX && channels <= INT_MAX, "a matrix has at most 2^31 - 1 rows");
  volume({channels, kernel_count(v.s), v.width()});
  sized(volume({images, channels, in_count(v.s)}), x);
  sized(volume({outputs, channels / groups, kernel_count(v.s)}), w);
  sized(volume({images, outputs, v.width()}), y);
  sized(outputs, bias);
  return v;
}

void add_bias(const Conv& v, const float* bias, float* out) {         // of one image
  for (long o = 0; o < v.outputs; ++o)
    for (long i = 0; i < v.width(); ++i) out[o * v.width() + i] += bias[o];
}

// One channel to a group: a matrix product of one row would be mostly im2col. f(line of x's plane, where it begins in y's
// plane, kernel element) for all lines that meet.
template <class F>
void each_line(const ConvShape& s, F f) {
  const long kernel = kernel_count(s), width = out_count(s);
  const int length = line_length(s);
  const long lines = length ? width / length : 0;
  for (long outer = 0; outer < lines; ++outer)
    for (long k = 0; k < kernel; ++k) f(line_of(s, k, outer), outer * length, k);
}
bool depthwise(const Conv& v) { return v.groups == v.channels && v.groups > 1 && v.s.axes > 0; }

void depthwise_forward(const Conv& v, const float* x, const float* w, const float* bias, float* y) {
  const long kernel = kernel_count(v.s), width = v.width(), plane = in_count(v.s), each = v.outputs / v.channels;
#pragma omp parallel for if (v.images * v.outputs * width > kGrain)
  for (long i = 0; i < v.images * v.outputs; ++i) {
    const float *image = x + i / each * plane, *filter = w + i % v.outputs * kernel;
    float* out = y + i * width;
    std::fill(out, out + width, bias ? bias[i % v.outputs] : 0.0f);
    each_line(v.s, [=](const Line& line, long at, long k) {
      const float f = filter[k];
      if (line.stride == 1) {
#pragma omp simd
        for (int o = line.first; o < line.last; ++o) out[at + o] += f * image[line.start + o];
      } else {
        for (int o = line.first; o < line.last; ++o) out[at + o] += f * image[line.start + (long)o * line.stride];
      }
    });
  }
}
void depthwise_data(const Conv& v, const float* dy, const float* w, float* dx) {
  const long kernel = kernel_count(v.s), width = v.width(), plane = in_count(v.s), each = v.outputs / v.channels;
#pragma omp parallel for if (v.images * v.channels * plane > kGrain)
  for (long i = 0; i < v.images * v.channels; ++i) {
    float* image = dx + i * plane;
    std::memset(image, 0, plane * sizeof(float));
    for (long m = 0; m < each; ++m) {
      const float *out = dy + (i * each + m) * width, *filter = w + (i % v.channels * each + m) * kernel;
      each_line(v.s, [=](const Line& line, long at, long k) {
        const float f = filter[k];
        if (line.stride == 1) {
#pragma omp simd
          for (int o = line.first; o < line.last; ++o) image[line.start + o] += f * out[at + o];
        } else {
          for (int o = line.first; o < line.last; ++o) image[line.start + (long)o * line.stride] += f * out[at + o];
        }
      });
    }
  }
}
void depthwise_weights(const Conv& v, const float* x, const float* dy, float* dw, float beta) {
  const long kernel = kernel_count(v.s), width = v.width(), plane = in_count(v.s), each = v.outputs / v.channels;
  const bool parallel = v.images * v.outputs * width > kGrain;
  const PerThread<float> scratch(kernel, parallel);
#pragma omp parallel for if (parallel)
  for (long output = 0; output < v.outputs; ++output) {
    float* total = scratch.mine();
    std::fill(total, total + kernel, 0.0f);
    for (long n = 0; n < v.images; ++n) {
      const float *image = x + (n * v.channels + output / each) * plane, *out = dy + (n * v.outputs + output) * width;
      each_line(v.s, [=](const Line& line, long at, long k) {
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int o = line.first; o < line.last; ++o) sum += out[at + o] * image[line.start + (long)o * line.stride];
        total[k] += sum;
      });
    }
    for (long k = 0; k < kernel; ++k) dw[output * kernel + k] = (beta == 0 ? 0 : beta * dw[output * kernel + k]) + total[k];
  }
}

void forward(const Conv& v, const float* x, const float* w, const float* bias, float* y) {
  if (depthwise(v)) { depthwise_forward(v, x, w, bias, y); return; }
  std::vector<float> columns(v.groups * v.k() * v.width());
  const long m = v.outputs / v.groups;
  for (long n = 0; n < v.images; ++n) {
    im2col(x + n * v.channels * in_count(v.s), columns.data(), (int)v.channels, v.s);
    float* out = y + n * v.outputs * v.width();
    for (long g = 0; g < v.groups; ++g)
      gemm(false, false, m, v.width(), v.k(), 1, w + g * m * v.k(), columns.data() + g * v.k() * v.width(), 0, out + g * m * v.width());
    if (bias) add_bias(v, bias, out);
  }
}

void backward_data(const Conv& v, const float* dy, const float* w, float* dx) {
  if (depthwise(v)) { depthwise_data(v, dy, w, dx); return; }
  std::vector<float> columns(v.groups * v.k() * v.width());
  const long m = v.outputs / v.groups;
  for (long n = 0; n < v.images; ++n) {
    const float* out = dy + n * v.outputs * v.width();
    for (long g = 0; g < v.groups; ++g)
      gemm(true, false, v.k(), v.width(), m, 1, w + g * m * v.k(), out + g * m * v.width(), 0, columns.data() + g * v.k() * v.width());
    col2im(columns.data(), dx + n * v.channels * in_count(v.s), (int)v.channels, v.s);
  }
}

void add_bias_gradient(const Conv& v, const float* out, float* dbias, float beta) {      // of one image
  for (long o = 0; o < v.outputs; ++o) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (long i = 0; i < v.width(); ++i) sum += out[o * v.width() + i];
    dbias[o] = (beta == 0 ? 0 : beta * dbias[o]) + sum;
  }
}

void backward_weights(const Conv& v, const float* x, const float* dy, float* dw, float* dbias, float beta) {
  for (long n = 0; dbias && n < v.images; ++n) add_bias_gradient(v, dy + n * v.outputs * v.width(), dbias, n ? 1 : beta);
  if (depthwise(v)) { depthwise_weights(v, x, dy, dw, beta); return; }
  std::vector<float> columns(v.groups * v.k() * v.width());
  const long m = v.outputs / v.groups;
  for (long n = 0; n < v.images; ++n) {
    im2col(x + n * v.channels * in_count(v.s), columns.data(), (int)v.channels, v.s);
    const float* out = dy + n * v.outputs * v.width();
    for (long g = 0; g < v.groups; ++g)
      gemm(false, true, m, v.k(), v.width(), 1, out + g * m * v.width(), columns.data() + g * v.k() * v.width(), n ? 1 : beta, dw + g * m * v.k());
  }
}

ConvShape columns_shape(const std::vector<int>& shape, int channels, const Array& image, const Array& columns) {
  const ConvShape s = conv_shape(shape);
  sized(volume({channels, in_count(s)}), image);
  sized(volume({channels, kernel_count(s), out_count(s)}), columns);
  return s;
}

void bind_convolution(py::module_& m) {
  const auto nc = [](const char* name) { return py::arg(name).noconvert(); };
  using Shape = std::vector<int>;
  m.def("gemm", [](bool ta, bool tb, int rows, int cols, int inner, const Array& a, const Array& b, Array& c, float beta) {
    sized(volume({rows, inner}), a);
    sized(volume({inner, cols}), b);
    sized(volume({rows, cols}), c);
    const float *p = a.data(), *q = b.data(); float* r = c.mutable_data(); Release _;
    gemm(ta, tb, rows, cols, inner, 1, p, q, beta, r);
  }, py::arg("ta"), py::arg("tb"), py::arg("rows"), py::arg("cols"), py::arg("inner"), nc("a"), nc("b"), nc("c"), py::arg("beta"));
  m.def("conv_forward", [](const Array& x, const Array& w, const Optional& bias, Array& y, long images, long channels, long outputs, long groups, const Shape& shape) {
    const Conv v = conv(shape, images, channels, outputs, groups, x, w, bias, y);
    const float *a = x.data(), *b = w.data(), *c = pointer(bias); float* d = y.mutable_data(); Release _;
    forward(v, a, b, c, d);
  }, nc("x"), nc("w"), nc("bias"), nc("y"), py::arg("images"), py::arg("channels"), py::arg("outputs"), py::arg("groups"), py::arg("shape"));
  m.def("conv_backward_data", [](const Array& dy, const Array& w, Array& dx, long images, long channels, long outputs, long groups, const Shape& shape) {
    const Conv v = conv(shape, images, channels, outputs, groups, dx, w, {}, dy);
    const float *a = dy.data(), *b = w.data(); float* d = dx.mutable_data(); Release _;
    backward_data(v, a, b, d);
  }, nc("dy"), nc("w"), nc("dx"), py::arg("images"), py::arg("channels"), py::arg("outputs"), py::arg("groups"), py::arg("shape"));
  m.def("conv_backward_weights", [](const Array& x, const Array& dy, Array& dw, Optional& dbias, float beta, long images, long channels, long outputs, long groups, const Shape& shape) {
    const Conv v = conv(shape, images, channels, outputs, groups, x, dw, dbias, dy);
    const float *a = x.data(), *b = dy.data(); float *c = dw.mutable_data(), *d = mutable_pointer(dbias); Release _;
    backward_weights(v, a, b, c, d, beta);
  }, nc("x"), nc("dy"), nc("dw"), nc("dbias"), py::arg("beta"), py::arg("images"), py::arg("channels"), py::arg("outputs"), py::arg("groups"), py::arg("shape"));
  m.def("im2col", [](const Array& image, Array& columns, int channels, const Shape& shape) {
    const ConvShape s = columns_shape(shape, channels, image, columns); const float* a = image.data(); float* b = columns.mutable_data(); Release _;
    im2col(a, b, channels, s);
  }, nc("image"), nc("columns"), py::arg("channels"), py::arg("shape"));
  m.def("col2im", [](const Array& columns, Array& image, int channels, const Shape& shape) {
    const ConvShape s = columns_shape(shape, channels, image, columns); const float* a = columns.data(); float* b = image.mutable_data(); Release _;
    col2im(a, b, channels, s);
  }, nc("columns"), nc("image"), py::arg("channels"), py::arg("shape"));
}
}  // namespace BREW_ISA
