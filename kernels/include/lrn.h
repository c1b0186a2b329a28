// Local response normalisation (Krizhevsky, Sutskever, Hinton 2012, section 3.3): y = x s^-beta, where s is k plus
// alpha times the mean of the squares around x. With r the window's sum of dy y / s,  dx = dy s^-beta - c x r.
#pragma once
#include "both.h"

BREW_BOTH float lrn_factor(float s, float beta) {
  if (beta == 0.75f) { const float root = sqrtf(s); return 1 / (root * sqrtf(root)); }   // the usual one: no powf
  return powf(s, -beta);
}
BREW_BOTH float lrn_value(float x, float s, float beta) { return x * lrn_factor(s, beta); }
BREW_BOTH float lrn_ratio(float y, float s, float dy) { return dy * y / s; }
BREW_BOTH float lrn_grad(float x, float s, float dy, float r, float beta, float c) { return dy * lrn_factor(s, beta) - c * x * r; }
