// Products of a tile of rows by a packed weight, with all sums in registers.
//
// The left operand lies in tiles of rows, [blocks of DEPTH][rows][DEPTH], so that a row's entries are at a distance that
// the compiler knows; the right one in panels of WIDTH columns, [depth][WIDTH], packed once for all steps.
#pragma once
#include <algorithm>
#include "vectors.h"

constexpr int DEPTH = 64, WIDTH = 2 * LANES;

INLINE int width(int n) { return n <= LANES ? LANES : WIDTH; }
INLINE long round_up(long n, long to) { return (n + to - 1) / to * to; }

template <int ROWS, int VECTORS>
INLINE void tile(const float* a, int parts, const long* depths, const float* b, const float* init, long init_row, float* out, long out_row, int n) {
  V sums[ROWS][VECTORS];
#pragma GCC unroll 14
  for (int m = 0; m < ROWS; m++)
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; v++) sums[m][v] = init ? load(init + m * init_row + v * LANES, n - v * LANES) : (V){};
  for (int part = 0; part < parts; part++)
    for (long k = 0; k < depths[part]; k += DEPTH, a += ROWS * DEPTH) {
      const float* end = a + std::min<long>(DEPTH, depths[part] - k);
      for (const float* p = a; p < end; p++, b += VECTORS * LANES) {
        V weights[VECTORS];
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++) {
          weights[v] = *(const V*)(b + v * LANES);
          __builtin_prefetch(b + 16 * VECTORS * LANES + v * LANES);
        }
#pragma GCC unroll 14
        for (int m = 0; m < ROWS; m++)
#pragma GCC unroll 2
          for (int v = 0; v < VECTORS; v++) sums[m][v] += p[m * DEPTH] * weights[v];
      }
    }
#pragma GCC unroll 14
  for (int m = 0; m < ROWS; m++)
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; v++) store(out + m * out_row + v * LANES, sums[m][v], n - v * LANES);
}

// out[rows, n] = init + a b, `init` being null for zeros. The depth of `a` is in `parts`, each rounded up to DEPTH.
typedef void (*Tile)(const float* a, int parts, const long* depths, const float* b, const float* init, long init_row, float* out, long out_row, int n);

template <int ROWS, int VECTORS>
static __attribute__((noinline)) void any_tile(const float* a, int parts, const long* depths, const float* b, const float* init, long init_row, float* out, long out_row, int n) {
  if (n >= VECTORS * LANES)
    tile<ROWS, VECTORS>(a, parts, depths, b, init, init_row, out, out_row, VECTORS * LANES);  // n is known: no tails
  else
    tile<ROWS, VECTORS>(a, parts, depths, b, init, init_row, out, out_row, n);
}

template <int... ROWS>
struct Table {
  static constexpr Tile wide[] = {nullptr, any_tile<ROWS, 2>...}, narrow[] = {nullptr, any_tile<ROWS, 1>...};
};
#if defined(__AVX512F__)
typedef Table<1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14> Tiles;
#else
typedef Table<1, 2, 3, 4, 5, 6> Tiles;
#endif
INLINE Tile tile_for(int rows, int n) { return (n <= LANES ? Tiles::narrow : Tiles::wide)[rows]; }

// Rows [begin, begin + count) in tiles of nearly equal height.
struct Rows {
  long begin, count;
  int tiles;
  Rows(long begin, long end) : begin(begin), count(end - begin), tiles((count + MOST_ROWS - 1) / MOST_ROWS) {}
  long start(int i) const { return count * i / tiles; }
  int height(int i) const { return start(i + 1) - start(i); }
};

// Row m of a tile: entries [begin, end) of `from`, or zeros.
INLINE void put_row(const float* from, long begin, long end, float* to, int rows) {
  for (long u = begin, next; u < end; u = next) {
    next = std::min<long>((u / DEPTH + 1) * DEPTH, end);
    float* const part = to + u / DEPTH * DEPTH * rows + u % DEPTH;
    if (from) memcpy(part, from + u, 4 * (next - u));
    else memset(part, 0, 4 * (next - u));
  }
}

// A panel of n columns of `rows` rows, which lie `row` entries apart.
INLINE void pack(const float* from, long rows, long row, int n, float* to) {
  for (long k = 0; k < rows; k++, to += width(n))
    for (int v = 0; v < width(n); v += LANES) *(V*)(to + v) = load(from + k * row + v, n - v);
}

// The same of the transpose: column j is row j of `from`, of `depth` entries.
INLINE void pack_transposed(const float* from, long depth, long row, int n, float* to) {
  for (long k = 0; k < depth; k += LANES)
    for (int j = 0; j < width(n); j++)
      for (long i = k; i < std::min<long>(k + LANES, depth); i++) to[i * width(n) + j] = j < n ? from[j * row + i] : 0.f;
}
