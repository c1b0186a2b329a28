// e^x and tanh x. The GPU has its own; on the CPU these are polynomials without branches or calls, so that loops over them
// vectorise (a call for each element took 30 times as long). Coefficients: Moshier, Cephes Mathematical Library, expf and
// tanhf; within 2 units in the last place. NaN stays NaN.
#pragma once
#include "both.h"

#ifdef __CUDACC__
BREW_BOTH float exp_of(float x) { return expf(x); }
BREW_BOTH float tanh_of(float x) { return tanhf(x); }
#else
BREW_BOTH float exp_of(float x) {
  const float least = -87.33654f, most = 88.72283f;
  const float r = x < least ? least : x > most ? most : x;
  const float shifted = r * 1.44269504f + 12582912.0f;                 // 1.5 * 2^23: the last bit counts ones
  const float n = shifted - 12582912.0f;                               // to the nearest whole number
  const float f = r - n * 0.693359375f + n * 2.12194440e-4f;           // r - n log 2, in two steps
  float p = 1.9875691500e-4f;
  p = p * f + 1.3981999507e-3f;
  p = p * f + 8.3334519073e-3f;
  p = p * f + 4.1665795894e-2f;
  p = p * f + 1.6666665459e-1f;
  p = p * f + 5.0000001201e-1f;
  p = p * f * f + f + 1;
  // 2^n in two factors: n may be 128, which alone has no float. As an int it is taken from the bits: a cast of NaN is undefined.
  unsigned bits;
  __builtin_memcpy(&bits, &shifted, 4);
  const int whole = (int)(bits - 0x4b400000u), half = whole >> 1, rest = whole - half;
  const unsigned a = (unsigned)(half + 127) << 23, b = (unsigned)(rest + 127) << 23;
  float first, second;
  __builtin_memcpy(&first, &a, 4);
  __builtin_memcpy(&second, &b, 4);
  const float y = p * first * second;
  return x < least ? 0.0f : x > most ? __builtin_inff() : y;
}

BREW_BOTH float tanh_of(float x) {
  const float size = x < 0 ? -x : x, s = x * x;
  float p = -5.70498872745e-3f;
  p = p * s + 2.06390887954e-2f;
  p = p * s - 5.37397155531e-2f;
  p = p * s + 1.33314422036e-1f;
  p = p * s - 3.33332819422e-1f;
  const float small = x + x * s * p;
  const float large = 1 - 2 / (exp_of(2 * size) + 1);
  return size < 0.625f ? small : x < 0 ? -large : large;
}
#endif
