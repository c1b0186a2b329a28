// One step of one cell of an LSTM (Hochreiter and Schmidhuber 1997, with forget gates). Gates lie in the order input,
// forget, output, candidate, H of each.
#pragma once
#include "neuron.h"

struct Cell { float i, f, o, g, c, tanh_c; };

// From the gates before activation, the old cell and cont, which is 0 where a sequence begins: the forget gate is then 0.
BREW_BOTH Cell lstm_cell(float i, float f, float o, float g, float c, float cont) {
  Cell s;
  s.i = sigmoid(i);
  s.f = sigmoid(f) * cont;
  s.o = sigmoid(o);
  s.g = tanh_of(g);
  s.c = s.f * c + s.i * s.g;
  s.tanh_c = tanh_of(s.c);
  return s;
}

// The gradients of the gates before activation and of the old cell `c`, from those of the new hidden state and cell.
struct CellGrad { float i, f, o, g, c; };
BREW_BOTH CellGrad lstm_grad(const Cell& s, float c, float dh, float dc) {
  CellGrad d;
  const float d_cell = dc + dh * s.o * (1 - s.tanh_c * s.tanh_c);
  d.i = d_cell * s.g * s.i * (1 - s.i);
  d.f = d_cell * c * s.f * (1 - s.f);            // 0 where cont is: f is 0 there
  d.o = dh * s.tanh_c * s.o * (1 - s.o);
  d.g = d_cell * s.i * (1 - s.g * s.g);
  d.c = d_cell * s.f;
  return d;
}
