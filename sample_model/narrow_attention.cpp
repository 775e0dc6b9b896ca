// Attention with heads of 4 or 8 channels, forwards and backwards, for training on processors.
//
// PyTorch's fused kernels are written for heads of 64 and more: with 4 channels nearly all of a training step went
// into them. Here the lanes of a vector register are 32 queries (or keys) and a head's channels are unrolled. Scores
// are never stored. The compiler turns the inner loops into vector instructions.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

constexpr int LANES = 32;

// 2^x for x <= 0, relative error below 3e-6: the whole part goes into the exponent's bits, a polynomial does the rest.
static inline float power_of_two(float x) {
  x = x < -126.f ? -126.f : x;
  float whole = __builtin_rintf(x);
  float rest = x - whole;
  float value = 1.f + rest * (0.69314718f + rest * (0.24022651f + rest * (0.05550411f + rest * (0.00961813f + rest * 0.00133336f))));
  int bits;
  std::memcpy(&bits, &value, 4);
  bits += static_cast<int>(whole) << 23;
  std::memcpy(&value, &bits, 4);
  return value;
}

// Channels first, padded with zeros to whole blocks of lanes: (channels, padded).
template <int D>
static void transposed(const float* from, int64_t count, int64_t padded, float scale, float* to) {
  for (int d = 0; d < D; d++) {
    for (int64_t i = 0; i < count; i++) to[d * padded + i] = from[i * D + d] * scale;
    for (int64_t i = count; i < padded; i++) to[d * padded + i] = 0.f;
  }
}

template <int D>
static inline void scores(const float (*q)[LANES], const float* k, float* s) {
#pragma GCC ivdep
  for (int l = 0; l < LANES; l++) {
    float sum = q[0][l] * k[0];
    for (int d = 1; d < D; d++) sum += q[d][l] * k[d];
    s[l] = sum;
  }
}

template <int D>
static void forward_head(const float* q, const float* k, const float* v, int64_t n, int64_t m, float scale, float* out, float* lse) {
  int64_t padded = (n + LANES - 1) / LANES * LANES;
  std::vector<float> turned(D * padded);
  transposed<D>(q, n, padded, scale, turned.data());
  alignas(64) float query[D][LANES], sum[D][LANES], top[LANES], total[LANES], s[LANES];
  for (int64_t first = 0; first < n; first += LANES) {
    for (int d = 0; d < D; d++)
      for (int l = 0; l < LANES; l++) query[d][l] = turned[d * padded + first + l], sum[d][l] = 0.f;
    for (int l = 0; l < LANES; l++) top[l] = -3e38f, total[l] = 0.f;
    for (int64_t j = 0; j < m; j++) {
      scores<D>(query, k + j * D, s);
      for (int l = 0; l < LANES; l++) top[l] = s[l] > top[l] ? s[l] : top[l];
    }
    for (int64_t j = 0; j < m; j++) {
      const float* key = k + j * D;
      const float* value = v + j * D;
#pragma GCC ivdep
      for (int l = 0; l < LANES; l++) {
        float score = query[0][l] * key[0];
        for (int d = 1; d < D; d++) score += query[d][l] * key[d];
        float p = power_of_two(score - top[l]);
        total[l] += p;
        for (int d = 0; d < D; d++) sum[d][l] += p * value[d];
      }
    }
    int64_t count = n - first < LANES ? n - first : LANES;
    for (int l = 0; l < count; l++) {
      for (int d = 0; d < D; d++) out[(first + l) * D + d] = sum[d][l] / total[l];
      lse[first + l] = top[l] + std::log2(total[l]);
    }
  }
}

template <int D>
static void backward_head(const float* q, const float* k, const float* v, const float* out, const float* lse, const float* grad, int64_t n,
                          int64_t m, float scale, float* dq, float* dk, float* dv) {
  const float natural = 0.69314718f;  // scores are kept in powers of two
  std::vector<float> delta(n + LANES, 0.f), ends(n + LANES, 0.f), scaled(n * D);
  for (int64_t i = 0; i < n; i++) {
    float sum = 0.f;
    for (int d = 0; d < D; d++) sum += grad[i * D + d] * out[i * D + d], scaled[i * D + d] = q[i * D + d] * scale;
    delta[i] = sum, ends[i] = lse[i];
  }
  int64_t padded = (n + LANES - 1) / LANES * LANES;
  std::vector<float> queries(D * padded), grads(D * padded);
  transposed<D>(q, n, padded, scale, queries.data());
  transposed<D>(grad, n, padded, 1.f, grads.data());
  alignas(64) float a[D][LANES], b[D][LANES], first_sum[D][LANES], second_sum[D][LANES], end[LANES], mean[LANES];
  for (int64_t first = 0; first < n; first += LANES) {
    for (int d = 0; d < D; d++)
      for (int l = 0; l < LANES; l++)
        a[d][l] = queries[d * padded + first + l], b[d][l] = grads[d * padded + first + l], first_sum[d][l] = 0.f;
    for (int l = 0; l < LANES; l++) end[l] = ends[first + l], mean[l] = delta[first + l];
    for (int64_t j = 0; j < m; j++) {
      const float* key = k + j * D;
      const float* value = v + j * D;
#pragma GCC ivdep
      for (int l = 0; l < LANES; l++) {
        float score = a[0][l] * key[0], slope = b[0][l] * value[0];
        for (int d = 1; d < D; d++) score += a[d][l] * key[d], slope += b[d][l] * value[d];
        float down = power_of_two(score - end[l]) * (slope - mean[l]);
        for (int d = 0; d < D; d++) first_sum[d][l] += down * key[d];
      }
    }
    int64_t count = n - first < LANES ? n - first : LANES;
    for (int l = 0; l < count; l++)
      for (int d = 0; d < D; d++) dq[(first + l) * D + d] = first_sum[d][l] * scale * natural;
  }
  int64_t wide = (m + LANES - 1) / LANES * LANES;
  std::vector<float> keys(D * wide), values(D * wide);
  transposed<D>(k, m, wide, 1.f, keys.data());
  transposed<D>(v, m, wide, 1.f, values.data());
  for (int64_t first = 0; first < m; first += LANES) {
    for (int d = 0; d < D; d++)
      for (int l = 0; l < LANES; l++)
        a[d][l] = keys[d * wide + first + l], b[d][l] = values[d * wide + first + l], first_sum[d][l] = 0.f, second_sum[d][l] = 0.f;
    for (int64_t i = 0; i < n; i++) {
      const float* query = scaled.data() + i * D;
      const float* above = grad + i * D;
      const float last = ends[i], middle = delta[i];
#pragma GCC ivdep
      for (int l = 0; l < LANES; l++) {
        float score = a[0][l] * query[0], slope = b[0][l] * above[0];
        for (int d = 1; d < D; d++) score += a[d][l] * query[d], slope += b[d][l] * above[d];
        float p = power_of_two(score - last);
        float down = p * (slope - middle);
        for (int d = 0; d < D; d++) first_sum[d][l] += down * query[d], second_sum[d][l] += p * above[d];
      }
    }
    int64_t count = m - first < LANES ? m - first : LANES;
    for (int l = 0; l < count; l++)
      for (int d = 0; d < D; d++)
        dk[(first + l) * D + d] = first_sum[d][l] * natural, dv[(first + l) * D + d] = second_sum[d][l];
  }
}

#define FOR_WIDTH(width, call) \
  if (width == 4) { constexpr int D = 4; call; } \
  else { constexpr int D = 8; call; }

// q, out: (heads, queries, width); k, v: (heads, keys, width); lse: (heads, queries), log2 of the sums of the scores' powers.
// All float32 and contiguous. The slopes are those of the same names; `grad` is that of `out`.
extern "C" void narrow_forward(const float* q, const float* k, const float* v, int64_t heads, int64_t n, int64_t m, int width, int threads,
                               float* out, float* lse) {
  float scale = 1.44269504f / std::sqrt(static_cast<float>(width));
#pragma omp parallel for num_threads(threads)
  for (int64_t h = 0; h < heads; h++) {
    int64_t at = h * n * width, to = h * m * width;
    FOR_WIDTH(width, forward_head<D>(q + at, k + to, v + to, n, m, scale, out + at, lse + h * n));
  }
}

extern "C" void narrow_backward(const float* q, const float* k, const float* v, const float* out, const float* lse, const float* grad,
                                int64_t heads, int64_t n, int64_t m, int width, int threads, float* dq, float* dk, float* dv) {
  float scale = 1.44269504f / std::sqrt(static_cast<float>(width));
#pragma omp parallel for num_threads(threads)
  for (int64_t h = 0; h < heads; h++) {
    int64_t at = h * n * width, to = h * m * width;
    FOR_WIDTH(width, backward_head<D>(q + at, k + to, v + to, out + at, lse + h * n, grad + at, n, m, scale, dq + at, dk + to, dv + to));
  }
}
