// BREW_BOTH marks functions that both devices use. Files under kernels/include are plain C++ without library calls
// other than those of <math.h>, so that g++ and NVRTC compile the same text.
#pragma once
#ifdef __CUDACC__
#define BREW_BOTH static __host__ __device__ __forceinline__
#else
#include <math.h>
#define BREW_BOTH static inline
#endif
