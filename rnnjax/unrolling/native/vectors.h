// Vectors of float32 and the pointwise functions of gates, in the compiler's vector extension.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))

#if defined(__AVX512F__)
constexpr int LANES = 16, MOST_ROWS = 14;  // 28 sums, 2 vectors of a weight and a broadcast fill 31 of 32 registers
#else
constexpr int LANES = 8, MOST_ROWS = 6;
#endif

typedef float V __attribute__((vector_size(LANES * 4)));
typedef int32_t Mask __attribute__((vector_size(LANES * 4)));  // -1 where it holds, 0 elsewhere
typedef float Unaligned __attribute__((vector_size(LANES * 4), aligned(4), may_alias));


INLINE V all(float x) { return x - (V){}; }
INLINE V pick(Mask where, V yes, V no) { return (V)((where & (Mask)yes) | (~where & (Mask)no)); }
INLINE Mask mask(bool on) { return on ? ~(Mask){} : (Mask){}; }

INLINE V load(const float* p) { return *(const Unaligned*)p; }
INLINE void store(float* p, V v) { *(Unaligned*)p = v; }

// The first n entries; the others are zero.
INLINE V load(const float* p, int n) {
  if (n <= 0) return (V){};
  if (n >= LANES) return load(p);
#if defined(__AVX512F__)
  return (V)_mm512_maskz_loadu_ps((1u << n) - 1, p);
#else
  float entries[LANES] = {};
  memcpy(entries, p, 4 * n);
  return load(entries);
#endif
}
INLINE void store(float* p, V v, int n) {
  if (n <= 0) return;
  if (n >= LANES) return store(p, v);
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, (1u << n) - 1, (__m512)v);
#else
  float entries[LANES];
  store(entries, v);
  memcpy(p, entries, 4 * n);
#endif
}

// Cephes' polynomial; overflow is infinite, what would be denormal is zero, and NaN stays.
INLINE V v_exp(V x) {
  V y = pick(x > all(88.7228f), all(88.7228f), x);
  y = pick(y < all(-87.3365f), all(-87.3365f), y);
  const float round = 12582912.f;  // 1.5 * 2^23: adding it rounds to a whole number, in the lowest bits
  V n = y * 1.44269504f + round;
  Mask exponent = (Mask)n << 23;
  n -= round;
  V r = y - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  V p = all(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.f;
  V value = (V)((Mask)p + exponent);
  value = pick(x > all(88.7228f), all(__builtin_inff()), value);
  value = pick(x < all(-87.3365f), all(0.f), value);
  return pick(x == x, value, x);
}
INLINE V v_logistic(V x) { return 1.f / (1.f + v_exp(-x)); }

// The quotient of two polynomials that Eigen and XLA use too.
INLINE V v_tanh(V x) {
  V c = pick(x > all(7.90531f), all(7.90531f), x);
  c = pick(c < all(-7.90531f), all(-7.90531f), c);
  Mask saturated = (x > all(9.0109f)) | (x < all(-9.0109f));  // from where on its float is 1
  V s = c * c;
  V p = all(-2.76076847742355e-16f);
  p = p * s + 2.00018790482477e-13f;
  p = p * s + -8.60467152213735e-11f;
  p = p * s + 5.12229709037114e-08f;
  p = p * s + 1.48572235717979e-05f;
  p = p * s + 6.37261928875436e-04f;
  p = p * s + 4.89352455891786e-03f;
  V q = all(1.19825839466702e-06f);
  q = q * s + 1.18534705686654e-04f;
  q = q * s + 2.26843463243900e-03f;
  q = q * s + 4.89352518554385e-03f;
  return pick(saturated, pick(x > 0.f, all(1.f), all(-1.f)), c * p / q);
}

// As JAX has them: NaN in either operand is the result.
INLINE V v_max(V a, V b) { return pick((a > b) | (a != a), a, b); }
INLINE V v_min(V a, V b) { return pick((a < b) | (a != a), a, b); }
INLINE V v_abs(V x) { return (V)((Mask)x & 0x7fffffff); }
INLINE V v_sign(V x) { return pick(x > 0.f, all(1.f), pick(x < 0.f, all(-1.f), x)); }
INLINE Mask v_finite(V x) { return (x - x) == (x - x); }
INLINE bool all_finite(const float* p, long n) {
  Mask bad = {};
  for (long u = 0; u < n; u += LANES) bad |= ~v_finite(load(p + u, n - u));
  for (int i = 0; i < LANES; i++)
    if (bad[i]) return false;
  return true;
}

#define BY_LANE(name, function)                                  \
  INLINE V name(V x) {                                           \
    V y;                                                         \
    for (int i = 0; i < LANES; i++) y[i] = function(x[i]);       \
    return y;                                                    \
  }
BY_LANE(v_sqrt, __builtin_sqrtf)
BY_LANE(v_log, __builtin_logf)
BY_LANE(v_log1p, __builtin_log1pf)
BY_LANE(v_expm1, __builtin_expm1f)
BY_LANE(v_sin, __builtin_sinf)
BY_LANE(v_cos, __builtin_cosf)
BY_LANE(v_erf, __builtin_erff)
BY_LANE(v_erfc, __builtin_erfcf)
BY_LANE(v_exp2, __builtin_exp2f)
BY_LANE(v_log2, __builtin_log2f)
BY_LANE(v_cbrt, __builtin_cbrtf)
BY_LANE(v_tan, __builtin_tanf)
BY_LANE(v_asin, __builtin_asinf)
BY_LANE(v_acos, __builtin_acosf)
BY_LANE(v_atan, __builtin_atanf)
BY_LANE(v_sinh, __builtin_sinhf)
BY_LANE(v_cosh, __builtin_coshf)
BY_LANE(v_asinh, __builtin_asinhf)
BY_LANE(v_acosh, __builtin_acoshf)
BY_LANE(v_atanh, __builtin_atanhf)
BY_LANE(v_round_even, __builtin_rintf)
BY_LANE(v_round_away, __builtin_roundf)
BY_LANE(v_floor, __builtin_floorf)
BY_LANE(v_ceil, __builtin_ceilf)

#define BY_TWO_LANES(name, function)                               \
  INLINE V name(V x, V y) {                                        \
    V z;                                                           \
    for (int i = 0; i < LANES; i++) z[i] = function(x[i], y[i]);   \
    return z;                                                      \
  }
BY_TWO_LANES(v_pow, __builtin_powf)
BY_TWO_LANES(v_atan2, __builtin_atan2f)
BY_TWO_LANES(v_rem, __builtin_fmodf)
