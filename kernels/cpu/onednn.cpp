// Convolution and matrix products by oneDNN, as the module _onednn. It has no arithmetic of its own.
#include <dnnl.hpp>
#include <omp.h>

#include <cstdlib>
#include <map>
#include <memory>

#include "arguments.h"

using namespace dnnl;
using Dims = memory::dims;

namespace {

engine& cpu() { static engine e(engine::kind::cpu, 0); return e; }
dnnl::stream& queue() { static dnnl::stream s(cpu()); return s; }

// Memory that nobody needs after a call, as large as the largest asked for: a thread's primitives run one after the other.
struct Scratch {
  float* at = nullptr;
  size_t size = 0;
  ~Scratch() { std::free(at); }
  float* get(size_t bytes) {
    if (bytes > size) {
      std::free(at);
      size = (bytes + 63) / 64 * 64;
      at = static_cast<float*>(std::aligned_alloc(64, size));
      if (!at) { size = 0; throw std::bad_alloc(); }
    }
    return at;
  }
};
Scratch& scratchpad() { static thread_local Scratch s; return s; }
Scratch& other_weights() { static thread_local Scratch s; return s; }          // weights in another format than the blob's
Scratch& addend() { static thread_local Scratch s; return s; }                 // a gradient to be added to the blob's

enum { kPlain = 1, kChannelsLast = 0 };          // lanes of a layout; else the block of channels

memory::desc activation(const Dims& dims, int lanes) {
  const int spatial = (int)dims.size() - 2;
  if (lanes > 1) {
    using tag = memory::format_tag;
    const tag tags[2][3] = {{tag::nCw8c, tag::nChw8c, tag::nCdhw8c}, {tag::nCw16c, tag::nChw16c, tag::nCdhw16c}};
    return memory::desc(dims, memory::data_type::f32, tags[lanes == 16][spatial - 1]);
  }
  Dims strides(dims.size());
  memory::dim step = 1;
  if (lanes == kChannelsLast) { strides[1] = 1; step = dims[1]; }
  for (int a = (int)dims.size() - 1; a >= (lanes == kChannelsLast ? 2 : 1); --a) { strides[a] = step; step *= dims[a]; }
  strides[0] = step;
  return memory::desc(dims, memory::data_type::f32, strides);
}

memory::desc plain(const Dims& dims) {
  Dims strides(dims.size());
  memory::dim step = 1;
  for (int a = (int)dims.size() - 1; a >= 0; --a) { strides[a] = step; step *= dims[a]; }
  return memory::desc(dims, memory::data_type::f32, strides);
}

long floats(const memory::desc& d) { return (long)(d.get_size() / sizeof(float)); }      // padding included

// A primitive with its memories, made once and fed pointers. Its arguments stay in one array, as the C interface takes
// them: filling a map for every call cost as much as a small convolution.
class Step {
 public:
  Step() = default;
  template <class PD> Step(const PD& pd, const primitive& p) : prim_(p), scratch_(pd.scratchpad_desc().get_size()) {
    add(DNNL_ARG_SCRATCHPAD, pd.scratchpad_desc());
  }
  void add(int arg, const memory::desc& d) {
    memories_.emplace_back(d, cpu(), nullptr);
    args_.push_back({arg, memories_.back().get()});
  }
  void set(int arg, const void* p) {
    for (const auto& a : args_)
      if (a.arg == arg) { error::wrap_c_api(dnnl_memory_set_data_handle(a.memory, const_cast<void*>(p)), "a memory took no pointer"); return; }
    throw std::logic_error("no such argument");
  }
  void run() {
    if (scratch_) set(DNNL_ARG_SCRATCHPAD, scratchpad().get(scratch_));
    error::wrap_c_api(dnnl_primitive_execute(prim_.get(), queue().get(), (int)args_.size(), args_.data()), "a primitive failed");
  }

 private:
  primitive prim_;
  std::vector<memory> memories_;
  std::vector<dnnl_exec_arg_t> args_;
  size_t scratch_ = 0;
};

// A reorder between two descriptions, made when first asked for.
class Reorder {
 public:
  void run(const memory::desc& from, const float* a, const memory::desc& to, float* b) {
    if (!step_) {
      const reorder::primitive_desc pd(cpu(), from, cpu(), to);
      step_.emplace(pd, reorder(pd));
      step_->add(DNNL_ARG_FROM, from);
      step_->add(DNNL_ARG_TO, to);
    }
    step_->set(DNNL_ARG_FROM, a);
    step_->set(DNNL_ARG_TO, b);
    step_->run();
  }

 private:
  std::optional<Step> step_;
};

// The format of a weight blob, as the forward primitive wants it. Equal formats can share one array.
struct WeightFormat {
  memory::desc desc, flat;
  long size() const { return floats(desc); }
  bool is_plain() const { return desc == flat; }
  // The block of channels, if 2-d weights lie as (K/block, C/block, height, width, block of C, block of K), group by group; or 0.
  int block() const {
    using tag = memory::format_tag;
    const Dims dims = desc.get_dims();
    for (int b : {8, 16})
      if ((dims.size() == 4 && desc == memory::desc(dims, memory::data_type::f32, b == 8 ? tag::OIhw8i8o : tag::OIhw16i16o)) ||
          (dims.size() == 5 && desc == memory::desc(dims, memory::data_type::f32, b == 8 ? tag::gOIhw8i8o : tag::gOIhw16i16o))) return b;
    return 0;
  }
  void pack(const Array& from, Array& to) const {
    sized(floats(flat), from);
    sized(size(), to);
    Reorder().run(flat, from.data(), desc, to.mutable_data());
  }
  void unpack(const Array& from, Array& to) const {
    sized(size(), from);
    sized(floats(flat), to);
    Reorder().run(desc, from.data(), flat, to.mutable_data());
  }
};

// While it lives, the library works on one thread, if `wanted`.
class OneThread {
 public:
  explicit OneThread(bool wanted) : before_(wanted ? omp_get_max_threads() : 0) { if (before_) omp_set_num_threads(1); }
  ~OneThread() { if (before_) omp_set_num_threads(before_); }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  int before_;
};

class Convolution {
 public:
  // in: (N, C, spatial...), out: (N, K, spatial...); one kernel, stride, pad, dilation per spatial axis. After it, in this order:
  // bias; `add` another array like the result; a ReLU of this slope.
  Convolution(const Dims& in, const Dims& out, const Dims& kernel, const Dims& stride, const Dims& pad, const Dims& dilation,
              long groups, bool bias, int in_lanes, int out_lanes, bool add, std::optional<float> relu, const WeightFormat* format)
      : in_(activation(in, in_lanes)), out_(activation(out, out_lanes)), stride_(stride), pad_(pad), bias_(bias), add_(add) {
    const size_t axes = kernel.size();
    require(axes > 0 && in.size() == axes + 2 && out.size() == axes + 2 && stride.size() == axes && pad.size() == axes && dilation.size() == axes, "each spatial axis needs all of its numbers");
    double work = 2.0 * in[1] / groups;
    for (auto n : out) work *= n;
    for (auto n : kernel) work *= n;
    small_ = work < kSmallWork;
    const OneThread one(small_);
    Dims weights = groups > 1 ? Dims{groups, out[1] / groups, in[1] / groups} : Dims{out[1], in[1]};
    weights.insert(weights.end(), kernel.begin(), kernel.end());
    for (size_t a = 0; a < kernel.size(); ++a) {
      dilation_.push_back(dilation[a] - 1);
      pad_end_.push_back((out[a + 2] - 1) * stride[a] + (kernel[a] - 1) * dilation[a] + 1 - in[a + 2] - pad[a]);
    }
    any_ = memory::desc(weights, memory::data_type::f32, memory::format_tag::any);
    if (bias) bias_desc_ = plain({out[1]});
    primitive_attr attr = attributes();
    post_ops after;
    if (add) after.append_binary(algorithm::binary_add, out_);
    if (relu) after.append_eltwise(algorithm::eltwise_relu, *relu, 0);
    attr.set_post_ops(after);
    pd_ = convolution_forward::primitive_desc(cpu(), prop_kind::forward_training, algorithm::convolution_direct, in_,
                                              format ? format->desc : any_, bias_desc_, out_, stride_, dilation_, pad_, pad_end_, attr);
    format_ = {pd_.weights_desc(), plain(weights)};
    in_size_ = floats(in_), out_size_ = floats(out_), weights_size_ = format_.size(), bias_size_ = out[1];
    forward_ = Step(pd_, convolution_forward(pd_));
    forward_.add(DNNL_ARG_SRC, in_);
    forward_.add(DNNL_ARG_WEIGHTS, format_.desc);
    forward_.add(DNNL_ARG_DST, out_);
    if (bias) forward_.add(DNNL_ARG_BIAS, bias_desc_);
    if (add) forward_.add(kAddend, out_);
  }

  const WeightFormat& format() const { return format_; }
  std::vector<std::string> kernels() const {     // which of the library's kernels run, as far as they exist by now
    std::vector<std::string> names{pd_.impl_info_str()};
    if (data_) names.push_back(data_name_);
    if (weights_) names.push_back(weights_name_);
    return names;
  }

  void forward(const Array& x, const Array& w, const Optional& b, Array& y, const Optional& addend) {
    sized(in_size_, x);
    sized(out_size_, y, addend);
    sized(weights_size_, w);
    require(b.has_value() == bias_ && addend.has_value() == add_, "a bias or an array to add, where the convolution was made without, or none");
    sized(bias_size_, b);
    if (addend) forward_.set(kAddend, addend->data());
    forward_.set(DNNL_ARG_SRC, x.data());
    forward_.set(DNNL_ARG_WEIGHTS, w.data());
    if (bias_) forward_.set(DNNL_ARG_BIAS, b->data());
    forward_.set(DNNL_ARG_DST, y.mutable_data());
    py::gil_scoped_release _;
    const OneThread one(small_);
    forward_.run();
  }

  // The library's kernel for the gradient of the bottom: "ref..." where it has none for these layouts.
  std::string data_kernel() { return data_description().impl_info_str(); }

  std::string weights_kernel() { return weights_description().impl_info_str(); }

  void backward_data(const Array& dy, const Array& w, Array& dx) {
    sized(out_size_, dy);
    sized(weights_size_, w);
    sized(in_size_, dx);
    const float *a = dy.data(), *b = w.data();
    float* c = dx.mutable_data();
    py::gil_scoped_release _;
    const OneThread one(small_);
    if (!data_) {
      const auto pd = data_description();
      data_ = Step(pd, dnnl::convolution_backward_data(pd));
      data_->add(DNNL_ARG_DIFF_DST, out_);
      data_->add(DNNL_ARG_WEIGHTS, pd.weights_desc());
      data_->add(DNNL_ARG_DIFF_SRC, in_);
      data_format_ = pd.weights_desc();
      data_name_ = pd.impl_info_str();
    }
    if (data_format_ != format_.desc) {
      float* mine = other_weights().get(data_format_.get_size());
      to_data_.run(format_.desc, b, data_format_, mine);
      b = mine;
    }
    data_->set(DNNL_ARG_DIFF_DST, a);
    data_->set(DNNL_ARG_WEIGHTS, b);
    data_->set(DNNL_ARG_DIFF_SRC, c);
    data_->run();
  }

  // beta 0: the gradients replace what dw and db hold; else they are added to it.
  void backward_weights(const Array& x, const Array& dy, Array& dw, Optional& db, float beta) {
    sized(in_size_, x);
    sized(out_size_, dy);
    sized(weights_size_, dw);
    require(db.has_value() == bias_, "the gradient of a bias, where the convolution was made without one, or none");
    sized(bias_size_, db);
    const bool add = beta != 0;
    const float *a = x.data(), *b = dy.data();
    float *c = dw.mutable_data(), *d = mutable_pointer(db);
    py::gil_scoped_release _;
    const OneThread one(small_);
    if (!weights_) {
      const auto pd = weights_description();
      weights_ = Step(pd, convolution_backward_weights(pd));
      weights_->add(DNNL_ARG_SRC, in_);
      weights_->add(DNNL_ARG_DIFF_DST, out_);
      weights_->add(DNNL_ARG_DIFF_WEIGHTS, pd.diff_weights_desc());
      if (bias_) weights_->add(DNNL_ARG_DIFF_BIAS, bias_desc_);
      own_format_ = pd.diff_weights_desc();
      weights_name_ = pd.impl_info_str();
    }
    const bool same = own_format_ == format_.desc;
    const size_t bytes = (format_.desc.get_size() + 63) / 64 * 64;
    float* result = add ? addend().get(bytes + (bias_ ? bias_desc_.get_size() : 0)) : c;
    float* bias_result = add ? result + bytes / sizeof(float) : d;
    float* own = same ? result : other_weights().get(own_format_.get_size());
    weights_->set(DNNL_ARG_SRC, a);
    weights_->set(DNNL_ARG_DIFF_DST, b);
    weights_->set(DNNL_ARG_DIFF_WEIGHTS, own);
    if (bias_) weights_->set(DNNL_ARG_DIFF_BIAS, bias_result);
    weights_->run();
    if (!same) from_own_.run(own_format_, own, format_.desc, result);
    if (add) {
      const long n = format_.size(), m = bias_ ? (long)(bias_desc_.get_size() / sizeof(float)) : 0;
      for (long i = 0; i < n; ++i) c[i] += result[i];
      for (long i = 0; i < m; ++i) d[i] += bias_result[i];
    }
  }

 private:
  convolution_backward_data::primitive_desc data_description() const {
    return {cpu(), algorithm::convolution_direct, in_, any_, out_, stride_, dilation_, pad_, pad_end_, pd_, attributes()};
  }
  convolution_backward_weights::primitive_desc weights_description() const {
    return {cpu(), algorithm::convolution_direct, in_, any_, bias_desc_, out_, stride_, dilation_, pad_, pad_end_, pd_, attributes()};
  }
  static constexpr double kSmallWork = 4e5;      // operations that take no longer than waking a second thread
  static constexpr int kAddend = DNNL_ARG_ATTR_MULTIPLE_POST_OP(0) | DNNL_ARG_SRC_1;
  static primitive_attr attributes() { primitive_attr a; a.set_scratchpad_mode(scratchpad_mode::user); return a; }

  memory::desc in_, out_, any_, bias_desc_, data_format_, own_format_;
  Dims stride_, pad_, pad_end_, dilation_;
  bool bias_, add_, small_;
  long in_size_, out_size_, weights_size_, bias_size_;           // of arrays, in floats
  convolution_forward::primitive_desc pd_;
  WeightFormat format_;
  Step forward_;
  std::optional<Step> data_, weights_;
  Reorder to_data_, from_own_;
  std::string data_name_, weights_name_;
};

}  // namespace

PYBIND11_MODULE(_onednn, m) {
  py::class_<WeightFormat>(m, "WeightFormat")
      .def_property_readonly("size", &WeightFormat::size)
      .def_property_readonly("is_plain", &WeightFormat::is_plain)
      .def_property_readonly("block", &WeightFormat::block)
      .def("__eq__", [](const WeightFormat& a, const WeightFormat& b) { return a.desc == b.desc; })
      .def("pack", &WeightFormat::pack, py::arg("plain").noconvert(), py::arg("out").noconvert())
      .def("unpack", &WeightFormat::unpack, py::arg("packed").noconvert(), py::arg("out").noconvert());
  py::class_<Convolution>(m, "Convolution")
      .def(py::init<const Dims&, const Dims&, const Dims&, const Dims&, const Dims&, const Dims&, long, bool, int, int,
                    bool, std::optional<float>, const WeightFormat*>(),
           py::arg("in"), py::arg("out"), py::arg("kernel"), py::arg("stride"), py::arg("pad"), py::arg("dilation"), py::arg("groups"),
           py::arg("bias"), py::arg("in_lanes"), py::arg("out_lanes"), py::arg("add"), py::arg("relu"), py::arg("format"))
      .def_property_readonly("format", &Convolution::format)
      .def_property_readonly("kernels", &Convolution::kernels)
      .def("forward", &Convolution::forward, py::arg("x").noconvert(), py::arg("w").noconvert(), py::arg("b").noconvert(), py::arg("y").noconvert(),
           py::arg("addend").noconvert() = py::none())
      .def_property_readonly("data_kernel", &Convolution::data_kernel)
      .def_property_readonly("weights_kernel", &Convolution::weights_kernel)
      .def("backward_data", &Convolution::backward_data, py::arg("dy").noconvert(), py::arg("w").noconvert(), py::arg("dx").noconvert())
      .def("backward_weights", &Convolution::backward_weights, py::arg("x").noconvert(), py::arg("dy").noconvert(),
           py::arg("dw").noconvert(), py::arg("db").noconvert(), py::arg("beta"));
  static py::exception<dnnl::error> unsupported(m, "Unsupported", PyExc_RuntimeError);
  py::register_exception_translator([](std::exception_ptr p) {
    try {
      if (p) std::rethrow_exception(p);
    } catch (const dnnl::error& e) {
      PyErr_SetString(e.status == dnnl_out_of_memory ? PyExc_MemoryError : unsupported.ptr(), e.what());
    }
  });
  m.def("gemm", [](bool ta, bool tb, long rows, long cols, long inner, const Array& a, const Array& b, Array& c, float beta) {
    sized(volume({rows, inner}), a);
    sized(volume({inner, cols}), b);
    sized(volume({rows, cols}), c);
    const float *p = a.data(), *q = b.data();
    float* r = c.mutable_data();
    py::gil_scoped_release _;
    dnnl_sgemm(ta ? 'T' : 'N', tb ? 'T' : 'N', rows, cols, inner, 1, p, ta ? rows : inner, q, tb ? inner : cols, beta, r, cols);
  }, py::arg("ta"), py::arg("tb"), py::arg("rows"), py::arg("cols"), py::arg("inner"), py::arg("a").noconvert(),
     py::arg("b").noconvert(), py::arg("c").noconvert(), py::arg("beta"));
  m.def("max_lanes", [] {                        // the block of channels that suits this machine
    const cpu_isa isa = get_effective_cpu_isa();
    return (int)isa >= (int)cpu_isa::avx512_core ? 16 : 8;
  });
  m.def("version", [] { const version_t* v = version(); return std::to_string(v->major) + "." + std::to_string(v->minor); });
}
