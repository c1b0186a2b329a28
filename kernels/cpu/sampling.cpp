// Active sets: which outputs of a large layer an example, or a batch, computes.
#include "../include/sampling.h"

#include "cpu.h"

namespace BREW_ISA {

namespace {
// The arrays of Tables, checked as far as no member can lie outside of them. No tables are needed for UNIFORM.
Tables tables_of(const Ints& offsets, const Ints& ids, const std::optional<Bytes>& moved, const Ints& over_codes,
                 const Ints& over_ids, int tables, int outputs, int size) {
  require(tables >= 0 && outputs > 0 && size > 0, "there are no outputs, or no buckets");
  Tables t{};
  t.tables = tables, t.outputs = outputs, t.size = size;
  if (!tables) return t;
  require(offsets.size() % tables == 0 && offsets.size() / tables > 1 && ids.size() % tables == 0
          && over_ids.size() % tables == 0,
          "the tables' arrays have a part of a table");
  sized(over_ids.size(), over_codes);
  if (moved) sized((outputs + 7L) / 8, *moved);
  t.offsets = offsets.data(), t.ids = ids.data(), t.over_codes = over_codes.data(), t.over_ids = over_ids.data();
  t.moved = moved ? moved->data() : nullptr;
  t.buckets = offsets.size() / tables - 1, t.capacity = ids.size() / tables, t.over = over_ids.size() / tables;
  return t;
}

// Units that one example may meet: those wanted or given, and where collisions are counted all that its buckets hold.
long candidates(const Tables& t, const Wish& w, long width) {
  const bool counts = w.policy == kTopK || w.policy == kThreshold;
  const long counted = counts ? std::min<long>(t.outputs, 2L * t.size * t.tables) : 0;
  return std::max<long>({counted + width, w.samples + width, 16});
}

long power_of_two(long n) {
  long p = 1;
  while (p < n) p *= 2;
  return p;
}

// Scratch of one thread, and its size in ints. Half of the hash table stays free.
long scratch_size(long room, int tables) { return 2 * 2 * power_of_two(room) + room + tables + 1; }
Scratch scratch_in(int* at, long room, int tables) {
  const long places = 2 * power_of_two(room);
  return {at, at + places, at + 2 * places, at + 2 * places + room, (int)(places - 1)};
}
void clear(const Scratch& s) { std::fill(s.keys, s.keys + s.mask + 1, -1); }

Wish wish(int samples, int policy, int threshold, bool fill, std::uint64_t key, std::uint64_t stream, int outputs) {
  require(samples > 0 && policy >= kVanilla && policy <= kMixed && threshold > 0, "a sample needs units and a policy");
  return {std::min(samples, outputs), policy, threshold, fill, stream, key};
}
}  // namespace

void bind_sampling(py::module_& m) {
  const auto nc = [](const char* name) { return py::arg(name).noconvert(); };
  // units (items, room): labels (items, width) first, then hits of the item's buckets (codes: tables, items), then,
  // with `fill`, uniform ones until there are `samples`; -1 behind them. found (items, 4): labels, hits, uniform
  // ones, tables looked at. See sampling.h.
  m.def("sample_units", [](const Ints& codes_, const Ints& offsets_, const Ints& ids_,
                           const std::optional<Bytes>& moved_, const Ints& over_codes_, const Ints& over_ids_,
                           const Ints& labels_, Ints& units_, Ints& found_, int tables, int outputs, int size,
                           int samples, int policy, int threshold, bool fill, std::uint64_t key, std::uint64_t stream) {
    const long items = found_.size() / 4;
    require(found_.size() % 4 == 0
            && (items ? units_.size() % items == 0 && labels_.size() % items == 0 : units_.size() == 0),
            "sample_units: the units have a part of an item");
    const Wish w = wish(samples, policy, threshold, fill, key, stream, outputs);
    const Tables t = tables_of(offsets_, ids_, moved_, over_codes_, over_ids_, tables, outputs, size);
    require(codes_.ndim() == 2 && codes_.shape(0) == tables && codes_.shape(1) == items, "codes are (tables, items)");
    const long room = items ? units_.size() / items : 0, width = items ? labels_.size() / items : 0;
    check_padded(labels_, outputs, "label");
    const int *codes = codes_.data(), *labels = labels_.data();
    for (long n = 0; n < items; ++n) {
      long given = 0;
      for (long i = 0; i < width; ++i) given += labels[n * width + i] >= 0;
      require(std::max<long>(given, w.samples) <= room,
              "sample_units: the units have no room for the samples and labels");
    }
    const long most = candidates(t, w, width);
    require(most < 1 << 29, "sample_units: too many candidates");
    int *units = units_.mutable_data(), *found = found_.mutable_data();
    const PerThread<int> scratch(scratch_size(most, tables), items > 1);
    Release _;
#pragma omp parallel for schedule(dynamic) if (items > 1)
    for (long n = 0; n < items; ++n) {
      const Scratch s = scratch_in(scratch.mine(), most, tables);
      clear(s);
      int* const to = units + n * room;
      const Found f = sample_example(t, codes + n, items, labels + n * width, width, w, n, s, to);
      std::fill(to + f.labels + f.hits + f.filled, to + room, -1);
      found[4 * n] = f.labels, found[4 * n + 1] = f.hits, found[4 * n + 2] = f.filled, found[4 * n + 3] = f.probed;
    }
  }, nc("codes"), nc("offsets"), nc("ids"), nc("moved"), nc("over_codes"), nc("over_ids"), nc("labels"), nc("units"),
     nc("found"), py::arg("tables"), py::arg("outputs"), py::arg("size"), py::arg("samples"), py::arg("policy"),
     py::arg("threshold"), py::arg("fill"), py::arg("key"), py::arg("stream"));
  // One set for all items: units (samples); probed (items); returns the numbers of labels, hits and uniform ones.
  // `hits` (items, room) as sample_units leaves them without labels and `fill`; they are read for TOP_K and
  // THRESHOLD.
  m.def("sample_union", [](const Ints& codes_, const Ints& offsets_, const Ints& ids_,
                           const std::optional<Bytes>& moved_, const Ints& over_codes_, const Ints& over_ids_,
                           const Ints& labels_, const Ints& hits_, Ints& units_, Ints& probed_, int tables, int outputs,
                           int size, int samples, int policy, std::uint64_t key, std::uint64_t stream) {
    const long items = probed_.size();
    require(items ? labels_.size() % items == 0 && hits_.size() % items == 0 : labels_.size() == 0,
            "sample_union: labels or hits have a part of an item");
    const Wish w = wish(samples, policy, 1, true, key, stream, outputs);
    const Tables t = tables_of(offsets_, ids_, moved_, over_codes_, over_ids_, tables, outputs, size);
    require(codes_.ndim() == 2 && codes_.shape(0) == tables && codes_.shape(1) == items, "codes are (tables, items)");
    require(hits_.ndim() == 2 && hits_.shape(0) == items, "hits are (items, room)");
    check_padded(labels_, outputs, "label");
    check_padded(hits_, outputs, "hit");
    const int *labels = labels_.data(), *hits = hits_.data();
    long given = 0;
    for (long i = 0; i < labels_.size(); ++i) given += labels[i] >= 0;
    require(std::max<long>(given, w.samples) <= units_.size(),
            "sample_union: the units have no room for the samples and labels");
    const long most = std::max<long>(w.samples, given) + 16;
    int *units = units_.mutable_data(), *probed = probed_.mutable_data();
    std::unique_ptr<int[]> memory(new int[scratch_size(most, tables)]);
    const Scratch s = scratch_in(memory.get(), most, tables);
    Found f;
    {
      Release _;
      clear(s);
      f = sample_batch(t, codes_.data(), items, labels, items ? labels_.size() / items : 0, w, hits,
                       items ? hits_.size() / items : 0, s, units, probed);
    }
    return py::make_tuple(f.labels, f.hits, f.filled);
  }, nc("codes"), nc("offsets"), nc("ids"), nc("moved"), nc("over_codes"), nc("over_ids"), nc("labels"), nc("hits"),
     nc("units"), nc("probed"), py::arg("tables"), py::arg("outputs"), py::arg("size"), py::arg("samples"),
     py::arg("policy"), py::arg("key"), py::arg("stream"));
}
}  // namespace BREW_ISA
