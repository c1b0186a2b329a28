// A step of an LSTM between its matrix products.
#include "../include/lstm.h"

#include "cpu.h"

namespace BREW_ISA {

// f(sequence, unit, place of the unit in (N, H), place of its first gate in (N, 4 H)); units of one sequence vectorise.
template <class F>
void each_unit(long sequences, long hidden, F shared) {
#pragma omp parallel for if (sequences * hidden > kGrain / 4)
  for (long n = 0; n < sequences; ++n) {
    const F f = shared;
#pragma omp simd
    for (long j = 0; j < hidden; ++j) f(n, n * hidden + j, n * 4 * hidden + j);
  }
}

void bind_lstm(py::module_& m) {
  const auto nc = [](const char* name) { return py::arg(name).noconvert(); };
  // gates (N, 4 H) become their activations; c, the new cell, its tanh and h are (N, H), cont (N).
  m.def("lstm_forward", [](Array& gates_, const Array& c_, const Array& cont_, Array& new_, Array& tanh_, Array& h_) {
    require(c_.ndim() == 2, "lstm: the cell needs the shape (N, H)");
    const long N = c_.shape(0), H = c_.shape(1);
    sized(N, cont_);
    sized(N * H, c_, new_, tanh_, h_);
    sized(N * H * 4, gates_);
    float *gates = gates_.mutable_data(), *fresh = new_.mutable_data(), *tanh_c = tanh_.mutable_data(), *h = h_.mutable_data();
    const float *c = c_.data(), *cont = cont_.data(); Release _;
    each_unit(N, H, [=](long n, long at, long g) {
      const Cell s = lstm_cell(gates[g], gates[g + H], gates[g + 2 * H], gates[g + 3 * H], c[at], cont[n]);
      gates[g] = s.i; gates[g + H] = s.f; gates[g + 2 * H] = s.o; gates[g + 3 * H] = s.g;
      fresh[at] = s.c; tanh_c[at] = s.tanh_c; h[at] = s.o * s.tanh_c;
    });
  }, nc("gates"), nc("c"), nc("cont"), nc("new"), nc("tanh"), nc("h"));
  // d (N, 4 H) from dy + dh; dc becomes that of the old cell.
  m.def("lstm_backward", [](const Array& gates_, const Array& c_, const Array& tanh_, const Array& dy_, const Array& dh_, Array& dc_, Array& d_) {
    require(c_.ndim() == 2, "lstm: the cell needs the shape (N, H)");
    const long N = c_.shape(0), H = c_.shape(1);
    sized(N * H, c_, tanh_, dy_, dh_, dc_);
    sized(N * H * 4, gates_, d_);
    const float *gates = gates_.data(), *c = c_.data(), *tanh_c = tanh_.data(), *dy = dy_.data(), *dh = dh_.data();
    float *dc = dc_.mutable_data(), *d = d_.mutable_data(); Release _;
    each_unit(N, H, [=](long, long at, long g) {
      const Cell s{gates[g], gates[g + H], gates[g + 2 * H], gates[g + 3 * H], 0, tanh_c[at]};
      const CellGrad r = lstm_grad(s, c[at], dy[at] + dh[at], dc[at]);
      d[g] = r.i; d[g + H] = r.f; d[g + 2 * H] = r.o; d[g + 3 * H] = r.g;
      dc[at] = r.c;
    });
  }, nc("gates"), nc("c"), nc("tanh"), nc("dy"), nc("dh"), nc("dc"), nc("d"));
}
}  // namespace BREW_ISA
