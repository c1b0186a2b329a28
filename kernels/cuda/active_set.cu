// Losses over active sets with a list of labels for each item, and the units that rank first: one block for each item,
// for a set has thousands of units and a batch at least a hundred items. Minima by atomics are the same in any order.
#include "reduce.h"
#include "active_set.h"

#define NOWHERE 2147483647

__device__ __forceinline__ float block_max(float v) {
  __shared__ float parts[32];
  const int warps = (blockDim.x + 31) >> 5;
  for (int o = 16; o > 0; o >>= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, o));
  if ((threadIdx.x & 31) == 0) parts[threadIdx.x >> 5] = v;
  __syncthreads();
  for (int i = 0; i < warps; ++i) v = fmaxf(v, parts[i]);
  __syncthreads();
  return v;
}

// Fills an item's places: -1 for padding, and for a label that comes again. Returns how many labels there are, and
// leaves in `bad` the first label that is not in the set, and the first unit below -1; NOWHERE if there is none.
__device__ int find_labels(const int* unit, const int* label, int* place, int width, int labels, int* bad) {
  if (threadIdx.x == 0) bad[0] = bad[1] = NOWHERE;
  for (int j = threadIdx.x; j < labels; j += blockDim.x)
    place[j] = unit || label[j] < 0 || label[j] >= width ? NOWHERE : label[j];
  __syncthreads();
  for (int s = threadIdx.x; unit && s < width; s += blockDim.x) {
    if (unit[s] < -1) atomicMin(bad + 1, s);
    for (int j = 0; unit[s] >= 0 && j < labels; ++j)
      if (label[j] == unit[s]) atomicMin(place + j, s);
  }
  __syncthreads();
  int count = 0;
  for (int j = threadIdx.x; j < labels; j += blockDim.x) {
    bool counts = label[j] != -1;
    for (int i = 0; counts && i < j; ++i) counts = label[i] != label[j];
    if (counts && place[j] == NOWHERE) atomicMin(bad, j);
    if (!counts || place[j] == NOWHERE) place[j] = -1;
    else ++count;
  }
  return block_sum(count);
}

// An item with its scores, its units if there are any, and the places of its `count` labels, which are found here.
struct Item {
  long n;
  const float* x;
  const int *u, *place;
  int count;
};
__device__ Item item_of(const float* score, const int* unit, const int* label, int* place, int* state, int width,
                        int labels) {
  const long n = blockIdx.x;
  const int* u = unit ? unit + n * width : nullptr;
  place += n * labels;
  const int count = find_labels(u, label + n * labels, place, width, labels, state + n * 3 + 1);
  return {n, score + n * width, u, place, count};
}

// state (items, 3): what counts, the first bad label and the first bad unit of the item, NOWHERE if there is none.
extern "C" __global__ void active_softmax_forward(const float* score, const int* unit, const int* label, float* p,
                                                  int* place, float* scale, float* share, float* each, int* state,
                                                  int width, int labels) {
  const Item item = item_of(score, unit, label, place, state, width, labels);
  const long n = item.n;
  const float* const x = item.x;
  const int *const u = item.u, *const at = item.place, count = item.count;
  float most = least_score(), sum = 0, labelled = 0;
  for (int s = threadIdx.x; s < width; s += blockDim.x)
    if (!u || u[s] >= 0) most = fmaxf(most, x[s]);
  most = block_max(most);
  for (int s = threadIdx.x; s < width; s += blockDim.x) {
    const float e = u && u[s] < 0 ? 0.0f : exp_of(x[s] - most);
    p[n * width + s] = e;
    sum += e;
  }
  for (int j = threadIdx.x; j < labels; j += blockDim.x)
    if (at[j] >= 0) labelled += x[at[j]] - most;
  sum = block_sum(sum);
  labelled = block_sum(labelled);
  if (threadIdx.x == 0) {
    scale[n] = sum == 0 ? 0 : 1 / sum;
    share[n] = count ? 1.0f / count : 0;
    each[n] = count ? logf(sum) - labelled / count : 0;
    state[n * 3] = count > 0;
  }
}
extern "C" __global__ void active_sigmoid_forward(const float* score, const int* unit, const int* label, float* p,
                                                  int* place, float* scale, float* share, float* each, int* state,
                                                  int width, int labels) {
  const Item item = item_of(score, unit, label, place, state, width, labels);
  const long n = item.n;
  const float* const x = item.x;
  const int *const u = item.u, *const at = item.place, count = item.count;
  double sum = 0;                                 // large scores of labels cancel again
  int active = 0;
  for (int s = threadIdx.x; s < width; s += blockDim.x) {
    const bool counts = !u || u[s] >= 0;
    const SigmoidTerms of = sigmoid_terms(x[s], exp_of(-fabsf(x[s])));
    p[n * width + s] = counts ? of.sigmoid : 0.0f;
    if (counts) sum += of.softplus;
    active += counts;
  }
  for (int j = threadIdx.x; j < labels; j += blockDim.x)
    if (at[j] >= 0) sum += label_term(x[at[j]]);
  sum = block_sum(sum);
  active = block_sum(active);
  if (threadIdx.x == 0) {
    scale[n] = 1;
    share[n] = count ? 1 : 0;
    each[n] = count ? (float)sum : 0;
    state[n * 3] = count ? active : 0;
  }
}
// dx = (p scale - share at the labels' places) weight; 0 for items without labels. No place occurs twice.
extern "C" __global__ void active_set_backward(const float* p, const int* place, const float* scale, const float* share,
                                               const float* weights, float* dx, float weight, int width, int labels) {
  const long n = blockIdx.x;
  const float w = weights ? weights[n] * weight : weight, factor = scale[n] * w;
  for (int s = threadIdx.x; s < width; s += blockDim.x)
    dx[n * width + s] = share[n] == 0 ? 0.0f : p[n * width + s] * factor;
  __syncthreads();
  for (int j = threadIdx.x; j < labels; j += blockDim.x)
    if (place[n * labels + j] >= 0) dx[n * width + place[n * labels + j]] -= share[n] * w;
}
// best (items, count): in each round all threads look for the first unit that ranks after the one before.
extern "C" __global__ void best_units(const float* score, const int* unit, int* best, int width, int count) {
  __shared__ float scores[1024];
  __shared__ int units[1024];
  const float* x = score + (long)blockIdx.x * width;
  const int* u = unit ? unit + (long)blockIdx.x * width : nullptr;
  float last = -least_score();
  int last_unit = -1;
  for (int k = 0; k < count; ++k) {
    float most = least_score();
    int which = NOWHERE;
    for (int s = threadIdx.x; s < width; s += blockDim.x) {
      const int number = u ? u[s] : s;
      const float v = rankable(x[s]);
      if (number >= 0 && ranks_before(last, last_unit, v, number) && ranks_before(v, number, most, which)) {
        most = v;
        which = number;
      }
    }
    scores[threadIdx.x] = most;
    units[threadIdx.x] = which;
    __syncthreads();
    for (int o = blockDim.x >> 1; o > 0; o >>= 1) {
      const int a = threadIdx.x, b = a + o;
      if (a < o && ranks_before(scores[b], units[b], scores[a], units[a])) {
        scores[a] = scores[b];
        units[a] = units[b];
      }
      __syncthreads();
    }
    last = scores[0];
    last_unit = units[0];
    __syncthreads();
    if (threadIdx.x == 0) best[(long)blockIdx.x * count + k] = last_unit == NOWHERE ? -1 : last_unit;
  }
}
