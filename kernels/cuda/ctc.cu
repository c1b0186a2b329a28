// CTC: a block for each sequence; its threads share the states of a step, then the classes.
#include "ctc.h"
#include "reduce.h"

// totals (N, T): scratch for the logarithm of each step's sum.
extern "C" __global__ void ctc(const float* scores, const int* labels, const int* lengths, const int* steps, float* losses, float* grads,
                               float* work, float* totals, int blank, int T, int N, int C, int L) {
  const int n = blockIdx.x, width = 2 * L + 1, states = 2 * lengths[n] + 1, last = steps[n];
  const int* label = labels + (long)n * L;
  float *ahead = work + 2L * n * T * width, *back = ahead + (long)T * width, *total = totals + (long)n * T;
  for (int t = threadIdx.x; t < last; t += blockDim.x) total[t] = log_total(scores + ((long)t * N + n) * C, C);
  __syncthreads();
  for (int k = 0; k < last; ++k) {
    const int t = k, u = last - 1 - k;
    for (int s = threadIdx.x; s < states; s += blockDim.x) {
      const int symbol = ctc_symbol(label, s, blank);
      const float p = scores[((long)t * N + n) * C + symbol] - total[t], q = scores[((long)u * N + n) * C + symbol] - total[u];
      ahead[t * width + s] = t ? ctc_ahead(ahead + (t - 1) * width, label, s, p) : s < 2 ? p : BREW_NEVER;
      back[u * width + s] = k ? ctc_back(back + (u + 1) * width, label, states, s, q) : s + 2 >= states ? q : BREW_NEVER;
    }
    __syncthreads();
  }
  const float paths = last ? log_add(back[0], states > 1 ? back[1] : BREW_NEVER) : BREW_NEVER;
  const bool none = paths <= BREW_NEVER;
  if (threadIdx.x == 0) losses[n] = none ? 0.0f : -paths;
  for (long i = threadIdx.x; i < (long)T * C; i += blockDim.x) {
    const int t = (int)(i / C), c = (int)(i % C);
    const long at = ((long)t * N + n) * C + c;
    grads[at] = none || t >= last ? 0.0f : ctc_grad(ahead + t * width, back + t * width, label, states, c, blank, scores[at] - total[t], paths);
  }
}
