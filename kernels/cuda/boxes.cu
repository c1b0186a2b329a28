// Non-maximum suppression: a block for each list, its threads compare one box with those that were kept before.
#include "boxes.h"
#include "reduce.h"

extern "C" __global__ void suppress(const float* boxes, const int* count, int* kept, float threshold, float eta, int n) {
  const float* b = boxes + (long)blockIdx.x * n * 4;
  int* k = kept + (long)blockIdx.x * n;
  float limit = threshold;
  for (int i = threadIdx.x; i < n; i += blockDim.x) k[i] = 0;
  __syncthreads();
  for (int i = 0; i < count[blockIdx.x]; ++i) {
    int hits = 0;
    for (int j = threadIdx.x; j < i; j += blockDim.x) hits += k[j] && box_overlap(b + 4 * i, b + 4 * j) > limit;
    if (block_sum(hits) == 0) {                    // the same for every thread
      if (threadIdx.x == 0) k[i] = 1;
      limit = next_threshold(limit, eta);
    }
    __syncthreads();
  }
}
