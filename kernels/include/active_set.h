// Losses and rankings over active sets: the scores of some of all units, and their numbers; -1 is padding. Without
// numbers the set is all units.
#pragma once
#include "elementary.h"

// -infinity; the run-time compiler has no <math.h>.
BREW_BOTH float least_score() {
#ifdef __CUDACC__
  return __int_as_float((int)0xff800000u);
#else
  return -INFINITY;
#endif
}

// sigmoid(x) and log(1 + e^x), from t = e^-|x|: neither sign of x overflows, and no small t is lost. One division
// serves both; log(1 + t) = 2 atanh(t / (2 + t)) is a series, within 4 units in the last place.
struct SigmoidTerms { float sigmoid, softplus; };
BREW_BOTH SigmoidTerms sigmoid_terms(float x, float t) {
  const float r = 1 / ((1 + t) * (2 + t)), s = t * (1 + t) * r, z = s * s, share = (2 + t) * r;
  float p = 1.0f / 15;
  p = p * z + 1.0f / 13;
  p = p * z + 1.0f / 11;
  p = p * z + 1.0f / 9;
  p = p * z + 1.0f / 7;
  p = p * z + 1.0f / 5;
  p = p * z + 1.0f / 3;
  const float log1p = 2 * s + 2 * s * z * p;
  return {x < 0 ? t * share : share, (x < 0 ? 0.0f : x) + log1p};
}

// What the target 1 adds to a unit's loss: log(1 + e^-x) - log(1 + e^x), which is -x. Added to the second term, as the
// sum over the set has it, it leaves the first whole, however small it is beside x.
BREW_BOTH double label_term(float x) {
  const float t = exp_of(x < 0 ? x : -x);
  return (double)sigmoid_terms(-x, t).softplus - sigmoid_terms(x, t).softplus;
}

// Whether a unit ranks before another: by its score, and of equal ones the lower number first.
BREW_BOTH bool ranks_before(float score, int unit, float other, int other_unit) {
  return score > other || (score == other && unit < other_unit);
}
// A score that is no number ranks as -infinity.
BREW_BOTH float rankable(float score) { return score == score ? score : least_score(); }
