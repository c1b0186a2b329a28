// Locality-sensitive hashes of rows, and the tables of units that they fill.
//
// Winner-take-all: a hash is the place, among a few coordinates, of the largest (Yagnik et al., ICCV 2011; several bins
// of one permutation and the densification of empty ones: Chen and Shrivastava, UAI 2018). Signs of random projections
// (Charikar, STOC 2002) come from rounds of random signs and Hadamard transforms (Andoni et al., NeurIPS 2015).
#pragma once
#include "philox.h"

// The place of the largest of `bins` coordinates of x, `stride` apart in memory. `densified`: zeros do not compete,
// and -1 says that all were zero.
BREW_BOTH int winner(const float* x, long stride, const int* places, int bins, int densified) {
  int at = densified ? -1 : 0;
  float best = 0;
  for (int j = 0; j < bins; ++j) {
    const float v = x[places[j] * stride];
    if (densified && v == 0) continue;
    if (j == 0 || at < 0 || v > best) { best = v; at = j; }
  }
  return at;
}

constexpr unsigned long long kBorrow = 0x4257544144575441ull;    // the key of the hashes that empty ones borrow from
constexpr int kAttempts = 64;

// Hash number c of `codes`: an empty one takes the value of another, the same for all rows; 0 if nothing is found.
BREW_BOTH int winner_code(const float* x, long stride, const int* places, int codes, int c, int bins, int densified) {
  int at = winner(x, stride, places + (long)c * bins, bins, densified);
  for (int attempt = 0; at < 0 && attempt < kAttempts; ++attempt) {
    const int other = (int)(philox(c, attempt, kBorrow).x % (unsigned)codes);
    at = winner(x, stride, places + (long)other * bins, bins, densified);
  }
  return at < 0 ? 0 : at;
}

// Bits that hold the place of one of `bins`, a power of two.
BREW_BOTH int bits_of(int bins) {
  int bits = 0;
  while (1 << bits < bins) ++bits;
  return bits;
}

// Where member number `place` of a bucket goes, or -1: the bucket keeps it not. With FIFO the last ones stay; with
// RESERVOIR each of the members stays with the same probability (Vitter 1985, algorithm R), drawn with the unit's word.
BREW_BOTH int bucket_slot(int place, int size, int fifo, unsigned word) {
  if (place < size) return place;
  if (fifo) return place % size;
  const int drawn = (int)high_product(word, (unsigned)place + 1);
  return drawn < size ? drawn : -1;
}

// The words that decide whether units 4 block .. 4 block + 3 stay in full buckets of a table.
BREW_BOTH Words reservoir_words(int table, int block, unsigned long long stream, unsigned long long key) {
  return philox(((unsigned long long)table << 32) + block, stream, key);
}
