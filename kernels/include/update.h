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
