// The active set of an example: its labels, units that share buckets with it, and units drawn uniformly.
#pragma once
#include "philox.h"

// Tables of units: bucket b of table t holds ids[t * capacity + i], i from offsets[t * (buckets + 1) + b] to the next.
// Units whose bit in `moved` is set (null: none) have left them, and are found in the overlay instead: for each table,
// `over` codes in rising order, with their units.
struct Tables {
  const int *offsets, *ids;
  const unsigned char* moved;
  const int *over_codes, *over_ids;
  long buckets, capacity, over;
  int tables, outputs, size;
};

enum Sampling { kVanilla = 0, kTopK = 1, kThreshold = 2, kUniform = 3, kMixed = 4 };

struct Wish { int samples, policy, threshold, fill; unsigned long long stream, key; };

// How many units came from where, and how many tables were looked at.
struct Found { int labels, hits, filled, probed; };

// What an example works with: `keys` and `counts` of a hash table of mask + 1 places, a power of two; `order` for as
// many candidates; `levels` for one more than there are tables. Only keys is used where collisions are not counted.
struct Scratch { int *keys, *counts, *order, *levels; int mask; };

struct Bucket { const int *base, *more; int size, extra; };

BREW_BOTH long first_at_least(const int* x, long n, int value) {
  long low = 0, high = n;
  while (low < high) {
    const long middle = (low + high) / 2;
    if (x[middle] < value) low = middle + 1; else high = middle;
  }
  return low;
}

// Nothing for a code or for offsets that cannot be.
BREW_BOTH Bucket bucket_of(const Tables& t, int table, int code) {
  Bucket b = {nullptr, nullptr, 0, 0};
  if (code < 0 || code >= t.buckets) return b;
  const int* const offset = t.offsets + table * (t.buckets + 1) + code;
  if (offset[0] >= 0 && offset[1] >= offset[0] && offset[1] <= t.capacity) {
    b.base = t.ids + table * t.capacity + offset[0];
    b.size = offset[1] - offset[0];
  }
  if (t.over) {
    const int* const codes = t.over_codes + table * t.over;
    const long begin = first_at_least(codes, t.over, code), end = first_at_least(codes, t.over, code + 1);
    b.more = t.over_ids + table * t.over + begin;
    b.extra = (int)(end - begin < t.size ? end - begin : t.size);
  }
  return b;
}

// Member i of a bucket, counted from member `start` round; -1 if it has moved.
BREW_BOTH int member(const Tables& t, const Bucket& b, int i, unsigned start) {
  const int n = b.size + b.extra, at = (int)((start % (unsigned)n + (unsigned)i) % (unsigned)n);
  const int id = at < b.size ? b.base[at] : b.more[at - b.size];
  if (id < 0 || id >= t.outputs) return -1;
  return at < b.size && t.moved && t.moved[id >> 3] >> (id & 7) & 1 ? -1 : id;
}

// The place of `id` in the hash table, or the free one (key -1) where it belongs.
BREW_BOTH int place_of(const Scratch& s, int id) {
  int at = (int)((unsigned)id * 2654435761u >> 7) & s.mask;
  while (s.keys[at] != id && s.keys[at] >= 0) at = (at + 1) & s.mask;
  return at;
}

BREW_BOTH bool add_unit(const Scratch& s, int id) {
  const int at = place_of(s, id);
  if (s.keys[at] == id) return false;
  s.keys[at] = id;
  return true;
}

// Draw units that the set does not have until there are `wanted`; all of them, in their order, if it is to hold all.
BREW_BOTH int fill_uniformly(const Scratch& s, int outputs, int have, int wanted, unsigned long long item,
                             const Wish& w, int* units) {
  if (wanted >= outputs) {
    for (int id = 0; id < outputs; ++id)
      if (add_unit(s, id)) units[have++] = id;
    return have;
  }
  for (unsigned block = 1; have < wanted; ++block) {
    const Words drawn = philox(item << 32 | block, w.stream, w.key);
    const unsigned word[4] = {drawn.x, drawn.y, drawn.z, drawn.w};
    for (int k = 0; k < 4 && have < wanted; ++k) {
      const int id = (int)high_product(word[k], (unsigned)outputs);
      if (add_unit(s, id)) units[have++] = id;
    }
  }
  return have;
}

// Count in how many tables each unit is found with the example, then take those with the most, or with `threshold` at
// least.
BREW_BOTH int most_collisions(const Tables& t, const int* codes, long stride, const Wish& w, Words start,
                              const Scratch& s, int n, int* units) {
  int candidates = 0;
  for (int step = 0; step < t.tables; ++step) {
    const int table = (int)((high_product(start.x, (unsigned)t.tables) + step) % (unsigned)t.tables);
    const Bucket b = bucket_of(t, table, codes[table * stride]);
    for (int i = 0; i < b.size + b.extra; ++i) {
      const int id = member(t, b, i, start.y);
      if (id < 0) continue;
      const int at = place_of(s, id);
      if (s.keys[at] != id) { s.keys[at] = id; s.counts[at] = 1; s.order[candidates++] = at; }
      else if (s.counts[at] > 0) ++s.counts[at];           // 0: a label, which is in the set already
    }
  }
  int least = w.threshold, rest = 0;                       // of those that collided `least` times only `rest` are taken
  if (w.policy == kTopK) {
    for (int c = 0; c <= t.tables; ++c) s.levels[c] = 0;
    for (int i = 0; i < candidates; ++i) ++s.levels[s.counts[s.order[i]]];
    int above = 0;
    for (least = t.tables; least > 1 && above + s.levels[least] < w.samples - n; --least) above += s.levels[least];
    rest = w.samples - n - above;
  } else {
    rest = w.samples;
  }
  for (int i = 0; i < candidates && n < w.samples; ++i) {
    const int at = s.order[i];
    if (s.counts[at] > least || (s.counts[at] == least && rest-- > 0)) units[n++] = s.keys[at];
  }
  return n;
}

// The units of one example into `units`, labels first; all keys of the scratch are -1. codes: its bucket in each table,
// `stride` apart. labels (width): each is -1 or a unit.
BREW_BOTH Found sample_example(const Tables& t, const int* codes, long stride, const int* labels, long width,
                               const Wish& w, unsigned long long item, const Scratch& s, int* units) {
  int n = 0;
  for (long i = 0; i < width; ++i)
    if (labels[i] >= 0 && add_unit(s, labels[i])) units[n++] = labels[i];
  Found found = {n, 0, 0, 0};
  const Words start = philox(item << 32, w.stream, w.key);
  if (w.policy == kTopK || w.policy == kThreshold) {
    for (int i = 0; i < n; ++i) s.counts[place_of(s, units[i])] = 0;
    found.probed = t.tables;
    n = most_collisions(t, codes, stride, w, start, s, n, units);
  } else if (w.policy != kUniform) {
    const int limit = w.policy == kMixed ? n + (w.samples - n) / 2 : w.samples;
    for (; found.probed < t.tables && n < limit; ++found.probed) {
      const int table = (int)((high_product(start.x, (unsigned)t.tables) + found.probed) % (unsigned)t.tables);
      const Bucket b = bucket_of(t, table, codes[table * stride]);
      for (int i = 0; i < b.size + b.extra && n < limit; ++i) {
        const int id = member(t, b, i, start.y);
        if (id >= 0 && add_unit(s, id)) units[n++] = id;
      }
    }
  }
  found.hits = n - found.labels;
  if (w.fill && n < w.samples && (w.policy == kTopK || w.policy == kThreshold)) {
    for (int i = 0; i <= s.mask; ++i) s.keys[i] = -1;      // candidates that were not taken may be drawn
    for (int i = 0; i < n; ++i) add_unit(s, units[i]);
  }
  if (w.fill) found.filled = fill_uniformly(s, t.outputs, n, w.samples, item, w, units) - n;
  return found;
}

// One set for the batch into `units` (samples): labels, then the examples' hits in rounds, then uniform ones.
// `probed` gets the tables looked at for each example; item number `items` draws the uniform ones. With TOP_K and
// THRESHOLD `hits` (items, room) are the examples' own choices, -1 behind the last, of which each round takes one.
BREW_BOTH Found sample_batch(const Tables& t, const int* codes, long items, const int* labels, long width,
                             const Wish& w, const int* hits, long room, const Scratch& s, int* units, int* probed) {
  int n = 0;
  for (long i = 0; i < items * width; ++i)
    if (labels[i] >= 0 && add_unit(s, labels[i])) units[n++] = labels[i];
  Found found = {n, 0, 0, 0};
  const int limit = w.policy == kUniform ? n : w.policy == kMixed ? n + (w.samples - n) / 2 : w.samples;
  const bool chosen = w.policy == kTopK || w.policy == kThreshold;
  for (long item = 0; item < items; ++item) probed[item] = chosen ? t.tables : 0;
  for (long round = 0; round < (chosen ? room : t.tables) && n < limit; ++round)
    for (long item = 0; item < items && n < limit; ++item) {
      if (chosen) {
        const int id = hits[item * room + round];
        if (id >= 0 && add_unit(s, id)) units[n++] = id;
        continue;
      }
      const Words start = philox((unsigned long long)item << 32, w.stream, w.key);
      const int table = (int)((high_product(start.x, (unsigned)t.tables) + round) % (unsigned)t.tables);
      const Bucket b = bucket_of(t, table, codes[table * items + item]);
      ++probed[item];
      for (int i = 0; i < b.size + b.extra && n < limit; ++i) {
        const int id = member(t, b, i, start.y);
        if (id >= 0 && add_unit(s, id)) units[n++] = id;
      }
    }
  found.hits = n - found.labels;
  found.filled = fill_uniformly(s, t.outputs, n, w.samples, (unsigned long long)items, w, units) - n;
  return found;
}
