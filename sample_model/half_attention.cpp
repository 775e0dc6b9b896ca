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

#include "bfloat.h"

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

static inline int64_t whole(int64_t count) { return (count + LANES - 1) / LANES * LANES; }

// Room that a thread keeps from head to head.
struct Room {
  std::vector<half> halves;
  half* take(int64_t count) {
    if (static_cast<int64_t>(halves.size()) < count) halves.resize(count);
    return halves.data();
  }
};

// One head's (tokens, channels), whose tokens lie `stride` apart, as halves, channels beside each other.
template <int D>
static void plainly(const bfloat* from, int64_t stride, int64_t count, float scale, half* to) {
  for (int64_t i = 0; i < count; i++) {
    const bfloat* token = from + i * stride;
    if constexpr (D == 4) {
      __m128i bits = _mm_slli_epi32(_mm_cvtepu16_epi32(_mm_loadl_epi64((const __m128i*)token)), 16);
      _mm_storel_epi64((__m128i*)(to + i * D), _mm_cvtps_ph(_mm_mul_ps(_mm_castsi128_ps(bits), _mm_set1_ps(scale)), 0));
    } else {
      for (int d = 0; d < D; d += 8) {
        __m256i bits = _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)(token + d))), 16);
        __m256 scaled = _mm256_mul_ps(_mm256_castsi256_ps(bits), _mm256_set1_ps(scale));
        _mm_storeu_si128((__m128i*)(to + i * D + d), _mm256_cvtps_ph(scaled, 0));
      }
    }
  }
}

// The plain halves (count, D) channels first, (D, padded), with zeros to whole blocks of lanes: two neighbouring channels at a time.
template <int D>
static void turn(const half* plain, int64_t count, int64_t padded, half* to) {
  const __m512i steps = _mm512_mullo_epi32(_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0), _mm512_set1_epi32(D / 2));
  for (int64_t i = 0; i < padded; i += 16) {
    __mmask16 mask = i + 16 <= count ? 0xffff : i < count ? (1u << (count - i)) - 1 : 0;
    for (int d = 0; d < D; d += 2) {
      __m512i pair = _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), mask, steps, plain + i * D + d, 4);
      _mm256_storeu_si256((__m256i*)(to + d * padded + i), _mm512_cvtepi32_epi16(pair));
      _mm256_storeu_si256((__m256i*)(to + (d + 1) * padded + i), _mm512_cvtepi32_epi16(_mm512_srli_epi32(pair, 16)));
    }
  }
}

// log2 of positive numbers, within 2e-4, far below what half precision keeps of it.
static inline __m512 log_two(__m512 x) {
  __m512 rest = _mm512_sub_ps(_mm512_getmant_ps(x, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_zero), _mm512_set1_ps(1.f));
  __m512 value = _mm512_fmadd_ps(rest, _mm512_set1_ps(-0.0817f), _mm512_set1_ps(0.3187f));
  value = _mm512_fmadd_ps(rest, value, _mm512_set1_ps(-0.6748f));
  value = _mm512_fmadd_ps(rest, value, _mm512_set1_ps(1.4379f));
  return _mm512_fmadd_ps(rest, value, _mm512_getexp_ps(x));
}

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
  int64_t padded = whole(n);
  static thread_local Room room;
  half* qs = room.take(D * (n + padded + 2 * m));
  half *turned = qs + n * D, *ks = turned + D * padded, *vs = ks + m * D;
  plainly<D>(q, stride, n, scale, qs);
  turn<D>(qs, n, padded, turned);
  plainly<D>(k, stride, m, 1.f, ks);
  plainly<D>(v, stride, m, 1.f, vs);
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
        EACH(d) sum[d] = _mm512_fmadd_ph(p, AT(vs, j * D + d), sum[d]);
      }
      add_to(totals, total);
      EACH(d) add_to(sums[d], sum[d]);
    }
    alignas(64) float ends[LANES] = {};
    add_to(ends, top);
    for (int l = 0; l < LANES; l += 16) {
      __m512 total = _mm512_load_ps(totals + l), part = _mm512_div_ps(_mm512_set1_ps(1.f), total);
      EACH(d) _mm512_store_ps(sums[d] + l, _mm512_mul_ps(_mm512_load_ps(sums[d] + l), part));
      _mm512_store_ps(ends + l, _mm512_add_ps(_mm512_load_ps(ends + l), log_two(total)));
    }
    int64_t count = n - first < LANES ? n - first : LANES;
    for (int l = 0; l < count; l++) {
      EACH(d) out[(first + l) * stride + d] = as_bfloat(sums[d][l]);
      lse[first + l] = ends[l];
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
  static thread_local Room room;
  half* qs = room.take(D * (2 * n + 2 * padded + 2 * m + 2 * wide) + 2 * padded);
  half *gs = qs + n * D, *turned_q = gs + n * D, *turned_g = turned_q + D * padded, *ks = turned_g + D * padded, *vs = ks + m * D;
  half *turned_k = vs + m * D, *turned_v = turned_k + D * wide, *ends = turned_v + D * wide, *means = ends + padded;
  plainly<D>(q, stride, n, scale, qs);
  plainly<D>(grad, stride, n, up, gs);
  plainly<D>(k, stride, m, 1.f, ks);
  plainly<D>(v, stride, m, 1.f, vs);
  turn<D>(qs, n, padded, turned_q);
  turn<D>(gs, n, padded, turned_g);
  turn<D>(ks, m, wide, turned_k);
  turn<D>(vs, m, wide, turned_v);
  for (int64_t i = n; i < padded; i++) ends[i] = means[i] = (half)0.f;
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
        EACH(d) sum[d] = _mm512_fmadd_ph(slope, AT(ks, j * D + d), sum[d]);
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
        __m512h p = power_of_two(dot<D>(AT(ends, i), key, &qs[i * D]));
        __m512h slope = _mm512_mul_ph(p, dot<D>(AT(means, i), value, &gs[i * D]));
        EACH(d) sum_k[d] = _mm512_fmadd_ph(slope, AT(qs, i * D + d), sum_k[d]);
        EACH(d) sum_v[d] = _mm512_fmadd_ph(p, AT(gs, i * D + d), sum_v[d]);
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

extern "C" void bfloat_forward(const bfloat* q, const bfloat* k, const bfloat* v, int64_t rows, int64_t heads, int64_t n, int64_t m,
                               int width, int threads, bfloat* out, float* lse) {
  each_head(rows, heads, n, m, width, threads, [&](int64_t one, int64_t at, int64_t to, int64_t stride, float scale) {
    FOR_WIDTH(width, forward_head<D>(q + at, k + to, v + to, n, m, stride, scale, out + at, lse + one * n));
  });
}

extern "C" void bfloat_backward(const bfloat* q, const bfloat* k, const bfloat* v, const bfloat* out, const float* lse, const bfloat* grad,
                                int64_t rows, int64_t heads, int64_t n, int64_t m, int width, int threads, bfloat* dq, bfloat* dk,
                                bfloat* dv) {
  each_head(rows, heads, n, m, width, threads, [&](int64_t one, int64_t at, int64_t to, int64_t stride, float scale) {
    FOR_WIDTH(width, backward_head<D>(q + at, k + to, v + to, out + at, lse + one * n, grad + at, n, m, stride, scale, dq + at,
                               dk + to, dv + to));
  });
}
