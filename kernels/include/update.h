// One weight's update: regularisation, momentum, step (solvers.md 3.3 and 3.4; Caffe's order).
#pragma once
#include "both.h"

// The gradient with its decay: `scale` is 1 / iter_size times any clipping, decay the weight decay of this parameter.
BREW_BOTH float regularized(float g, float w, float scale, float decay, int l1) {
  const float slope = l1 ? (float)((w > 0) - (w < 0)) : w;
  return g * scale + decay * slope;
}

// h' = m h + r g; the step is h'.
BREW_BOTH float sgd_step(float g, float* h, float rate, float momentum) { return *h = momentum * *h + rate * g; }

// Nesterov 1983 in the form of Sutskever et al. 2013: the step looks ahead along the new momentum.
BREW_BOTH float nesterov_step(float g, float* h, float rate, float momentum) {
  const float before = *h;
  *h = momentum * before + rate * g;
  return (1 + momentum) * *h - momentum * before;
}

// A gradient of zero is no step, whatever it is divided by: delta may be 0, and the padding of layouts must stay 0.
BREW_BOTH float over_root(float g, float h, float delta) { return g == 0 ? 0.0f : g / (sqrtf(h) + delta); }

// Duchi et al. 2011.
BREW_BOTH float adagrad_step(float g, float* h, float rate, float delta) {
  *h += g * g;
  return rate * over_root(g, *h, delta);
}

// Tieleman and Hinton 2012.
BREW_BOTH float rmsprop_step(float g, float* h, float rate, float decay, float delta) {
  *h = decay * *h + (1 - decay) * g * g;
  return rate * over_root(g, *h, delta);
}

// Zeiler 2012: h is the mean of squared gradients, h2 that of squared steps.
BREW_BOTH float adadelta_step(float g, float* h, float* h2, float rate, float momentum, float delta) {
  *h = momentum * *h + (1 - momentum) * g * g;
  const float u = g == 0 ? 0.0f : g * sqrtf((*h2 + delta) / (*h + delta));
  *h2 = momentum * *h2 + (1 - momentum) * u * u;
  return rate * u;
}

// Kingma and Ba 2015; the rate comes with its bias correction, sqrt(1 - momentum2^t) / (1 - momentum^t).
BREW_BOTH float adam_step(float g, float* h, float* h2, float rate, float momentum, float momentum2, float delta) {
  *h = momentum * *h + (1 - momentum) * g;
  *h2 = momentum2 * *h2 + (1 - momentum2) * g * g;
  return rate * over_root(*h, *h2, delta);
}

// With momentum, as for Inception and Xception: h2 gathers the steps.
BREW_BOTH float rmsprop_momentum_step(float g, float* h, float* h2, float rate, float decay, float momentum, float delta) {
  return *h2 = momentum * *h2 + rmsprop_step(g, h, rate, decay, delta);
}

// Loshchilov and Hutter 2019: Adam's step from the gradient alone, and the weights decay by themselves.
BREW_BOTH float adamw_step(float g, float w, float* h, float* h2, float rate, float correction, float momentum, float momentum2, float delta, float decay, int l1) {
  return adam_step(g, h, h2, rate * correction, momentum, momentum2, delta) + rate * regularized(0, w, 0, decay, l1);
}
