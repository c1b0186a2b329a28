// A step of an LSTM between its matrix products, one thread for each unit of each sequence.
#include "lstm.h"
#include "reduce.h"

extern "C" __global__ void lstm_forward(float* gates, const float* c, const float* cont, float* fresh, float* tanh_c, float* h, int H, long n) {
  BREW_EACH(at, n) {
    const long g = at / H * 4 * H + at % H;
    const Cell s = lstm_cell(gates[g], gates[g + H], gates[g + 2 * H], gates[g + 3 * H], c[at], cont[at / H]);
    gates[g] = s.i; gates[g + H] = s.f; gates[g + 2 * H] = s.o; gates[g + 3 * H] = s.g;
    fresh[at] = s.c; tanh_c[at] = s.tanh_c; h[at] = s.o * s.tanh_c;
  }
}
extern "C" __global__ void lstm_backward(const float* gates, const float* c, const float* tanh_c, const float* dy, const float* dh, float* dc, float* d, int H, long n) {
  BREW_EACH(at, n) {
    const long g = at / H * 4 * H + at % H;
    const Cell s = {gates[g], gates[g + H], gates[g + 2 * H], gates[g + 3 * H], 0.0f, tanh_c[at]};
    const CellGrad r = lstm_grad(s, c[at], dy[at] + dh[at], dc[at]);
    d[g] = r.i; d[g + H] = r.f; d[g + 2 * H] = r.o; d[g + 3 * H] = r.g;
    dc[at] = r.c;
  }
}
