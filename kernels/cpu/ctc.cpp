// CTC on the CPU: one sequence to a thread.
#include "../include/ctc.h"

#include <cmath>

#include "cpu.h"

namespace BREW_ISA {

void bind_ctc(py::module_& m) {
  const auto nc = [](const char* name) { return py::arg(name).noconvert(); };
  // scores (T, N, C); labels (N, L), the first lengths[n] of which count; steps[n] of T count. losses (N) and gradients (T, N, C),
  // both 0 for a label that does not fit into its steps. work (N, 2, T, 2 L + 1) is scratch.
  m.def("ctc", [](const Array& scores_, const Ints& labels_, const Ints& lengths_, const Ints& steps_, Array& losses_, Array& grads_, Array& work_, int blank) {
    require(scores_.ndim() == 3 && labels_.ndim() == 2 && scores_.size() <= INT_MAX && labels_.size() < INT_MAX / 2, "ctc: scores need the shape (T, N, C), labels (N, L)");
    const long sequences = scores_.shape(1);
    sized(sequences, lengths_, steps_, losses_);
    sized(sequences * labels_.shape(1), labels_);
    sized(scores_.size(), grads_);
    require(work_.size() >= volume({sequences, 2, scores_.shape(0), 2 * labels_.shape(1) + 1}), "ctc: work is too small");
    require(volume({scores_.shape(0), 2 * labels_.shape(1) + 1}) <= INT_MAX, "ctc: the states of a sequence are more than 2^31 - 1");
    require(blank >= 0 && blank < scores_.shape(2), "ctc: blank is no class");
    check_indices(lengths_, labels_.shape(1) + 1, "length");
    check_indices(steps_, scores_.shape(0) + 1, "number of steps");
    const float* scores = scores_.data(); const int *labels = labels_.data(), *lengths = lengths_.data(), *steps = steps_.data();
    float *losses = losses_.mutable_data(), *grads = grads_.mutable_data(), *work = work_.mutable_data();
    const int T = (int)scores_.shape(0), N = (int)scores_.shape(1), C = (int)scores_.shape(2), L = (int)labels_.shape(1), width = 2 * L + 1;
    for (long n = 0; n < sequences; ++n)
      for (int k = 0; k < lengths[n]; ++k)
        if (labels[n * L + k] < 0 || labels[n * L + k] >= C) throw std::out_of_range("ctc: a label is no class");
    Release _;
    const PerThread<float> totals(T, true);
#pragma omp parallel for schedule(dynamic)
    for (int n = 0; n < N; ++n) {
      const int* label = labels + (long)n * L;
      const int states = 2 * lengths[n] + 1, last = steps[n];
      float *ahead = work + 2L * n * T * width, *back = ahead + (long)T * width;
      float* total = totals.mine();
      const auto log_p = [&](int t, int c) { return scores[((long)t * N + n) * C + c] - total[t]; };
      for (int t = 0; t < T; ++t) std::memset(grads + ((long)t * N + n) * C, 0, C * sizeof(float));
      for (int t = 0; t < last; ++t) total[t] = log_total(scores + ((long)t * N + n) * C, C);
      for (int t = 0; t < last; ++t)
        for (int s = 0; s < states; ++s) {
          const float p = log_p(t, ctc_symbol(label, s, blank));
          ahead[t * width + s] = t ? ctc_ahead(ahead + (t - 1) * width, label, s, p) : s < 2 ? p : BREW_NEVER;
        }
      for (int t = last - 1; t >= 0; --t)
        for (int s = 0; s < states; ++s) {
          const float p = log_p(t, ctc_symbol(label, s, blank));
          back[t * width + s] = t + 1 < last ? ctc_back(back + (t + 1) * width, label, states, s, p) : s + 2 >= states ? p : BREW_NEVER;
        }
      const float paths = last ? log_add(back[0], states > 1 ? back[1] : BREW_NEVER) : BREW_NEVER;
      losses[n] = paths <= BREW_NEVER ? 0.0f : -paths;
      if (paths <= BREW_NEVER) continue;
      for (int t = 0; t < last; ++t)
        for (int c = 0; c < C; ++c)
          grads[((long)t * N + n) * C + c] = ctc_grad(ahead + t * width, back + t * width, label, states, c, blank, log_p(t, c), paths);
    }
  }, nc("scores"), nc("labels"), nc("lengths"), nc("steps"), nc("losses"), nc("gradients"), nc("work"), py::arg("blank"));
}
}  // namespace BREW_ISA
