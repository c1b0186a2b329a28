// Active sets: a thread for each example; one thread where there is one set for all. See sampling.h.
#include "../include/sampling.h"
#include "reduce.h"

// scratch: `words` ints for each item, of which the keys come first and are -1; room candidates.
__device__ Scratch scratch_at(int* scratch, int places, int room) {
  return {scratch, scratch + places, scratch + 2l * places, scratch + 2l * places + room, places - 1};
}

extern "C" __global__ void sample_units(const int* codes, const int* offsets, const int* ids,
                                        const unsigned char* moved, const int* over_codes, const int* over_ids,
                                        const int* labels, int* units, int* found, int* scratch, long words, int places,
                                        int room, long buckets, long capacity, long over, int tables, int outputs,
                                        int size, int samples, int policy, int threshold, int fill,
                                        unsigned long long key, unsigned long long stream, int width, int wanted,
                                        long n) {
  const Tables t = {offsets, ids, moved, over_codes, over_ids, buckets, capacity, over, tables, outputs, size};
  const Wish w = {samples, policy, threshold, fill, stream, key};
  BREW_EACH(i, n) {
    int* const to = units + i * wanted;
    const Scratch s = scratch_at(scratch + i * words, places, room);
    const Found f = sample_example(t, codes + i, n, labels + i * width, width, w, i, s, to);
    for (int k = f.labels + f.hits + f.filled; k < wanted; ++k) to[k] = -1;
    found[4 * i] = f.labels; found[4 * i + 1] = f.hits; found[4 * i + 2] = f.filled; found[4 * i + 3] = f.probed;
  }
}

extern "C" __global__ void sample_union(const int* codes, const int* offsets, const int* ids,
                                        const unsigned char* moved, const int* over_codes, const int* over_ids,
                                        const int* labels, const int* hits, int* units, int* probed, int* found,
                                        int* scratch, int places, int room, long buckets, long capacity, long over,
                                        int tables, int outputs, int size, int samples, int policy,
                                        unsigned long long key, unsigned long long stream, int items, int width,
                                        int hit_room, long n) {
  const Tables t = {offsets, ids, moved, over_codes, over_ids, buckets, capacity, over, tables, outputs, size};
  const Wish w = {samples, policy, 1, 1, stream, key};
  BREW_EACH(i, n) {
    const Found f = sample_batch(t, codes, items, labels, width, w, hits, hit_room, scratch_at(scratch, places, room),
                                 units, probed);
    found[0] = f.labels; found[1] = f.hits; found[2] = f.filled;
  }
}
