// Locality-sensitive hashes of rows, and the tables that they fill: see lsh.h.
#include "../include/lsh.h"
#include "reduce.h"

extern "C" __global__ void winner_codes(const float* x, const int* places, int* codes, int rows, int dim, int first,
                                        int all, int hashes, int bins, int densified, long n) {
  const int bits = bits_of(bins);
  BREW_EACH(i, n) {
    const long t = first + i / rows, r = i % rows;
    int code = 0;
    for (int k = 0; k < hashes; ++k)
      code = code << bits | winner_code(x + r * dim, 1, places, all, (int)(t * hashes + k), bins, densified);
    codes[i] = code;
  }
}

// y (rows, blocks, width) = x (rows, dim), each block by its own signs, `step` apart; zeros beyond dim.
extern "C" __global__ void turn_signs(const float* x, const float* signs, float* y, int dim, int blocks, int width,
                                      int step, long n) {
  BREW_EACH(i, n) {
    const long d = i % width, block = i / width % blocks, row = i / width / blocks;
    y[i] = d < dim ? x[row * dim + d] * signs[block * step + d] : 0.0f;
  }
}

// One stage of Hadamard transforms in place: pairs h apart. A thread for each pair.
extern "C" __global__ void butterfly(float* x, int h, long n) {
  BREW_EACH(i, n) {
    const long a = i / h * 2 * h + i % h, b = a + h;
    const float sum = x[a] + x[b], difference = x[a] - x[b];
    x[a] = sum;
    x[b] = difference;
  }
}

// codes (tables, rows): the signs of projections (rows, blocks, width), of which each block has those of `each` tables.
extern "C" __global__ void pack_signs(const float* x, int* codes, int rows, int blocks, int width, int hashes, int skip,
                                      long n) {
  const int each = width / hashes;
  BREW_EACH(i, n) {
    const long t = skip + i / rows, r = i % rows;
    const float* const at = x + (r * blocks + t / each) * width + t % each * hashes;
    int code = 0;
    for (int k = 0; k < hashes; ++k) code = code << 1 | (at[k] > 0);
    codes[i] = code;
  }
}

// A table from its units sorted by buckets: a thread for each bucket, whose units are those from starts[b] on.
extern "C" __global__ void fill_buckets(const int* units, const int* starts, const int* offsets, int* ids, int table,
                                        int size, int fifo, unsigned long long key, unsigned long long stream, long n) {
  BREW_EACH(b, n) {
    for (int place = 0; place < starts[b + 1] - starts[b]; ++place) {
      const int unit = units[starts[b] + place];
      unsigned word = 0;
      if (place >= size && !fifo) {
        const Words w = reservoir_words(table, unit / 4, stream, key);
        word = unit % 4 == 0 ? w.x : unit % 4 == 1 ? w.y : unit % 4 == 2 ? w.z : w.w;
      }
      const int slot = bucket_slot(place, size, fifo, word);
      if (slot >= 0) ids[offsets[b] + slot] = unit;
    }
  }
}
