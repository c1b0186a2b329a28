// Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011): four random words
// from a 128-bit counter and a 64-bit key. The value of number i depends on nothing but (key, stream, i), so it is the
// same on every device and for every thread count.
#pragma once
#include "both.h"

struct Words { unsigned x, y, z, w; };

BREW_BOTH unsigned high_product(unsigned a, unsigned b) { return (unsigned)(((unsigned long long)a * b) >> 32); }

BREW_BOTH Words philox(unsigned long long block, unsigned long long stream, unsigned long long key) {
  Words c = {(unsigned)block, (unsigned)(block >> 32), (unsigned)stream, (unsigned)(stream >> 32)};
  unsigned k0 = (unsigned)key, k1 = (unsigned)(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const unsigned h0 = high_product(0xD2511F53u, c.x), l0 = 0xD2511F53u * c.x;
    const unsigned h1 = high_product(0xCD9E8D57u, c.z), l1 = 0xCD9E8D57u * c.z;
    c.x = h1 ^ c.y ^ k0; c.y = l1; c.z = h0 ^ c.w ^ k1; c.w = l0;
    k0 += 0x9E3779B9u; k1 += 0xBB67AE85u;
  }
  return c;
}

// Number i of a stream.
BREW_BOTH unsigned word(unsigned long long i, unsigned long long stream, unsigned long long key) {
  const Words w = philox(i / 4, stream, key);
  return i % 4 == 0 ? w.x : i % 4 == 1 ? w.y : i % 4 == 2 ? w.z : w.w;
}

// In (0, 1]: 24 random bits, never 0, so that its logarithm is finite.
BREW_BOTH float unit(unsigned word) { return ((word >> 8) + 1) * (1.0f / 16777216.0f); }
