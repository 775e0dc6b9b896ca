// Attention with heads of 4, 8 or 16 channels, forwards and backwards, in half precision (AVX512-FP16), for training.
//
// All tensors but `lse` are bfloat16, (rows, tokens, heads x channels), as the projections around attention have them. The lanes of a vector register are 32 queries (or keys); a head's channels are unrolled. Scores are never stored. Sums of
// 64 products are kept in half precision and added up in single precision. The results are nearer to the true ones than those
// of bfloat16 tensors, and sharp attention, whose tiny weights are slow in single precision, costs no more than other.
#ifndef __AVX512FP16__
#error "this processor does not compute in half precision"
#endif
#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

constexpr int LANES = 32, BLOCK = 64;
typedef _Float16 half;

static inline __m512h power_of_two(__m512h x) {
  __m512h whole = _mm512_roundscale_ph(x, 0);
  __m512h rest = _mm512_sub_ph(x, whole);
  __m512h value = _mm512_fmadd_ph(rest, _mm512_set1_ph((half)0.0558f), _mm512_set1_ph((half)0.2402f));
  value = _mm512_fmadd_ph(rest, value, _mm512_set1_ph((half)0.6931f));
  value = _mm512_fmadd_ph(rest, value, _mm512_set1_ph((half)1.f));
  return _mm512_scalef_ph(value, whole);
}

static inline void add_to(float* sum, __m512h part) {
  __m512i bits = _mm512_castph_si512(part);
  __m512 low = _mm512_cvtph_ps(_mm512_castsi512_si256(bits)), high = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(bits, 1));
  _mm512_storeu_ps(sum, _mm512_add_ps(_mm512_loadu_ps(sum), low));
  _mm512_storeu_ps(sum + 16, _mm512_add_ps(_mm512_loadu_ps(sum + 16), high));
}

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

// One head's (tokens, channels), `stride` apart, as halves: `plain` as they are, `turned` channels first and padded with zeros to whole
// blocks of lanes.
template <int D>
static void as_half(const bfloat* from, int64_t stride, int64_t count, int64_t padded, float scale, half* plain, half* turned) {
  for (int64_t i = 0; i < count; i++)
    for (int d = 0; d < D; d++) {
      half value = (half)(as_float(from[i * stride + d]) * scale);
      plain[i * D + d] = value, turned[d * padded + i] = value;
    }
  for (int d = 0; d < D; d++)
    for (int64_t i = count; i < padded; i++) turned[d * padded + i] = (half)0.f;
}

static inline int64_t whole(int64_t count) { return (count + LANES - 1) / LANES * LANES; }

#define EACH(d) _Pragma("GCC unroll 16") for (int d = 0; d < D; d++)
#define AT(v, i) _mm512_set1_ph((v)[i])

template <int D>
static inline __m512h dot(__m512h start, const __m512h* lanes, const half* other) {
  EACH(d) start = _mm512_fmadd_ph(lanes[d], AT(other, d), start);
  return start;
}

template <int D>
static void forward_head(const bfloat* q, const bfloat* k, const bfloat* v, int64_t n, int64_t m, int64_t stride, float scale, bfloat* out,
                         float* lse) {
  int64_t padded = whole(n), wide = whole(m);
  std::vector<half> qs(n * D), turned(D * padded), ks(m * D), vs(m * D), unused(D * wide);
  as_half<D>(q, stride, n, padded, scale, qs.data(), turned.data());
  as_half<D>(k, stride, m, wide, 1.f, ks.data(), unused.data());
  as_half<D>(v, stride, m, wide, 1.f, vs.data(), unused.data());
  for (int64_t first = 0; first < n; first += LANES) {
    __m512h query[D];
    EACH(d) query[d] = _mm512_loadu_ph(&turned[d * padded + first]);
    const __m512h zero = _mm512_setzero_ph();
    __m512h top = _mm512_set1_ph((half)-60000.f), second = top;
    int64_t j = 0;
    for (; j + 1 < m; j += 2) {
      top = _mm512_max_ph(top, dot<D>(zero, query, &ks[j * D]));
      second = _mm512_max_ph(second, dot<D>(zero, query, &ks[(j + 1) * D]));
    }
    if (j < m) top = _mm512_max_ph(top, dot<D>(zero, query, &ks[j * D]));
    top = _mm512_max_ph(top, second);
    const __m512h start = _mm512_sub_ph(zero, top);
    alignas(64) float sums[D][LANES] = {}, totals[LANES] = {};
    for (int64_t block = 0; block < m; block += BLOCK) {
      int64_t end = block + BLOCK < m ? block + BLOCK : m;
      __m512h sum[D], total = zero;
      EACH(d) sum[d] = zero;
#pragma GCC unroll 2
      for (int64_t j = block; j < end; j++) {
        __m512h p = power_of_two(dot<D>(start, query, &ks[j * D]));
        total = _mm512_add_ph(total, p);
        EACH(d) sum[d] = _mm512_fmadd_ph(p, AT(vs.data(), j * D + d), sum[d]);
      }
      add_to(totals, total);
      EACH(d) add_to(sums[d], sum[d]);
    }
    alignas(64) half tops[LANES];
    _mm512_storeu_ph(tops, top);
    int64_t count = n - first < LANES ? n - first : LANES;
    for (int l = 0; l < count; l++) {
      for (int d = 0; d < D; d++) out[(first + l) * stride + d] = as_bfloat(sums[d][l] / totals[l]);
      lse[first + l] = (float)tops[l] + std::log2(totals[l]);
    }
  }
}

template <int D>
static void backward_head(const bfloat* q, const bfloat* k, const bfloat* v, const bfloat* out, const float* lse, const bfloat* grad,
                          int64_t n, int64_t m, int64_t stride, float scale, bfloat* dq, bfloat* dk, bfloat* dv) {
  const float natural = 0.69314718f;  // scores are kept in powers of two
  int64_t padded = whole(n), wide = whole(m);
  float largest = 1e-30f;
  for (int64_t i = 0; i < n; i++)
    for (int d = 0; d < D; d++) largest = std::fmax(largest, std::fabs(as_float(grad[i * stride + d])));
  float up = 4.f / largest, down = largest / 4.f;  // slopes as small as a gradient's would vanish in half precision
  std::vector<half> qs(n * D), turned_q(D * padded), gs(n * D), turned_g(D * padded), ends(padded, (half)0.f), means(padded, (half)0.f);
  std::vector<half> ks(m * D), turned_k(D * wide), vs(m * D), turned_v(D * wide);
  as_half<D>(q, stride, n, padded, scale, qs.data(), turned_q.data());
  as_half<D>(grad, stride, n, padded, up, gs.data(), turned_g.data());
  as_half<D>(k, stride, m, wide, 1.f, ks.data(), turned_k.data());
  as_half<D>(v, stride, m, wide, 1.f, vs.data(), turned_v.data());
  for (int64_t i = 0; i < n; i++) {
    float sum = 0.f;
    for (int d = 0; d < D; d++) sum += as_float(grad[i * stride + d]) * as_float(out[i * stride + d]);
    means[i] = (half)(-sum * up), ends[i] = (half)(-lse[i]);
  }
  const __m512h zero = _mm512_setzero_ph();
  for (int64_t first = 0; first < n; first += LANES) {
    __m512h query[D], above[D];
    EACH(d) query[d] = _mm512_loadu_ph(&turned_q[d * padded + first]), above[d] = _mm512_loadu_ph(&turned_g[d * padded + first]);
    const __m512h end = _mm512_loadu_ph(&ends[first]), mean = _mm512_loadu_ph(&means[first]);
    alignas(64) float sums[D][LANES] = {};
    for (int64_t block = 0; block < m; block += BLOCK) {
      int64_t last = block + BLOCK < m ? block + BLOCK : m;
      __m512h sum[D];
      EACH(d) sum[d] = zero;
#pragma GCC unroll 2
      for (int64_t j = block; j < last; j++) {
        __m512h p = power_of_two(dot<D>(end, query, &ks[j * D]));
        __m512h slope = _mm512_mul_ph(p, dot<D>(mean, above, &vs[j * D]));
        EACH(d) sum[d] = _mm512_fmadd_ph(slope, AT(ks.data(), j * D + d), sum[d]);
      }
      EACH(d) add_to(sums[d], sum[d]);
    }
    int64_t count = n - first < LANES ? n - first : LANES;
    for (int l = 0; l < count; l++)
      for (int d = 0; d < D; d++) dq[(first + l) * stride + d] = as_bfloat(sums[d][l] * scale * natural * down);
  }
  for (int64_t first = 0; first < m; first += LANES) {
    __m512h key[D], value[D];
    EACH(d) key[d] = _mm512_loadu_ph(&turned_k[d * wide + first]), value[d] = _mm512_loadu_ph(&turned_v[d * wide + first]);
    alignas(64) float sums_k[D][LANES] = {}, sums_v[D][LANES] = {};
    for (int64_t block = 0; block < n; block += BLOCK) {
      int64_t last = block + BLOCK < n ? block + BLOCK : n;
      __m512h sum_k[D], sum_v[D];
      EACH(d) sum_k[d] = zero, sum_v[d] = zero;
#pragma GCC unroll 2
      for (int64_t i = block; i < last; i++) {
        __m512h p = power_of_two(dot<D>(AT(ends.data(), i), key, &qs[i * D]));
        __m512h slope = _mm512_mul_ph(p, dot<D>(AT(means.data(), i), value, &gs[i * D]));
        EACH(d) sum_k[d] = _mm512_fmadd_ph(slope, AT(qs.data(), i * D + d), sum_k[d]);
        EACH(d) sum_v[d] = _mm512_fmadd_ph(p, AT(gs.data(), i * D + d), sum_v[d]);
      }
      EACH(d) add_to(sums_k[d], sum_k[d]), add_to(sums_v[d], sum_v[d]);
    }
    int64_t count = m - first < LANES ? m - first : LANES;
    for (int l = 0; l < count; l++)
      for (int d = 0; d < D; d++) {
        dk[(first + l) * stride + d] = as_bfloat(sums_k[d][l] * natural * down);
        dv[(first + l) * stride + d] = as_bfloat(sums_v[d][l] * down);
      }
  }
}

#define FOR_WIDTH(width, call) \
  if (width == 4) { constexpr int D = 4; call; } \
  else if (width == 8) { constexpr int D = 8; call; } \
  else { constexpr int D = 16; call; }

extern "C" void half_forward(const bfloat* q, const bfloat* k, const bfloat* v, int64_t rows, int64_t heads, int64_t n, int64_t m,
                             int width, int threads, bfloat* out, float* lse) {
  float scale = 1.44269504f / std::sqrt(static_cast<float>(width));
  int64_t stride = heads * width;
#pragma omp parallel for num_threads(threads)
  for (int64_t one = 0; one < rows * heads; one++) {
    int64_t row = one / heads, at = row * n * stride + one % heads * width, to = row * m * stride + one % heads * width;
    FOR_WIDTH(width, forward_head<D>(q + at, k + to, v + to, n, m, stride, scale, out + at, lse + one * n));
  }
}

extern "C" void half_backward(const bfloat* q, const bfloat* k, const bfloat* v, const bfloat* out, const float* lse, const bfloat* grad,
                              int64_t rows, int64_t heads, int64_t n, int64_t m, int width, int threads, bfloat* dq, bfloat* dk,
                              bfloat* dv) {
  float scale = 1.44269504f / std::sqrt(static_cast<float>(width));
  int64_t stride = heads * width;
#pragma omp parallel for num_threads(threads)
  for (int64_t one = 0; one < rows * heads; one++) {
    int64_t row = one / heads, at = row * n * stride + one % heads * width, to = row * m * stride + one % heads * width;
    FOR_WIDTH(width, backward_head<D>(q + at, k + to, v + to, out + at, lse + one * n, grad + at, n, m, stride, scale, dq + at, dk + to, dv + to));
  }
}
