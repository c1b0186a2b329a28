// Losses over active sets with a list of labels for each item, and the units that rank first. An item's numbers are
// computed by one thread: the results do not depend on how many there are.
#include "../include/active_set.h"

#include <algorithm>
#include <cmath>

#include "cpu.h"

namespace BREW_ISA {

using OptionalInts = std::optional<Ints>;

// Scores and units (items, width), labels (items, labels), and what forward leaves for backward: p (items, width), the
// labels' places (items, labels), and for each item what p and the labels' shares are to be multiplied by.
struct ActiveSets {
  const float* score;
  const int *unit, *label;                  // unit: null for all of 0..width - 1
  float* p;
  int* place;
  float *scale, *share, *each;
  long width, labels;
};

constexpr long kPart = 64;                  // scores that a vectorised test looks at together

// A hash table of an item's labels: slots of 0, or 1 + a label's place in the list. It is so sparse that nearly all
// units meet an empty slot. Between items all slots are 0.
struct LabelTable {
  int* slots;
  int bits;
  static int bits_for(long labels) {
    int bits = 10;
    while (bits < 31 && (1L << bits) < 32 * labels) ++bits;
    return bits;
  }
  long first(int unit) const { return (long)((unsigned)unit * 2654435761u >> (32 - bits)); }
  long find(int unit, const int* label) const {                  // the slot of the unit, or where it would be
    long slot = first(unit);
    while (slots[slot] && label[slots[slot] - 1] != unit) slot = (slot + 1) & ((1L << bits) - 1);
    return slot;
  }
};

// Fills an item's places: -1 for padding, and for a label that comes again. Returns how many labels there are, and in
// `bad` the first that is not in the set, or -1. The set is passed through only for labels that neither stand first in
// it, in the order of the list, nor are found as if it were sorted.
static long find_labels(const int* unit, long width, const int* label, long labels, const LabelTable& table, int* place,
                        long& bad) {
  long count = 0, missing = 0;
  bad = labels;
  for (long j = 0; j < labels; ++j) {
    place[j] = -1;
    if (label[j] == -1) continue;
    if (label[j] < 0 || (!unit && label[j] >= width)) {
      bad = std::min(bad, j);
      continue;
    }
    const long slot = table.find(label[j], label);
    if (table.slots[slot]) continue;
    table.slots[slot] = (int)j + 1;
    if (!unit) {
      place[j] = label[j];
    } else if (count < width && unit[count] == label[j]) {
      place[j] = (int)count;
    } else {
      const int* at = std::lower_bound(unit, unit + width, label[j]);
      if (at < unit + width && *at == label[j]) place[j] = (int)(at - unit);
      else ++missing;
    }
    ++count;
  }
  for (long s = 0; missing && s < width; ++s) {
    if (!table.slots[table.first(unit[s])]) continue;
    const int at = table.slots[table.find(unit[s], label)];
    if (at && place[at - 1] < 0) place[at - 1] = (int)s, --missing;
  }
  for (long j = 0; missing && j < bad; ++j)
    if (place[j] < 0 && label[j] >= 0 && table.slots[table.find(label[j], label)] == j + 1) bad = j;
  for (long slot, j = labels - 1; j >= 0; --j)                     // the reverse order keeps every chain whole
    if (label[j] >= 0 && table.slots[slot = table.find(label[j], label)] == j + 1) table.slots[slot] = 0;
  bad = bad < labels ? bad : -1;
  return count;
}

// An item's largest score; p = e^(score - largest), 0 for padding, and their sum.
template <bool all>
static float exponentials(const float* x, const int* unit, float* p, long width, float& most) {
  most = -INFINITY;
  float sum = 0;
  if (all) {
#pragma omp simd reduction(max : most)
    for (long s = 0; s < width; ++s) most = most < x[s] ? x[s] : most;
  } else {
#pragma omp simd reduction(max : most)
    for (long s = 0; s < width; ++s) {
      const float v = unit[s] < 0 ? -INFINITY : x[s];
      most = most < v ? v : most;
    }
  }
  const float largest = most;
#pragma omp simd reduction(+ : sum)
  for (long s = 0; s < width; ++s) {
    const float e = exp_of(x[s] - largest);
    p[s] = all || unit[s] >= 0 ? e : 0.0f;
    sum += p[s];
  }
  return sum;
}

// Minus the mean logarithm of the labels' probabilities.
static long softmax_item(const ActiveSets& a, long n, long count) {
  const float* x = a.score + n * a.width;
  const int* unit = a.unit ? a.unit + n * a.width : nullptr;
  float most;
  const float sum = unit ? exponentials<false>(x, unit, a.p + n * a.width, a.width, most)
                         : exponentials<true>(x, unit, a.p + n * a.width, a.width, most);
  a.scale[n] = sum == 0 ? 0 : 1 / sum;
  a.share[n] = count ? 1.0f / count : 0;
  float labelled = 0;
  for (long j = 0; j < a.labels; ++j)
    if (a.place[n * a.labels + j] >= 0) labelled += x[a.place[n * a.labels + j]] - most;
  a.each[n] = count ? std::log(sum) - labelled / count : 0;
  return count > 0;
}

// p = sigmoid(score), 0 for padding; the sum of log(1 + e^score). In double: large scores of labels cancel again.
template <bool all>
static double sigmoids(const float* x, const int* unit, float* p, long width) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (long s = 0; s < width; ++s) {
    const SigmoidTerms of = sigmoid_terms(x[s], exp_of(-std::fabs(x[s])));
    const bool counts = all || unit[s] >= 0;
    p[s] = counts ? of.sigmoid : 0.0f;
    sum += counts ? of.softplus : 0.0f;
  }
  return sum;
}

static long sigmoid_item(const ActiveSets& a, long n, long count) {
  const float* x = a.score + n * a.width;
  const int* unit = a.unit ? a.unit + n * a.width : nullptr;
  double sum = unit ? sigmoids<false>(x, unit, a.p + n * a.width, a.width)
                    : sigmoids<true>(x, unit, a.p + n * a.width, a.width);
  for (long j = 0; j < a.labels; ++j)
    if (a.place[n * a.labels + j] >= 0) sum += label_term(x[a.place[n * a.labels + j]]);
  a.scale[n] = 1;
  a.share[n] = count ? 1 : 0;
  a.each[n] = count ? (float)sum : 0;
  if (!count) return 0;
  long active = a.width;
  if (unit) {
    active = 0;
    for (long s = 0; s < a.width; ++s) active += unit[s] >= 0;
  }
  return active;
}

// item(a, n, labels) for all items. Returns (the sum of what it returned, the first label that is not in its item's set
// or -1, the first unit below -1 or -1).
template <class F>
static py::tuple forward_items(const Array& score_, const OptionalInts& unit_, const Ints& label_, Array& p_,
                               Ints& place_, Array& scale_, Array& share_, Array& each_, long items, F item) {
  require(items >= 0 && (items ? score_.size() % items : score_.size()) == 0, "the scores have a part of an item");
  require((items ? label_.size() % items : label_.size()) == 0, "the labels have a part of an item");
  sized(score_.size(), p_);
  if (unit_) sized_one(score_.size(), *unit_);
  sized(label_.size(), place_);
  sized(items, scale_, share_, each_);
  const ActiveSets a{score_.data(), unit_ ? unit_->data() : nullptr, label_.data(), p_.mutable_data(),
                     place_.mutable_data(), scale_.mutable_data(), share_.mutable_data(), each_.mutable_data(),
                     items ? score_.size() / items : 0, items ? label_.size() / items : 0};
  require(a.width <= INT_MAX, "an active set of 2^31 units or more");
  long counted = 0, bad_label = LONG_MAX, bad_unit = LONG_MAX;
  const int bits = LabelTable::bits_for(a.labels);
  const PerThread<int> tables(1L << bits, items * a.width > kGrain);
  { Release _;
#pragma omp parallel reduction(+ : counted) reduction(min : bad_label, bad_unit) if (items * a.width > kGrain)
    {
      const LabelTable table{tables.mine(), bits};
      std::fill(table.slots, table.slots + (1L << bits), 0);
#pragma omp for
      for (long n = 0; n < items; ++n) {
        const int* unit = a.unit ? a.unit + n * a.width : nullptr;
        int least = 0;
#pragma omp simd reduction(min : least)
        for (long s = 0; s < (unit ? a.width : 0); ++s) least = std::min(least, unit[s]);
        for (long s = 0; least < -1 && s < a.width; ++s)
          if (unit[s] < -1) bad_unit = std::min(bad_unit, n * a.width + s);
        long bad;
        const long first = n * a.labels;
        const long count = find_labels(unit, a.width, a.label + first, a.labels, table, a.place + first, bad);
        if (bad >= 0) bad_label = std::min(bad_label, first + bad);
        counted += item(a, n, count);
      }
    } }
  return py::make_tuple(counted, bad_label < LONG_MAX ? bad_label : -1, bad_unit < LONG_MAX ? bad_unit : -1);
}

// An item's `count` best of `width` units, in order; -1 where there are fewer. `kept` is scratch for as many scores.
static void best_of(const float* x, const int* unit, long width, int* best, float* kept, long count) {
  long found = 0;
  for (long first = 0; first < width; first += kPart) {
    const long end = std::min(first + kPart, width);
    if (found == count) {
      float most = -INFINITY;
#pragma omp simd reduction(max : most)
      for (long s = first; s < end; ++s) most = most < x[s] ? x[s] : most;
      if (most < kept[count - 1]) continue;
    }
    for (long s = first; s < end; ++s) {
      const int u = unit ? unit[s] : (int)s;
      const float v = rankable(x[s]);
      if (u < 0 || (found == count && !ranks_before(v, u, kept[count - 1], best[count - 1]))) continue;
      long at = found < count ? found++ : count - 1;
      for (; at > 0 && ranks_before(v, u, kept[at - 1], best[at - 1]); --at) {
        kept[at] = kept[at - 1];
        best[at] = best[at - 1];
      }
      kept[at] = v;
      best[at] = u;
    }
  }
  std::fill(best + found, best + count, -1);
}

void bind_active_set(py::module_& m) {
  const auto nc = [](const char* name) { return py::arg(name).noconvert(); };
  // The cross entropy of the softmax over each item's set, or of the sigmoids of its units, with its labels: fills each
  // item's loss (0 without labels). Returns (items that count, or units of such items; the first bad label or -1; the
  // first bad unit or -1).
  const auto forward = [&](const char* name, auto item) {
    m.def(name, [item](const Array& score, const OptionalInts& unit, const Ints& label, Array& p, Ints& place,
                       Array& scale, Array& share, Array& each, long items) {
      return forward_items(score, unit, label, p, place, scale, share, each, items, item);
    }, nc("score"), nc("unit"), nc("label"), nc("p"), nc("place"), nc("scale"), nc("share"), nc("each"),
       py::arg("items"));
  };
  forward("active_softmax_forward", softmax_item);
  forward("active_sigmoid_forward", sigmoid_item);
  // dx = (p scale - share at the labels' places) weight; 0 for items without labels.
  m.def("active_set_backward", [](const Array& p_, const Ints& place_, const Array& scale_, const Array& share_,
                                  const Optional& weights_, Array& dx_, long items, float weight) {
    require(items >= 0 && (items ? p_.size() % items : p_.size()) == 0, "the probabilities have a part of an item");
    require((items ? place_.size() % items : place_.size()) == 0, "the places have a part of an item");
    sized(p_.size(), dx_);
    sized(items, scale_, share_, weights_);
    const long width = items ? p_.size() / items : 0, labels = items ? place_.size() / items : 0;
    check_padded(place_, width, "place");
    const int* place = place_.data();
    const float *p = p_.data(), *scale = scale_.data(), *share = share_.data(), *weights = pointer(weights_);
    float* dx = dx_.mutable_data(); Release _;
#pragma omp parallel for if (items * width > kGrain)
    for (long n = 0; n < items; ++n) {
      const float w = weights ? weights[n] * weight : weight, factor = scale[n] * w;
      const float* from = p + n * width;
      float* to = dx + n * width;
      if (share[n] == 0) { std::fill(to, to + width, 0.0f); continue; }
#pragma omp simd
      for (long s = 0; s < width; ++s) to[s] = from[s] * factor;
      for (long j = n * labels; j < (n + 1) * labels; ++j)
        if (place[j] >= 0) to[place[j]] -= share[n] * w;
    }
  }, nc("p"), nc("place"), nc("scale"), nc("share"), nc("weights"), nc("dx"), py::arg("items"), py::arg("weight"));
  // best (items, count): the units with the highest scores, of equal ones the lower number first; -1 where there are
  // fewer.
  m.def("best_units", [](const Array& score_, const OptionalInts& unit_, Ints& best_, long items, long width) {
    sized(volume({items, width}), score_);
    require((items ? best_.size() % items : best_.size()) == 0, "the result has a part of an item");
    if (unit_) sized_one(score_.size(), *unit_);
    const long count = items ? best_.size() / items : 0;
    require(width <= INT_MAX, "an active set of 2^31 units or more");
    const float* score = score_.data();
    const int* unit = unit_ ? unit_->data() : nullptr;
    int* best = best_.mutable_data(); Release _;
    if (!count) return;
    const PerThread<float> kept(count, items * width > kGrain);
#pragma omp parallel for if (items * width > kGrain)
    for (long n = 0; n < items; ++n)
      best_of(score + n * width, unit ? unit + n * width : nullptr, width, best + n * count, kept.mine(), count);
  }, nc("score"), nc("unit"), nc("best"), py::arg("items"), py::arg("width"));
}
}  // namespace BREW_ISA
