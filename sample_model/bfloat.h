// What both kernels for bfloat16 tensors share: the conversions, and the heads of a call, one after another on each thread.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

typedef uint16_t bfloat;

static inline float as_float(bfloat value) {
  uint32_t bits = static_cast<uint32_t>(value) << 16;
  float number;
  std::memcpy(&number, &bits, 4);
  return number;
}

// To the nearest, ties to even.
static inline bfloat as_bfloat(float number) {
  uint32_t bits;
  std::memcpy(&bits, &number, 4);
  return static_cast<bfloat>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// `work` (number of the head, where its queries and its keys begin, tokens apart, scale of scores in powers of two) for every head.
template <typename Work>
static void each_head(int64_t rows, int64_t heads, int64_t n, int64_t m, int width, int threads, const Work& work) {
  float scale = 1.44269504f / std::sqrt(static_cast<float>(width));
  int64_t stride = heads * width;
#pragma omp parallel for num_threads(threads)
  for (int64_t one = 0; one < rows * heads; one++) {
    int64_t row = one / heads, first = one % heads * width;
    work(one, row * n * stride + first, row * m * stride + first, stride, scale);
  }
}
