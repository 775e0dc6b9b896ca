// Attention with heads of 4, 8 or 16 channels, forwards and backwards, for training in bfloat16 on processors that multiply it (AVX512-BF16).
//
// All tensors but `lse` are bfloat16, (rows, tokens, heads x channels), as the projections around attention have them. Lanes of a vector
// register are 16 queries, so scores are never stored. Products of bfloat16 numbers are exact and everything is summed in single precision.
#if !defined(__AVX512BF16__) || !defined(__AVX512DQ__)
#error "this processor does not multiply bfloat16 numbers"
#endif
#include <immintrin.h>
#include <xmmintrin.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "bfloat.h"

constexpr int LANES = 16, KEYS = 32;  // KEYS: whose slopes are summed in the nearest cache

// 2^x, relative error below 2e-4: `scalef` takes the whole part, a polynomial what is left of it.
static inline __m512 power_of_two(__m512 x) {
  __m512 rest = _mm512_reduce_ps(x, 1);  // x - floor(x)
  __m512 value = _mm512_fmadd_ps(rest, _mm512_set1_ps(0.0790199f), _mm512_set1_ps(0.2241304f));
  value = _mm512_fmadd_ps(rest, value, _mm512_set1_ps(0.6968386f));
  value = _mm512_fmadd_ps(rest, value, _mm512_set1_ps(0.9998119f));
  return _mm512_scalef_ps(value, x);
}

#define EACH(i, count) _Pragma("GCC unroll 32") for (int i = 0; i < (count); i++)
#define PAIR(v, i) (__m512bh)_mm512_set1_epi32((v)[i])
#define ONE(v, i) _mm512_set1_ps((v)[i])

// Numbers as small as weights of sharp attention are slow to compute with; while this lives, they count as nothing.
struct NoSmallest {
  unsigned before = _mm_getcsr();
  NoSmallest() { _mm_setcsr(before | 0x8040); }
  ~NoSmallest() { _mm_setcsr(before); }
};

// Room that a thread keeps from head to head, handed out in pieces that begin at a cache line.
struct Room {
  char* memory = nullptr;
  size_t size = 0, used = 0;
  void begin(size_t wanted) {
    used = 0;
    if (size < wanted) {
      std::free(memory);
      memory = static_cast<char*>(std::aligned_alloc(64, size = (wanted + 63) / 64 * 64));
    }
  }
  template <typename T>
  T* take(int64_t count) {
    T* piece = reinterpret_cast<T*>(memory + used);
    used += (count * sizeof(T) + 63) / 64 * 64;
    return piece;
  }
  ~Room() { std::free(memory); }
};

// One head's tokens, beside each other: as pairs of bfloat16 numbers and in single precision.
template <int D>
struct Tokens {
  uint32_t* pairs;  // (count, D / 2)
  float* singles;   // (count, D)
  float longest = 0.f;
  Tokens(Room& room, const bfloat* from, int64_t stride, int64_t count)
      : pairs(room.take<uint32_t>(count * D / 2)), singles(room.take<float>(count * D)) {
    for (int64_t i = 0; i < count; i++) {
      std::memcpy(pairs + i * D / 2, from + i * stride, D * sizeof(bfloat));
      float sum = 0.f;
      EACH(d, D) singles[i * D + d] = as_float(from[i * stride + d]), sum += singles[i * D + d] * singles[i * D + d];
      longest = std::fmax(longest, sum);
    }
    longest = std::sqrt(longest);
  }
};

// The same, turned, with zeros to whole blocks of lanes: for each block of 16 tokens D / 2 vectors of pairs, D of single numbers.
template <int D>
struct Turned {
  __m512i* pairs;
  __m512* singles;
  Turned(Room& room, const Tokens<D>& plain, int64_t count, int64_t blocks)
      : pairs(room.take<__m512i>(blocks * D / 2)), singles(room.take<__m512>(blocks * D)) {
    const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i steps = _mm512_mullo_epi32(lanes, _mm512_set1_epi32(D / 2));
    for (int64_t b = 0; b < blocks; b++) {
      int64_t first = b * LANES, left = count - first;
      __mmask16 mask = left >= LANES ? 0xffff : left > 0 ? (1u << left) - 1 : 0;
      EACH(d, D / 2) {
        __m512i pair = _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), mask, steps, plain.pairs + first * (D / 2) + d, 4);
        pairs[b * (D / 2) + d] = pair;
        singles[b * D + 2 * d] = _mm512_castsi512_ps(_mm512_slli_epi32(pair, 16));
        singles[b * D + 2 * d + 1] = _mm512_castsi512_ps(_mm512_and_si512(pair, _mm512_set1_epi32(0xffff0000)));
      }
    }
  }
};

template <int D>
static inline __m512 dot(__m512 start, const __m512i* lanes, const uint32_t* other) {
  EACH(d, D / 2) start = _mm512_dpbf16_ps(start, (__m512bh)lanes[d], PAIR(other, d));
  return start;
}

// G: blocks of queries that are worked on at once, which share what is loaded of a key.
template <int D, int G>
static void forward_head(const bfloat* q, const bfloat* k, const bfloat* v, int64_t n, int64_t m, int64_t stride, float scale, bfloat* out,
                         float* lse) {
  static thread_local Room room;
  int64_t blocks = (n + LANES * G - 1) / (LANES * G) * G;
  room.begin(D * 8 * (n + 2 * m + blocks * LANES) + 4096);
  Tokens<D> queries(room, q, stride, n), keys(room, k, stride, m), values(room, v, stride, m);
  Turned<D> turned(room, queries, n, blocks);
  const __m512 zero = _mm512_setzero_ps(), factor = _mm512_set1_ps(scale);
  const bool small = scale * queries.longest * keys.longest < 100.f;  // no power can be too large or too small
  for (int64_t block = 0; block < blocks; block += G) {
    __m512i query[G][D / 2];
    __m512 top[G], sum[G][D], total[G];
    EACH(g, G) {
      EACH(d, D / 2) query[g][d] = turned.pairs[(block + g) * (D / 2) + d];
      EACH(d, D) sum[g][d] = zero;
      total[g] = zero, top[g] = small ? zero : _mm512_set1_ps(-3e38f);
    }
    if (!small) {
      for (int64_t j = 0; j < m; j++) EACH(g, G) top[g] = _mm512_max_ps(top[g], dot<D>(zero, query[g], keys.pairs + j * (D / 2)));
      EACH(g, G) top[g] = _mm512_mul_ps(top[g], factor);
    }
    for (int64_t j = 0; j < m; j++) {
      EACH(g, G) {
        __m512 p = power_of_two(_mm512_fmsub_ps(dot<D>(zero, query[g], keys.pairs + j * (D / 2)), factor, top[g]));
        total[g] = _mm512_add_ps(total[g], p);
        EACH(d, D) sum[g][d] = _mm512_fmadd_ps(p, ONE(values.singles, j * D + d), sum[g][d]);
      }
    }
    EACH(g, G) {
      alignas(64) float sums[D][LANES], totals[LANES], tops[LANES];
      EACH(d, D) _mm512_store_ps(sums[d], _mm512_div_ps(sum[g][d], total[g]));
      _mm512_store_ps(totals, total[g]), _mm512_store_ps(tops, top[g]);
      int64_t first = (block + g) * LANES, count = n - first < LANES ? n - first : LANES;
      for (int64_t l = 0; l < count; l++) {
        EACH(d, D) out[(first + l) * stride + d] = as_bfloat(sums[d][l]);
        lse[first + l] = std::log2(totals[l]) + tops[l];
      }
    }
  }
}

template <int D, int G>
static void backward_head(const bfloat* q, const bfloat* k, const bfloat* v, const bfloat* out, const float* lse, const bfloat* grad,
                          int64_t n, int64_t m, int64_t stride, float scale, bfloat* dq, bfloat* dk, bfloat* dv) {
  static thread_local Room room;
  int64_t blocks = (n + LANES * G - 1) / (LANES * G) * G;
  room.begin(D * 8 * (2 * n + 2 * m + 3 * blocks * LANES) + 8 * blocks * LANES + 4096);
  Tokens<D> queries(room, q, stride, n), grads(room, grad, stride, n), keys(room, k, stride, m), values(room, v, stride, m);
  Turned<D> turned(room, queries, n, blocks), above(room, grads, n, blocks);
  __m512* slopes = room.take<__m512>(blocks * D);
  float *ends = room.take<float>(blocks * LANES), *means = room.take<float>(blocks * LANES);
  for (int64_t i = 0; i < blocks * LANES; i++) {
    float sum = 0.f;
    if (i < n) EACH(d, D) sum += grads.singles[i * D + d] * as_float(out[i * stride + d]);
    means[i] = -sum, ends[i] = i < n ? lse[i] : 0.f;
  }
  const __m512 zero = _mm512_setzero_ps(), factor = _mm512_set1_ps(scale);
  const float natural = scale * 0.69314718f;  // scores are powers of two
  for (int64_t i = 0; i < blocks * D; i++) slopes[i] = zero;
  for (int64_t first = 0; first < m; first += KEYS) {
    int64_t last = first + KEYS < m ? first + KEYS : m;
    __m512 key_sums[KEYS][D], value_sums[KEYS][D];
    EACH(d, D) for (int j = 0; j < KEYS; j++) key_sums[j][d] = zero, value_sums[j][d] = zero;
    for (int64_t block = 0; block < blocks; block += G) {
      __m512 sum[G][D], end[G], mean[G];
      EACH(g, G) {
        EACH(d, D) sum[g][d] = slopes[(block + g) * D + d];
        end[g] = _mm512_load_ps(ends + (block + g) * LANES), mean[g] = _mm512_load_ps(means + (block + g) * LANES);
      }
      const __m512i *query = turned.pairs + block * (D / 2), *slope = above.pairs + block * (D / 2);
      const __m512 *query_lanes = turned.singles + block * D, *slope_lanes = above.singles + block * D;
      for (int64_t j = first; j < last; j++) {
        __m512 p[G], w[G];
        EACH(g, G) {
          p[g] = power_of_two(_mm512_fmsub_ps(dot<D>(zero, query + g * (D / 2), keys.pairs + j * (D / 2)), factor, end[g]));
          w[g] = _mm512_mul_ps(p[g], dot<D>(mean[g], slope + g * (D / 2), values.pairs + j * (D / 2)));
          EACH(d, D) sum[g][d] = _mm512_fmadd_ps(w[g], ONE(keys.singles, j * D + d), sum[g][d]);
        }
        EACH(d, D) {
          __m512 a = key_sums[j - first][d], b = value_sums[j - first][d];
          EACH(g, G) a = _mm512_fmadd_ps(w[g], query_lanes[g * D + d], a), b = _mm512_fmadd_ps(p[g], slope_lanes[g * D + d], b);
          key_sums[j - first][d] = a, value_sums[j - first][d] = b;
        }
      }
      EACH(g, G) EACH(d, D) slopes[(block + g) * D + d] = sum[g][d];
    }
    for (int64_t j = first; j < last; j++)
      for (int d = 0; d < D; d++) {
        dk[j * stride + d] = as_bfloat(natural * _mm512_reduce_add_ps(key_sums[j - first][d]));
        dv[j * stride + d] = as_bfloat(_mm512_reduce_add_ps(value_sums[j - first][d]));
      }
  }
  const float* sums = reinterpret_cast<const float*>(slopes);
  for (int64_t i = 0; i < n; i++)
    for (int d = 0; d < D; d++) dq[i * stride + d] = as_bfloat(natural * sums[(i / LANES * D + d) * LANES + i % LANES]);
}

#define FOR_WIDTH(width, call) \
  if (width == 4) { constexpr int D = 4, G = 2; call; } \
  else if (width == 8) { constexpr int D = 8, G = 2; call; } \
  else { constexpr int D = 16, G = 1; call; }

extern "C" void bfloat_forward(const bfloat* q, const bfloat* k, const bfloat* v, int64_t rows, int64_t heads, int64_t n, int64_t m,
                               int width, int threads, bfloat* out, float* lse) {
  each_head(rows, heads, n, m, width, threads, [&](int64_t one, int64_t at, int64_t to, int64_t stride, float scale) {
    NoSmallest numbers;
    FOR_WIDTH(width, (forward_head<D, G>(q + at, k + to, v + to, n, m, stride, scale, out + at, lse + one * n)));
  });
}

extern "C" void bfloat_backward(const bfloat* q, const bfloat* k, const bfloat* v, const bfloat* out, const float* lse, const bfloat* grad,
                                int64_t rows, int64_t heads, int64_t n, int64_t m, int width, int threads, bfloat* dq, bfloat* dk,
                                bfloat* dv) {
  each_head(rows, heads, n, m, width, threads, [&](int64_t one, int64_t at, int64_t to, int64_t stride, float scale) {
    NoSmallest numbers;
    FOR_WIDTH(width, (backward_head<D, G>(q + at, k + to, v + to, out + at, lse + one * n, grad + at, n, m, stride, scale, dq + at,
                               dk + to, dv + to)));
  });
}
