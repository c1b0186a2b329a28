// Locality-sensitive hashes of rows, and the tables that they fill. 16 rows are hashed side by side.
#include "../include/lsh.h"

#include "cpu.h"

namespace BREW_ISA {

namespace {
constexpr long kRows = 16;
typedef float Lanes __attribute__((vector_size(4 * kRows)));
typedef int Marks __attribute__((vector_size(4 * kRows)));

// Rows first..first + 15 of x, transposed: lane r of tile[d] is x[first + r, d]. The last row stands for those beyond
// it.
void load_tile(const float* x, long first, long rows, long dim, Lanes* tile) {
  const float* from[kRows];
  for (long r = 0; r < kRows; ++r) from[r] = x + std::min(first + r, rows - 1) * dim;
  float* const to = reinterpret_cast<float*>(tile);
  for (long d = 0; d < dim; ++d)
    for (long r = 0; r < kRows; ++r) to[d * kRows + r] = from[r][d];
}

void store_codes(const Marks& code, int* to, long first, long rows) {
  if (first + kRows <= rows) std::memcpy(to + first, &code, sizeof code);
  else for (long r = 0; first + r < rows; ++r) to[first + r] = code[r];
}

// The Hadamard transform of n lanes, n a power of two, not scaled; two stages at a time.
void hadamard(Lanes* x, long n) {
  long h = 1;
  for (; 4 * h <= n; h *= 4)
    for (long block = 0; block < n; block += 4 * h)
      for (long i = block; i < block + h; ++i) {
        const Lanes a = x[i] + x[i + h], b = x[i] - x[i + h];
        const Lanes c = x[i + 2 * h] + x[i + 3 * h], d = x[i + 2 * h] - x[i + 3 * h];
        x[i] = a + c; x[i + h] = b + d; x[i + 2 * h] = a - c; x[i + 3 * h] = b - d;
      }
  for (; h < n; h *= 2)
    for (long i = 0; i < h; ++i) {
      const Lanes a = x[i], b = x[i + h];
      x[i] = a + b; x[i + h] = a - b;
    }
}

Lanes* aligned(float* scratch) {
  return reinterpret_cast<Lanes*>((reinterpret_cast<std::uintptr_t>(scratch) + 63) / 64 * 64);
}
}  // namespace

void bind_lsh(py::module_& m) {
  const auto nc = [](const char* name) { return py::arg(name).noconvert(); };
  // codes[t, r] for tables first..: `hashes` winner-take-all hashes of row r of x (rows, dim), each of bits_of(bins)
  // bits. places (tables in all * hashes, bins) are coordinates.
  m.def("winner_codes", [](const Array& x_, const Ints& places_, Ints& codes_, long rows, long dim, long first,
                           long tables, int hashes, int bins, bool densified) {
    require(hashes > 0 && bins > 1 && bins <= 1024 && dim > 0 && first >= 0,
            "winner_codes: hashes, 2 to 1,024 coordinates and a width are needed");
    const int bits = bits_of(bins);
    require((long)hashes * bits <= 30 && 1 << bits == bins, "winner_codes: a code has at most 30 bits");
    sized(volume({rows, dim}), x_);
    sized(volume({tables, rows}), codes_);
    require(places_.size() % bins == 0 && (first + tables) * hashes <= places_.size() / bins
            && places_.size() / bins <= INT_MAX,
            "winner_codes: there are fewer places than hashes");
    check_indices(places_, dim, "coordinate");
    const float* x = x_.data();
    const int* places = places_.data();
    int* codes = codes_.mutable_data();
    const int all = (int)(places_.size() / bins);
    const PerThread<float> scratch(dim * kRows + 16, rows * dim > kGrain);
    Release _;
#pragma omp parallel for if (rows * dim > kGrain)
    for (long r = 0; r < rows; r += kRows) {
      Lanes* const tile = aligned(scratch.mine());
      load_tile(x, r, rows, dim, tile);
      for (long t = 0; t < tables; ++t) {
        Marks code = {}, empty = {};
        for (int k = 0; k < hashes; ++k) {
          const int* const at = places + ((first + t) * hashes + k) * bins;
          Lanes best = tile[at[0]];
          if (densified) best = best == 0 ? Lanes{} - HUGE_VALF : best;
          Marks won = {};
          for (int j = 1; j < bins; ++j) {
            Lanes v = tile[at[j]];
            if (densified) v = v == 0 ? Lanes{} - HUGE_VALF : v;
            const Marks more = v > best;
            best = more ? v : best;
            won = more ? Marks{} + j : won;
          }
          if (densified) empty |= best == -HUGE_VALF || best != best;
          code = code << bits | won;
        }
        int any = 0;
        if (densified)
          for (long l = 0; l < kRows; ++l) any |= empty[l];
        if (any)                                         // rare where rows are dense: one by one, as a GPU does all
          for (long l = 0; l < kRows; ++l) {
            if (!empty[l]) continue;
            int one = 0;
            for (int k = 0; k < hashes; ++k)
              one = one << bits | winner_code(reinterpret_cast<const float*>(tile) + l, kRows, places, all,
                                              (int)((first + t) * hashes + k), bins, densified);
            code[l] = one;
          }
        store_codes(code, codes + t * rows, r, rows);
      }
    }
  }, nc("x"), nc("places"), nc("codes"), py::arg("rows"), py::arg("dim"), py::arg("first"), py::arg("tables"),
     py::arg("hashes"), py::arg("bins"), py::arg("densified"));
  // codes[t, r] for tables first..: the signs of `hashes` projections of row r of x (rows, dim). signs (1 + 2 blocks,
  // width) are 1 or -1, width a power of two; each block makes the projections of width / hashes tables.
  m.def("sign_codes", [](const Array& x_, const Array& signs_, Ints& codes_, long rows, long dim, long first,
                         long tables, int hashes, long width) {
    require(hashes > 0 && hashes <= 30 && dim > 0 && dim <= width && hashes <= width && (width & (width - 1)) == 0
            && first >= 0,
            "sign_codes: a width of a power of two is needed, for all inputs and hashes, and at most 30 hashes");
    const long each = width / hashes;
    sized(volume({rows, dim}), x_);
    sized(volume({tables, rows}), codes_);
    require(signs_.size() % width == 0 && 1 + 2 * ((first + tables + each - 1) / each) <= signs_.size() / width,
            "sign_codes: there are fewer signs than projections need");
    const float *x = x_.data(), *signs = signs_.data();
    int* codes = codes_.mutable_data();
    const PerThread<float> scratch(2 * width * kRows + 16, rows * dim > kGrain);
    Release _;
#pragma omp parallel for if (rows * dim > kGrain)
    for (long r = 0; r < rows; r += kRows) {
      Lanes *const turned = aligned(scratch.mine()), *const tile = turned + width;
      load_tile(x, r, rows, dim, turned);
      for (long d = 0; d < dim; ++d) turned[d] *= signs[d];
      for (long d = dim; d < width; ++d) turned[d] = Lanes{};
      hadamard(turned, width);
      long t = first;
      for (long block = first / each; t < first + tables; ++block) {
        const float* const own = signs + (1 + 2 * block) * width;
        for (long d = 0; d < width; ++d) tile[d] = turned[d] * own[d];
        hadamard(tile, width);
        for (long d = 0; d < width; ++d) tile[d] *= own[width + d];
        hadamard(tile, width);
        for (; t < std::min(first + tables, (block + 1) * each); ++t) {
          const Lanes* const at = tile + (t - block * each) * hashes;
          Marks code = {};
          for (int k = 0; k < hashes; ++k) code = code << 1 | (at[k] > 0 & 1);
          store_codes(code, codes + (t - first) * rows, r, rows);
        }
      }
    }
  }, nc("x"), nc("signs"), nc("codes"), py::arg("rows"), py::arg("dim"), py::arg("first"), py::arg("tables"),
     py::arg("hashes"), py::arg("width"));
  // Tables first.. from codes (tables, units): bucket b of a table holds ids[offsets[b]..offsets[b + 1]), at most
  // `size` of the units with that code, in their order. offsets (tables, buckets + 1), ids (tables, capacity).
  m.def("fill_tables", [](const Ints& codes_, Ints& offsets_, Ints& ids_, long tables, long first, int size, bool fifo,
                          std::uint64_t key, std::uint64_t stream) {
    require(tables > 0 && size > 0 && first >= 0 && codes_.size() % tables == 0 && offsets_.size() % tables == 0
            && ids_.size() % tables == 0,
            "fill_tables: arrays have a part of a table");
    const long units = codes_.size() / tables, buckets = offsets_.size() / tables - 1, capacity = ids_.size() / tables;
    require(buckets > 0 && units <= INT_MAX && capacity >= std::min(units, buckets * size),
            "fill_tables: the ids have no room");
    check_indices(codes_, buckets, "bucket");
    const int* codes = codes_.data();
    int *offsets = offsets_.mutable_data(), *ids = ids_.mutable_data();
    const PerThread<int> scratch(buckets, tables > 1);
    Release _;
#pragma omp parallel for schedule(dynamic) if (tables > 1)
    for (long t = 0; t < tables; ++t) {
      const int* const code = codes + t * units;
      int *const seen = scratch.mine(), *const begin = offsets + t * (buckets + 1), *const to = ids + t * capacity;
      std::fill(seen, seen + buckets, 0);
      for (long i = 0; i < units; ++i) ++seen[code[i]];
      begin[0] = 0;
      for (long b = 0; b < buckets; ++b) begin[b + 1] = begin[b] + std::min(seen[b], size);
      std::fill(seen, seen + buckets, 0);
      Words words{};
      for (long i = 0, drawn = -1; i < units; ++i) {
        const int place = seen[code[i]]++;
        if (place >= size && !fifo && drawn != i / 4)
          words = reservoir_words((int)(first + t), (int)(drawn = i / 4), stream, key);
        const unsigned word = i % 4 == 0 ? words.x : i % 4 == 1 ? words.y : i % 4 == 2 ? words.z : words.w;
        const int slot = bucket_slot(place, size, fifo, word);
        if (slot >= 0) to[begin[code[i]] + slot] = (int)i;
      }
    }
  }, nc("codes"), nc("offsets"), nc("ids"), py::arg("tables"), py::arg("first"), py::arg("size"), py::arg("fifo"),
     py::arg("key"), py::arg("stream"));
}
}  // namespace BREW_ISA
