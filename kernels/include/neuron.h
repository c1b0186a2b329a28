// Activations, element by element: y from x, and dx from y (in place, x is gone by then) and dy.
#pragma once
#include "elementary.h"

BREW_BOTH float relu(float x, float slope) { return x > 0 ? x : slope * x; }
BREW_BOTH float relu_grad(float y, float dy, float slope) { return y > 0 ? dy : slope * dy; }

BREW_BOTH float sigmoid(float x) { return 0.5f * tanh_of(0.5f * x) + 0.5f; }
BREW_BOTH float sigmoid_grad(float y, float dy) { return dy * y * (1 - y); }

BREW_BOTH float tanh_grad(float y, float dy) { return dy * (1 - y * y); }

// Functions with up to three constants a, b, c. f(x, ...) and df(x, y, dy, ...), y being f(x).
BREW_BOTH float absval(float x, float, float, float) { return fabsf(x); }
BREW_BOTH float absval_grad(float x, float, float dy, float, float, float) { return x > 0 ? dy : x < 0 ? -dy : 0.0f; }

// log(1 + e^x), for either sign without overflow
BREW_BOTH float bnll(float x, float, float, float) { return x > 0 ? x + logf(1 + exp_of(-x)) : logf(1 + exp_of(x)); }
BREW_BOTH float bnll_grad(float x, float, float dy, float, float, float) { const float t = exp_of(x < 50 ? x : 50.0f); return dy * t / (t + 1); }

// a: least, b: most
BREW_BOTH float clip(float x, float a, float b, float) { return x < a ? a : x > b ? b : x; }
BREW_BOTH float clip_grad(float x, float, float dy, float a, float b, float) { return x >= a && x <= b ? dy : 0.0f; }

// a: alpha
BREW_BOTH float elu(float x, float a, float, float) { return x > 0 ? x : a * (exp_of(x) - 1); }
BREW_BOTH float elu_grad(float x, float y, float dy, float a, float, float) { return x > 0 ? dy : dy * (y + a); }

// b e^(a x)
BREW_BOTH float exponential(float x, float a, float b, float) { return b * exp_of(a * x); }
BREW_BOTH float exponential_grad(float, float y, float dy, float a, float, float) { return dy * y * a; }

// c log(a x + b)
BREW_BOTH float logarithm(float x, float a, float b, float c) { return c * logf(a * x + b); }
BREW_BOTH float logarithm_grad(float x, float, float dy, float a, float b, float c) { return dy * c * a / (a * x + b); }

// (a x + b)^c; constant, with no gradient, where a c is 0
BREW_BOTH float power_of(float x, float c) { return c == 1 ? x : c == 2 ? x * x : c == 0 ? 1.0f : powf(x, c); }
BREW_BOTH float power(float x, float a, float b, float c) { return power_of(a * x + b, c); }
BREW_BOTH float power_grad(float x, float, float dy, float a, float b, float c) { return a * c == 0 ? 0.0f : dy * a * c * power_of(a * x + b, c - 1); }

// x sigmoid(a x)
BREW_BOTH float swish(float x, float a, float, float) { return x * sigmoid(a * x); }
BREW_BOTH float swish_grad(float x, float y, float dy, float a, float, float) { return dy * (a * y + sigmoid(a * x) * (1 - a * y)); }

// a: the threshold. It has no gradient.
BREW_BOTH float threshold(float x, float a, float, float) { return x > a ? 1.0f : 0.0f; }
BREW_BOTH float threshold_grad(float, float, float, float, float, float) { return 0.0f; }

// The slope below zero is learned, one for each channel or one for all.
BREW_BOTH float prelu(float x, float slope) { return x > 0 ? x : slope * x; }
BREW_BOTH float prelu_grad(float x, float dy, float slope) { return x > 0 ? dy : slope * dy; }
