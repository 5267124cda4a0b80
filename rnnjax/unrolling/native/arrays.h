// The arrays of a recurrence. The file that includes this one defines the cell:
//
//   struct Cell {
//     static constexpr int GATES, ENTRIES, PARAMS, LEAVES, HIDDEN;  // entries of z and of the parameters, leaves of the
//                                                                   // state, and which of these is h; each a unit
//     static constexpr bool PROJECTED;       // whether z = x w_x + bias is computed here, an entry a gate
//     static constexpr bool SUMMED[GATES];   // gates that read z + r only: entry g then holds the sum, and r has none
//     static void forward(const V* z, const V* r, const V* params, const V* old, V* now);
//     static void backward(const V* z, const V* r, const V* params, const V* old, const V* d_now,
//                          V* d_z, V* d_r, V* d_params, V* d_old);
//   };
//
// Arrays: z [T, B, ENTRIES, H]; r [T, B, gates with an r of their own, H]; leaves of states [T, B, H]. Forward the first
// two may have one place for all steps, where no gradient is asked for; on the way back they are replaced by their
// gradients. A flag is a byte for each step and sequence.
#pragma once
#include "buffers.h"
#include "products.h"
#include "tasks.h"

constexpr int own_products() {
  int count = 0;
  for (bool summed : Cell::SUMMED) count += !summed;
  return count;
}
constexpr int G = Cell::GATES, Z = Cell::ENTRIES, R = own_products(), P = Cell::PARAMS, X = Cell::LEAVES;

struct Arrays : States<X> {
  const float *x, *w_x, *bias, *w, *params;
  float *z, *r;
  long z_places, r_places;  // for how many steps
  float* z_of(long t, long b) const { return z + (t % z_places * sizes.B + b) * Z * sizes.H; }
  float* r_of(long t, long b) const { return r + (t % r_places * sizes.B + b) * R * sizes.H; }
};

struct Gradients {
  const float* ys;
  const float* last[X];
  float *w_x, *bias, *w, *params;
  float* start[X];
  float* initial[X];
};

// Gates that are multiplied alike: [begin, end) by x, by h or by both, into columns of z or of r.
struct Run {
  int begin, end;
  bool of_x, of_h, in_z;
  int column;  // the first gate's place there
};

static std::vector<Run> runs() {
  std::vector<Run> found;
  for (int g = 0, own = 0; g < G;) {
    int end = g + 1;
    while (end < G && Cell::SUMMED[end] == Cell::SUMMED[g]) end++;
    if (Cell::SUMMED[g]) {
      found.push_back({g, end, true, true, true, g});
    } else {
      if (Cell::PROJECTED) found.push_back({g, end, true, false, true, g});
      found.push_back({g, end, false, true, false, own});
      own += end - g;
    }
    g = end;
  }
  return found;
}
