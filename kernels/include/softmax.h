// What the cross entropy compares a softmax with: the label's share, the rest spread evenly (Szegedy et al. 2016, section 7).
#pragma once
#include "both.h"

BREW_BOTH float label_share(bool own, float smoothing, int classes) { return (own ? 1 - smoothing : 0.0f) + smoothing / classes; }

// The class that a label means: cut off at the point, as in Caffe. What is no number, or none that fits, is below all classes.
BREW_BOTH long class_of(float label) { return label >= -2147483648.0f && label < 2147483648.0f ? (long)label : -4294967296L; }
BREW_BOTH bool is_class(float label, long classes) { return class_of(label) >= 0 && class_of(label) < classes; }

// Never infinite; NaN stays NaN, for a loss that is not a number must be seen.
BREW_BOTH float minus_log(float p) { return -logf(p < 1.17549435e-38f ? 1.17549435e-38f : p); }

// The loss of one position; p is the first of its `classes` probabilities, `step` apart.
BREW_BOTH float cross_entropy(const float* p, long step, int label, int classes, float smoothing) {
  if (smoothing == 0) return minus_log(p[label * step]);
  float sum = 0;
  for (int c = 0; c < classes; ++c) sum += label_share(c == label, smoothing, classes) * minus_log(p[c * step]);
  return sum;
}
