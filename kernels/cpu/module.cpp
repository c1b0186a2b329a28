// The CPU kernels as a Python module: a table of contents.
#include "cpu.h"

namespace BREW_ISA {
void bind_active_set(py::module_&);
void bind_batch_norm(py::module_&);
void bind_boxes(py::module_&);
void bind_convolution(py::module_&);
void bind_ctc(py::module_&);
void bind_eltwise(py::module_&);
void bind_gemm_nt(py::module_&);
void bind_layout(py::module_&);
void bind_lrn(py::module_&);
void bind_lsh(py::module_&);
void bind_lstm(py::module_&);
void bind_neuron(py::module_&);
void bind_pooling(py::module_&);
void bind_random(py::module_&);
void bind_regions(py::module_&);
void bind_resample(py::module_&);
void bind_sampling(py::module_&);
void bind_softmax(py::module_&);
void bind_sparse(py::module_&);
void bind_sparse_data(py::module_&);
void bind_transform(py::module_&);
void bind_unit_products(py::module_&);
void bind_update(py::module_&);
void bind_winograd(py::module_&);
}

PYBIND11_MODULE(BREW_MODULE, m) {
  using namespace BREW_ISA;
  bind_active_set(m);
  bind_batch_norm(m);
  bind_boxes(m);
  bind_convolution(m);
  bind_ctc(m);
  bind_eltwise(m);
  bind_gemm_nt(m);
  bind_layout(m);
  bind_lrn(m);
  bind_lsh(m);
  bind_lstm(m);
  bind_neuron(m);
  bind_pooling(m);
  bind_random(m);
  bind_regions(m);
  bind_resample(m);
  bind_sampling(m);
  bind_softmax(m);
  bind_sparse(m);
  bind_sparse_data(m);
  bind_transform(m);
  bind_unit_products(m);
  bind_update(m);
  bind_winograd(m);
  m.def("set_threads", [](int n) { omp_set_num_threads(n); }, "Threads of the loops that follow in this Python thread.");
  m.def("release_threads", [] { omp_pause_resource_all(omp_pause_soft); },
        "End the idle threads behind this Python thread's loops; the next loop starts new ones. fork() copies no threads, and a\n"
        "child that counts on them waits for ever.");
  m.def("best_isa", [] {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl")) return "avx512";
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return "avx2";
#endif
    return "base";
  });
}
