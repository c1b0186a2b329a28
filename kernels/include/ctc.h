// Connectionist temporal classification (Graves et al. 2006), in logarithms. A label of L symbols becomes the states
// blank, symbol 1, blank, ..., symbol L, blank: 2 L + 1 of them.
#pragma once
#include "both.h"

#define BREW_NEVER -1e30f                         // the logarithm of 0

BREW_BOTH float log_add(float a, float b) {
  const float most = a > b ? a : b, least = a > b ? b : a;
  return least <= BREW_NEVER ? most : most + log1pf(expf(least - most));
}
BREW_BOTH int ctc_symbol(const int* label, int state, int blank) { return state % 2 ? label[state / 2] : blank; }
// Whether a state may follow the one two before it: over a blank between two different symbols.
BREW_BOTH bool ctc_skips(const int* label, int state) { return state % 2 && state >= 3 && label[state / 2] != label[state / 2 - 1]; }

// The logarithm of the paths into a state at time t, from those at t - 1 (`before`) and the symbol's log probability.
BREW_BOTH float ctc_ahead(const float* before, const int* label, int state, float log_p) {
  float sum = before[state];
  if (state > 0) sum = log_add(sum, before[state - 1]);
  if (ctc_skips(label, state)) sum = log_add(sum, before[state - 2]);
  return sum <= BREW_NEVER ? BREW_NEVER : sum + log_p;
}
// Likewise from the end: the paths out of a state at time t, from those at t + 1 (`after`), t's symbol included.
BREW_BOTH float ctc_back(const float* after, const int* label, int states, int state, float log_p) {
  float sum = after[state];
  if (state + 1 < states) sum = log_add(sum, after[state + 1]);
  if (state + 2 < states && ctc_skips(label, state + 2)) sum = log_add(sum, after[state + 2]);
  return sum <= BREW_NEVER ? BREW_NEVER : sum + log_p;
}
// The log probability of class c: score minus the logarithm of the sum of all e^score.
BREW_BOTH float log_total(const float* scores, int classes) {
  float most = scores[0], sum = 0;
  for (int c = 1; c < classes; ++c) most = fmaxf(most, scores[c]);
  for (int c = 0; c < classes; ++c) sum += expf(scores[c] - most);
  return most + logf(sum);
}
// The gradient of class c's score at one time: its probability less that of the paths through it; `paths` is the log
// probability of all paths, ahead and back those of the states at this time.
BREW_BOTH float ctc_grad(const float* ahead, const float* back, const int* label, int states, int c, int blank, float log_p, float paths) {
  float through = BREW_NEVER;
  if (c == blank) for (int s = 0; s < states; s += 2) through = log_add(through, ahead[s] + back[s]);
  else for (int s = 1; s < states; s += 2) if (label[s / 2] == c) through = log_add(through, ahead[s] + back[s]);
  const float p = expf(log_p);
  return through <= BREW_NEVER ? p : p - expf(through - log_p - paths);
}
