// Solvers' updates as functions of one weight's place: for whole spans (update.cpp), and for rows of weights whose
// gradients a layer has just made (unit_products.cpp).
#pragma once
#include "../include/update.h"

namespace BREW_ISA {

// w -= step, and the step replaces the gradient, as in Caffe. h and h2 are the histories.
struct SgdUpdate {
  float scale, decay; bool l1; float rate, momentum;
  void operator()(float* w, float* g, float* h, float*, long i) const {
    w[i] -= g[i] = sgd_step(regularized(g[i], w[i], scale, decay, l1), h + i, rate, momentum);
  }
};
struct AdagradUpdate {
  float scale, decay; bool l1; float rate, delta;
  void operator()(float* w, float* g, float* h, float*, long i) const {
    w[i] -= g[i] = adagrad_step(regularized(g[i], w[i], scale, decay, l1), h + i, rate, delta);
  }
};
struct AdamUpdate {
  float scale, decay; bool l1; float rate, momentum, momentum2, delta;
  void operator()(float* w, float* g, float* h, float* h2, long i) const {
    w[i] -= g[i] = adam_step(regularized(g[i], w[i], scale, decay, l1), h + i, h2 + i, rate, momentum, momentum2, delta);
  }
};
}  // namespace BREW_ISA
