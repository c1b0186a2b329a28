// Activations, element by element: y from x, and dx from y (in place, x is gone by then) and dy.
#pragma once
#include "both.h"

BREW_BOTH float relu(float x, float slope) { return x > 0 ? x : slope * x; }
BREW_BOTH float relu_grad(float y, float dy, float slope) { return y > 0 ? dy : slope * dy; }

BREW_BOTH float sigmoid(float x) { return 0.5f * tanhf(0.5f * x) + 0.5f; }
BREW_BOTH float sigmoid_grad(float y, float dy) { return dy * y * (1 - y); }

BREW_BOTH float tanh_grad(float y, float dy) { return dy * (1 - y * y); }
