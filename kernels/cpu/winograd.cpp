// Convolutions of 3 x 3 with stride 1 by Winograd's minimal filtering F(2 x 2, 3 x 3): Lavin and Gray, Fast Algorithms for
// Convolutional Neural Networks, 2016, section 4.1. A tile of 4 x 4 inputs d and a kernel g give 2 x 2 outputs
// A'[(G g G') * (B' d B)]A: 16 multiplications where the definition takes 36. Over channels the products are 16 matrix
// products, one for each place of the tile. All blobs are in blocks of kLanes channels, weights in oneDNN's blocks of both
// channels: (K/lanes, C/lanes, 3, 3, lanes of C, lanes of K).
#include "cpu.h"

namespace BREW_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16, kRows = 14;          // rows of a product: twice as many accumulators, of 32 registers
#elif defined(__AVX2__)
constexpr int kLanes = 8, kRows = 6;            // of 16
#else
constexpr int kLanes = 4, kRows = 4;
#endif
constexpr int kPlaces = 16;                     // of a tile
constexpr long kCache = 1 << 20;                // bytes of tiles that a thread works on at a time
constexpr long kGradientTiles = 256;            // of the weights' gradient at a time: two blocks of outputs stay in the first cache
typedef float Vec __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

inline Vec& at(float* p) { return *reinterpret_cast<Vec*>(p); }
inline const Vec& at(const float* p) { return *reinterpret_cast<const Vec*>(p); }

// One group of (N, groups C, height, width), convolved to (N, groups K, rows, columns) with these pads before.
struct Shape {
  long images, channels, height, width, outputs, rows, columns, pad_y, pad_x, groups;
  long down() const { return (rows + 1) / 2; }
  long across() const { return (columns + 1) / 2; }
  long tiles() const { return images * down() * across(); }
};
Shape shape_of(const std::vector<long>& v) {
  const Shape s{v.at(0), v.at(1), v.at(2), v.at(3), v.at(4), v.at(5), v.at(6), v.at(7), v.at(8), v.at(9)};
  if (s.channels % kLanes || s.outputs % kLanes) throw std::invalid_argument("Winograd's convolution takes whole blocks of channels");
  require(s.channels > 0 && s.outputs > 0 && s.groups > 0 && s.pad_y >= 0 && s.pad_x >= 0 && s.pad_y <= 2 && s.pad_x <= 2 && s.tiles() > 0, "Winograd's convolution needs channels, tiles, and pads of 0 to 2");
  return s;
}
// The shape for arrays of these sizes.
Shape shape_of(const std::vector<long>& v, const Array& x, const Array& y) {
  volume({v.at(0), v.at(1), v.at(2), v.at(3), v.at(9)});
  volume({v.at(0), v.at(4), v.at(5), v.at(6), v.at(9)});
  const Shape s = shape_of(v);
  sized(s.images * s.groups * s.channels * s.height * s.width, x);
  sized(s.images * s.groups * s.outputs * s.rows * s.columns, y);
  return s;
}

struct Tile { long image, y, x; };
inline Tile tile_of(const Shape& s, long t) { return {t / (s.down() * s.across()), t / s.across() % s.down() * 2, t % s.across() * 2}; }

// Tiles of an array, transformed: (place, block of channels, tile, lane). Places are a line more apart than they are long,
// so that they do not fall on the same lines of the cache.
struct Tiled {
  float* data;
  long tiles, channels;
  long place() const { return channels * tiles + kLanes; }
  long block() const { return tiles * kLanes; }
  static long size(long tiles, long channels) { return kPlaces * (channels * tiles + kLanes); }
};

inline void transform_input(Vec (&d)[4][4]) {      // B' d B
  for (int j = 0; j < 4; ++j) {
    const Vec a = d[0][j] - d[2][j], b = d[1][j] + d[2][j], c = d[2][j] - d[1][j], e = d[1][j] - d[3][j];
    d[0][j] = a; d[1][j] = b; d[2][j] = c; d[3][j] = e;
  }
  for (int i = 0; i < 4; ++i) {
    const Vec a = d[i][0] - d[i][2], b = d[i][1] + d[i][2], c = d[i][2] - d[i][1], e = d[i][1] - d[i][3];
    d[i][0] = a; d[i][1] = b; d[i][2] = c; d[i][3] = e;
  }
}

// The tiles first ... of x into v, which has room for v.tiles; those behind the last are zero.
void gather_input(const Shape& s, const float* x, long first, long tiles, const Tiled& v, long begin, long end) {
  const long plane = s.height * s.width * kLanes, blocks = s.channels / kLanes;
  for (long cb = 0; cb < blocks; ++cb)
    for (long t = begin; t < end; ++t) {
      float* to = v.data + cb * v.block() + t * kLanes;
      Vec d[4][4] = {};
      if (t < tiles) {
        const Tile tile = tile_of(s, first + t);
        const long y = tile.y - s.pad_y, left = tile.x - s.pad_x;
        const long from = (tile.image * s.groups * blocks + cb) * plane + (y * s.width + left) * kLanes;      // may lie before x
        if (y >= 0 && left >= 0 && y + 4 <= s.height && left + 4 <= s.width) {
          for (int i = 0; i < 4; ++i)
            for (int j = 0; j < 4; ++j) d[i][j] = at(x + from + (i * s.width + j) * kLanes);
        } else {
          for (int i = 0; i < 4; ++i)
            for (int j = 0; j < 4; ++j)
              if (y + i >= 0 && y + i < s.height && left + j >= 0 && left + j < s.width) d[i][j] = at(x + (from + (i * s.width + j) * kLanes));
        }
        transform_input(d);
      }
      for (int p = 0; p < kPlaces; ++p) at(to + p * v.place()) = d[p / 4][p % 4];
    }
}

// m = v u for R tiles and B blocks of outputs.
template <int R, int B> inline void product(const float* v, long v_block, long blocks, const float* u, float* m, long m_block) {
  Vec sum[R][B];
  for (int r = 0; r < R; ++r)
    for (int b = 0; b < B; ++b) sum[r][b] = Vec{};
  for (long cb = 0; cb < blocks; ++cb, v += v_block)
    for (int c = 0; c < kLanes; ++c, u += B * kLanes) {
      Vec w[B];
      for (int b = 0; b < B; ++b) w[b] = at(u + b * kLanes);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r)
        for (int b = 0; b < B; ++b) sum[r][b] += v[r * kLanes + c] * w[b];
    }
  for (int r = 0; r < R; ++r)
    for (int b = 0; b < B; ++b) at(m + b * m_block + r * kLanes) = sum[r][b];
}

struct After { const float *bias, *addend; bool relu; float slope; };

// y from m: A' m A, bias, addend, ReLU.
void scatter_output(const Shape& s, const Tiled& m, float* y, long first, long tiles, const After& after) {
  const long plane = s.rows * s.columns * kLanes, blocks = s.outputs / kLanes;
  for (long kb = 0; kb < blocks; ++kb) {
    const Vec bias = after.bias ? at(after.bias + kb * kLanes) : Vec{};
    for (long t = 0; t < tiles; ++t) {
      const float* from = m.data + kb * m.block() + t * kLanes;
      Vec h[2][4];
      for (int j = 0; j < 4; ++j) {
        const Vec a = at(from + j * m.place()), b = at(from + (4 + j) * m.place()), c = at(from + (8 + j) * m.place()), d = at(from + (12 + j) * m.place());
        h[0][j] = a + b + c;
        h[1][j] = b - c - d;
      }
      const Tile tile = tile_of(s, first + t);
      const long offset = (tile.image * s.groups * blocks + kb) * plane;
      for (int i = 0; i < 2 && tile.y + i < s.rows; ++i) {
        Vec out[2] = {h[i][0] + h[i][1] + h[i][2] + bias, h[i][1] - h[i][2] - h[i][3] + bias};
        for (int j = 0; j < 2 && tile.x + j < s.columns; ++j) {
          const long place = offset + ((tile.y + i) * s.columns + tile.x + j) * kLanes;
          if (after.addend) out[j] += at(after.addend + place);
          if (after.relu) out[j] = out[j] < 0 ? (after.slope != 0 ? out[j] * after.slope : Vec{}) : out[j];
          at(y + place) = out[j];
        }
      }
    }
  }
}

// How many of its tiles a thread takes at a time: what fits into its cache, or what makes reading all weights once more cost
// little beside the tiles.
long tiles_at_a_time(const Shape& s, long tiles) {
  const long fit = std::max(kCache / (kPlaces * (long)sizeof(float) * (s.channels + s.outputs)), s.channels * s.outputs / (2 * (s.channels + s.outputs)));
  const long steps = (tiles + fit - 1) / fit, step = (tiles + steps - 1) / steps;
  return (step + kRows - 1) / kRows * kRows;
}

void forward(const Shape& s, const float* x, const float* u, float* y, const After& after) {
  const long tiles = s.tiles(), blocks_in = s.channels / kLanes, blocks_out = s.outputs / kLanes;
  const long most = omp_get_max_threads(), step = tiles_at_a_time(s, (tiles + most - 1) / most);
  const long each = Tiled::size(step, s.channels) + Tiled::size(step, s.outputs);
  static thread_local Buffer buffer;                     // for all threads of the region, in which nothing may be allocated
  float* const scratch = buffer.get(most * each);
#pragma omp parallel
  {
    const long threads = omp_get_num_threads(), me = omp_get_thread_num(), end = tiles * (me + 1) / threads;
    float* memory = scratch + each * me;
    const Tiled v{memory, step, s.channels}, m{memory + Tiled::size(step, s.channels), step, s.outputs};
    for (long first = tiles * me / threads; first < end; first += step) {
      const long here = std::min(step, end - first), rows = (here + kRows - 1) / kRows * kRows;
      gather_input(s, x, first, here, v, 0, rows);
      for (int p = 0; p < kPlaces; ++p)
        for (long kb = 0; kb < blocks_out; kb += 2)
          for (long t = 0; t < rows; t += kRows) {
            const float *from = v.data + p * v.place() + t * kLanes, *weights = u + p * s.channels * s.outputs + kb * kLanes * s.channels;
            float* to = m.data + p * m.place() + kb * m.block() + t * kLanes;
            if (kb + 1 < blocks_out) product<kRows, 2>(from, v.block(), blocks_in, weights, to, m.block());
            else product<kRows, 1>(from, v.block(), blocks_in, weights, to, m.block());
          }
      scatter_output(s, m, y, first, here, after);
    }
  }
}

// u = G g G' for one input channel and a block of outputs; `apart` floats from place to place.
inline void transform_weights(const Vec (&g)[3][3], float* u, long apart) {
  Vec h[4][3];
  for (int j = 0; j < 3; ++j) {
    const Vec sum = (g[0][j] + g[2][j]) * 0.5f, half = g[1][j] * 0.5f;
    h[0][j] = g[0][j]; h[1][j] = sum + half; h[2][j] = sum - half; h[3][j] = g[2][j];
  }
  for (int i = 0; i < 4; ++i) {
    const Vec sum = (h[i][0] + h[i][2]) * 0.5f, half = h[i][1] * 0.5f;
    at(u + (i * 4) * apart) = h[i][0];
    at(u + (i * 4 + 1) * apart) = sum + half;
    at(u + (i * 4 + 2) * apart) = sum - half;
    at(u + (i * 4 + 3) * apart) = h[i][2];
  }
}

// Where the weights of input channel c to the block kb of outputs lie in each place of u.
inline long panel(long kb, long c, long channels, long blocks_out) {
  const long first = kb / 2 * 2, width = first + 1 < blocks_out ? 2 : 1;
  return first * kLanes * channels + c * width * kLanes + (kb - first) * kLanes;
}

// w (K, C) for a forward pass; `turned`: for the gradient of the bottom, where K are the inputs and kernels are turned round.
void weights(const float* w, float* u, long K, long C, bool turned) {
  const long kbs = K / kLanes, cbs = C / kLanes, apart = K * C;
#pragma omp parallel for collapse(2)
  for (long kb = 0; kb < kbs; ++kb)
    for (long cb = 0; cb < cbs; ++cb) {
      const float* block = w + (kb * cbs + cb) * 9 * kLanes * kLanes;
      float other[9][kLanes][kLanes];
      if (turned)
        for (int e = 0; e < 9; ++e)
          for (int c = 0; c < kLanes; ++c)
            for (int k = 0; k < kLanes; ++k) other[8 - e][k][c] = block[(e * kLanes + c) * kLanes + k];
      const float* from = turned ? &other[0][0][0] : block;
      for (int c = 0; c < kLanes; ++c) {          // of the inputs
        Vec g[3][3];
        for (int e = 0; e < 9; ++e) g[e / 3][e % 3] = at(from + (e * kLanes + c) * kLanes);
        transform_weights(g, u + (turned ? panel(cb, kb * kLanes + c, K, cbs) : panel(kb, cb * kLanes + c, C, kbs)), apart);
      }
    }
}

// The tiles of dy: A dy A'.
void gather_gradient(const Shape& s, const float* dy, long first, long tiles, const Tiled& z, long begin, long end) {
  const long plane = s.rows * s.columns * kLanes, blocks = s.outputs / kLanes;
  for (long kb = 0; kb < blocks; ++kb)
    for (long t = begin; t < std::min(end, tiles); ++t) {
      const Tile tile = tile_of(s, first + t);
      const float* from = dy + (tile.image * s.groups * blocks + kb) * plane + (tile.y * s.columns + tile.x) * kLanes;
      const bool below = tile.y + 1 < s.rows, right = tile.x + 1 < s.columns;
      const Vec zero = {}, a = at(from), b = right ? at(from + kLanes) : zero, c = below ? at(from + s.columns * kLanes) : zero,
                d = below && right ? at(from + (s.columns + 1) * kLanes) : zero;
      const Vec h[4][2] = {{a, b}, {a + c, b + d}, {a - c, b - d}, {-c, -d}};
      float* to = z.data + kb * z.block() + t * kLanes;
      for (int i = 0; i < 4; ++i) {
        at(to + (i * 4) * z.place()) = h[i][0];
        at(to + (i * 4 + 1) * z.place()) = h[i][0] + h[i][1];
        at(to + (i * 4 + 2) * z.place()) = h[i][0] - h[i][1];
        at(to + (i * 4 + 3) * z.place()) = -h[i][1];
      }
    }
}

// sum += v' z over tiles, for R input channels of one block and B blocks of outputs.
template <int R, int B> inline void outer_product(const float* v, const float* z, long z_block, long tiles, float* sum, long sum_block, bool add) {
  Vec s[R][B];
  for (int r = 0; r < R; ++r)
    for (int b = 0; b < B; ++b) s[r][b] = add ? at(sum + b * sum_block + r * kLanes) : Vec{};
  for (long t = 0; t < tiles; ++t) {
    Vec w[B];
    for (int b = 0; b < B; ++b) w[b] = at(z + b * z_block + t * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
      for (int b = 0; b < B; ++b) s[r][b] += v[t * kLanes + r] * w[b];
  }
  for (int r = 0; r < R; ++r)
    for (int b = 0; b < B; ++b) at(sum + b * sum_block + r * kLanes) = s[r][b];
}

long gradient_tiles_at_a_time(const Shape& s) {
  const long steps = (s.tiles() + kGradientTiles - 1) / kGradientTiles;
  return (s.tiles() + steps - 1) / steps;
}

// Floats that backward_weights works in.
long gradient_memory(const Shape& s) {
  const long step = gradient_tiles_at_a_time(s);
  return Tiled::size(step, s.channels) + Tiled::size(step, s.outputs) + kPlaces * s.channels * s.outputs;
}

void backward_weights(const Shape& s, const float* x, const float* dy, float* memory, float* dw, float* db, float beta) {
  constexpr int R = kLanes / 2;
  const long tiles = s.tiles(), step = gradient_tiles_at_a_time(s), C = s.channels, K = s.outputs, cbs = C / kLanes, kbs = K / kLanes;
  const Tiled v{memory, step, C}, z{memory + Tiled::size(step, C), step, K};
  float* sums = z.data + Tiled::size(step, K);           // (place, K/lanes, C, lanes)
  if (db && beta == 0) std::fill(db, db + K, 0.0f);
#pragma omp parallel
  {
    const long threads = omp_get_num_threads(), me = omp_get_thread_num();
    for (long first = 0; first < tiles; first += step) {
      const long here = std::min(step, tiles - first);
      gather_input(s, x, first, here, v, here * me / threads, here * (me + 1) / threads);
      gather_gradient(s, dy, first, here, z, here * me / threads, here * (me + 1) / threads);
#pragma omp barrier
#pragma omp for collapse(2) schedule(static)
      for (int p = 0; p < kPlaces; ++p)
        for (long kb = 0; kb < kbs; kb += 2)
          for (long c = 0; c < C; c += R) {
            const float *from = v.data + p * v.place() + c / kLanes * v.block() + c % kLanes, *gradient = z.data + p * z.place() + kb * z.block();
            float* to = sums + ((p * kbs + kb) * C + c) * kLanes;
            if (kb + 1 < kbs) outer_product<R, 2>(from, gradient, z.block(), here, to, C * kLanes, first > 0);
            else outer_product<R, 1>(from, gradient, z.block(), here, to, C * kLanes, first > 0);
          }
#pragma omp for schedule(static)
      for (long kb = 0; kb < kbs; ++kb)
        if (db) {                                         // place (1, 1) is the sum of a tile
          Vec sum = at(db + kb * kLanes);
          for (long t = 0; t < here; ++t) sum += at(z.data + 5 * z.place() + kb * z.block() + t * kLanes);
          at(db + kb * kLanes) = sum;
        }
    }
#pragma omp for collapse(2) schedule(static)
    for (long kb = 0; kb < kbs; ++kb)
      for (long c = 0; c < C; ++c) {                      // G' sums G
        Vec h[3][4];
        for (int j = 0; j < 4; ++j) {
          Vec q[4];
          for (int i = 0; i < 4; ++i) q[i] = at(sums + (((i * 4 + j) * kbs + kb) * C + c) * kLanes);
          const Vec sum = (q[1] + q[2]) * 0.5f;
          h[0][j] = q[0] + sum; h[1][j] = (q[1] - q[2]) * 0.5f; h[2][j] = q[3] + sum;
        }
        float* to = dw + ((kb * cbs + c / kLanes) * 9 * kLanes + c % kLanes) * kLanes;
        for (int i = 0; i < 3; ++i) {
          const Vec sum = (h[i][1] + h[i][2]) * 0.5f;
          const Vec g[3] = {h[i][0] + sum, (h[i][1] - h[i][2]) * 0.5f, h[i][3] + sum};
          for (int j = 0; j < 3; ++j) {
            Vec& out = at(to + (i * 3 + j) * kLanes * kLanes);
            out = beta != 0 ? out + g[j] : g[j];
          }
        }
      }
  }
}

}  // namespace

void bind_winograd(py::module_& m) {
  m.attr("winograd_lanes") = kLanes;

  // w (groups, K/lanes, C/lanes, 3, 3, lanes, lanes) to u (groups, 16 K C). `turned`: to the weights that make the bottom's
  // gradient of the top's, in a convolution whose shape has the two exchanged.
  m.def("winograd_weights", [](const Array& w, Array& u, long groups, long outputs, long channels, bool turned) {
    require(outputs % kLanes == 0 && channels % kLanes == 0, "Winograd's convolution takes whole blocks of channels");
    sized(volume({groups, outputs, channels, 9}), w);
    require(u.size() >= volume({groups, outputs, channels, kPlaces}), "winograd_weights: u is too small");
    const float* from = w.data();
    float* to = u.mutable_data();
    Release _;
    for (long g = 0; g < groups; ++g) weights(from + g * 9 * outputs * channels, to + g * kPlaces * outputs * channels, outputs, channels, turned);
  }, py::arg("w").noconvert(), py::arg("u").noconvert(), py::arg("groups"), py::arg("outputs"), py::arg("channels"), py::arg("turned"));

  // shape: images, channels of a group, height, width, outputs of a group, rows, columns, pads before, groups.
  m.def("winograd_forward", [](const Array& x, const Array& u, const Optional& bias, const Optional& addend, std::optional<float> relu, Array& y,
                               const std::vector<long>& shape) {
    const Shape s = shape_of(shape, x, y);
    require(u.size() >= volume({s.groups, s.outputs, s.channels, kPlaces}), "winograd_forward: u is too small");
    sized(s.groups * s.outputs, bias);
    sized(y.size(), addend);
    const float *a = x.data(), *b = u.data(), *c = pointer(bias), *d = pointer(addend);
    float* e = y.mutable_data();
    Release _;
    for (long g = 0; g < s.groups; ++g) {
      const long out = g * s.outputs * s.rows * s.columns;
      forward(s, a + g * s.channels * s.height * s.width, b + g * kPlaces * s.outputs * s.channels, e + out,
              {c ? c + g * s.outputs : nullptr, d ? d + out : nullptr, relu.has_value(), relu.value_or(0.0f)});
    }
  }, py::arg("x").noconvert(), py::arg("u").noconvert(), py::arg("bias").noconvert(), py::arg("addend").noconvert(), py::arg("relu"), py::arg("y").noconvert(), py::arg("shape"));

  m.def("winograd_gradient_memory", [](const std::vector<long>& shape) { return gradient_memory(shape_of(shape)); },
        "Floats that winograd_backward_weights works in.", py::arg("shape"));
  m.def("winograd_backward_weights", [](const Array& x, const Array& dy, Array& memory, Array& dw, Optional& db, float beta, const std::vector<long>& shape) {
    const Shape s = shape_of(shape, x, dy);
    require(memory.size() >= gradient_memory(s), "winograd_backward_weights: memory is too small");
    sized(volume({s.groups, s.outputs, s.channels, 9}), dw);
    sized(s.groups * s.outputs, db);
    const float *a = x.data(), *b = dy.data();
    float *work = memory.mutable_data(), *c = dw.mutable_data(), *d = mutable_pointer(db);
    Release _;
    for (long g = 0; g < s.groups; ++g)
      backward_weights(s, a + g * s.channels * s.height * s.width, b + g * s.outputs * s.rows * s.columns, work, c + g * 9 * s.outputs * s.channels,
                       d ? d + g * s.outputs : nullptr, beta);
  }, py::arg("x").noconvert(), py::arg("dy").noconvert(), py::arg("memory").noconvert(), py::arg("dw").noconvert(), py::arg("db").noconvert(), py::arg("beta"), py::arg("shape"));
}

}  // namespace BREW_ISA
