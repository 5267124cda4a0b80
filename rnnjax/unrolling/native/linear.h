// A linear cell's recurrence forward and backward in time. The file that includes this one defines the cell:
//
//   struct Cell {
//     static constexpr int ENTRIES, PARAMS, LEAVES;  // entries of z and of the parameters, leaves of the state; each a unit
//     static constexpr bool PROJECTED;               // whether z = x w_x + bias is computed here
//     static void forward(const V* z, const V* params, const V* old, V* now);
//     static void backward(const V* z, const V* params, const V* old, const V* d_now, V* d_z, V* d_params, V* d_old);
//   };
//
// As z reads no state, it is made of tiles of steps, and sequences and units are shared out: nobody waits for a step.
// Arrays: x [T, B, I] or z [T, B, ENTRIES, H]; leaves of states [T, B, H]. A flag is a byte for each step and sequence.
#pragma once
#include "buffers.h"
#include "products.h"
#include "tasks.h"

constexpr int Z = Cell::ENTRIES, P = Cell::PARAMS, X = Cell::LEAVES;
constexpr long STEPS = 8 * MOST_ROWS;  // whose z is made at once, so that it stays in the nearest cache

struct Arrays {
  Sizes sizes;
  Flags flags;
  const float *x, *w_x, *bias, *params;  // x is z where the cell is not projected
  const float* start[X];
  const float* initial[X];
  float* states[X];
  float* last[X];
};

struct Gradients {
  const float* states[X];
  const float* last[X];
  float *z, *w_x, *bias, *params;
  float* start[X];
  float* initial[X];
};

// Some units of one sequence, for all steps.
struct Part {
  long b, block, begin;
  int n;
  int vectors() const { return (n + LANES - 1) / LANES; }
};

struct Split {
  long H, wide, blocks, count;  // wide: units of a part
  Split(const Sizes& sizes, long threads)
      : H(sizes.H), wide(sizes.B * ((H + WIDTH - 1) / WIDTH) < threads ? LANES : WIDTH), blocks((H + wide - 1) / wide), count(sizes.B * blocks) {}
  Part part(long id) const {
    const long block = id % blocks, begin = block * wide;
    return {id / blocks, block, begin, (int)std::min(wide, H - begin)};
  }
};

// What makes z of steps: the weight in panels, one for each entry of each block.
class Projection {
 public:
  Projection(const Arrays& arrays, const Split& split)
      : arrays_(arrays), split_(split), panels(Cell::PROJECTED ? Z * split.blocks : 0), size_(arrays.sizes.I * split.wide), packed_(panels * size_ + 64 * LANES) {}
  void pack_panel(long panel) const {
    const Part part = split_.part(panel / Z);
    const long column = panel % Z * split_.H + part.begin;
    pack(arrays_.w_x + column, arrays_.sizes.I, Z * split_.H, part.n, packed_.p + panel * size_);
  }
  // z of steps [begin, end), [steps][Z][wide]; `operand` holds a tile of x.
  void z(const Part& part, long begin, long end, float* operand, float* z) const {
    const long B = arrays_.sizes.B, I = arrays_.sizes.I, H = split_.H, row = Z * split_.wide;
    if (!Cell::PROJECTED) {
      for (long t = begin; t < end; t++)
        for (int e = 0; e < Z; e++) memcpy(z + (t - begin) * row + e * split_.wide, arrays_.x + ((t * B + part.b) * Z + e) * H + part.begin, 4 * part.n);
      return;
    }
    const Rows steps(begin, end);
    for (int i = 0; i < steps.tiles; i++) {
      const int height = steps.height(i);
      for (int m = 0; m < height; m++) put_row(arrays_.x + ((begin + steps.start(i) + m) * B + part.b) * I, I, operand + m * DEPTH, height);
      for (int e = 0; e < Z; e++) {
        const float* bias = arrays_.bias ? arrays_.bias + e * H + part.begin : nullptr;
        tile_for(height, part.n)(operand, 1, &I, packed_.p + (part.block * Z + e) * size_, bias, 0, z + steps.start(i) * row + e * split_.wide, row, part.n);
      }
    }
  }

 private:
  const Arrays& arrays_;
  const Split& split_;

 public:
  const long panels;

 private:
  const long size_;
  Scratch packed_;
};

// Scratch memory of a part: a tile of x and z of some steps, of which entries past the units are read and never stored.
struct Room {
  Room(const Arrays& arrays, const Split& split) : operand_size(MOST_ROWS * round_up(arrays.sizes.I, DEPTH)), all(operand_size + STEPS * Z * split.wide) {
    memset(z(), 0, 4 * STEPS * Z * split.wide);
  }
  float* operand() const { return all.p; }
  float* z() const { return all.p + operand_size; }
  const long operand_size;
  Scratch all;
};

static long multiplications(const Sizes& sizes) { return sizes.T * sizes.B * Z * sizes.H * (Cell::PROJECTED ? sizes.I : 8); }

static void forward(ffi::ThreadPool& threads, const Arrays& arrays) {
  const long T = arrays.sizes.T, B = arrays.sizes.B, H = arrays.sizes.H;
  for (float* leaf : arrays.states) in_large_pages(leaf, T * B * H * 4);
  const Split split(arrays.sizes, threads.num_threads());
  const Projection projection(arrays, split);
  run(threads, multiplications(arrays.sizes), {projection.panels, split.count}, [&](int stage, long id) {
    if (stage == 0) return projection.pack_panel(id);
    const Part part = split.part(id);
    const Room room(arrays, split);
    const long row = part.b * H + part.begin;
    for (int j = 0; j < X; j++) memcpy(arrays.last[j] + row, arrays.start[j] + row, 4 * part.n);
    for (long begin = 0; begin < T; begin += STEPS) {
      const long end = std::min(begin + STEPS, T);
      projection.z(part, begin, end, room.operand(), room.z());
      for (int v = 0; v < part.vectors(); v++) {
        const long u = v * LANES;
        const int n = std::min<long>(LANES, part.n - u);
        V params[P + 1], h[X];
        for (int e = 0; e < P; e++) params[e] = load(arrays.params + e * H + part.begin + u, n);
        for (int j = 0; j < X; j++) h[j] = load(arrays.last[j] + row + u, n);
        for (long t = begin; t < end; t++) {
          const long tb = t * B + part.b;
          if (arrays.flags.takes(tb)) {
            V z[Z], now[X];
            if (arrays.flags.reset(tb))
              for (int j = 0; j < X; j++) h[j] = load(arrays.initial[j] + row + u, n);
            for (int e = 0; e < Z; e++) z[e] = load(room.z() + ((t - begin) * Z + e) * split.wide + u);
            Cell::forward(z, params, h, now);
            for (int j = 0; j < X; j++) h[j] = now[j];
          }
          for (int j = 0; j < X; j++) store(arrays.states[j] + tb * H + part.begin + u, h[j], n);
        }
        for (int j = 0; j < X; j++) store(arrays.last[j] + row + u, h[j], n);
      }
    }
  });
}

// The gradient of the weight: one product of all steps and sequences, [I, T B] by [T B, Z H].
class WeightGradient {
 public:
  static constexpr long DEEP = 256;  // steps and sequences that a tile is multiplied by

  WeightGradient(const Arrays& arrays, const Gradients& gradients)
      : arrays_(arrays), gradients_(gradients), rows_(arrays.sizes.T * arrays.sizes.B), columns_(Z * arrays.sizes.H),
        blocks(Cell::PROJECTED ? (rows_ + DEEP - 1) / DEEP : 0), panels(Cell::PROJECTED ? (columns_ + WIDTH - 1) / WIDTH : 0),
        left_(blocks * DEEP * arrays.sizes.I), right_(panels * DEEP * WIDTH) {}

  // x as tiles of features, with the steps as their depth.
  void pack_left(long block) const {
    const long I = arrays_.sizes.I, count = std::min(DEEP, rows_ - block * DEEP);
    const Rows features(0, I);
    for (long k = 0; k < count; k++) {
      const float* from = arrays_.x + (block * DEEP + k) * I;
      for (int i = 0; i < features.tiles; i++) {
        const int height = features.height(i);
        float* to = left_.p + (block * I + features.start(i)) * DEEP + k / DEPTH * height * DEPTH + k % DEPTH;
        for (int m = 0; m < height; m++) to[m * DEPTH] = from[features.start(i) + m];
      }
    }
  }

  void multiply(long panel) const {
    const long I = arrays_.sizes.I, column = panel * WIDTH;
    const int n = std::min<long>(WIDTH, columns_ - column);
    const Rows features(0, I);
    float* const right = right_.p + panel * DEEP * WIDTH;
    V sums[2] = {};
    for (long block = 0; block < blocks; block++) {
      const long count = std::min(DEEP, rows_ - block * DEEP);
      pack(gradients_.z + block * DEEP * columns_ + column, count, columns_, n, right);
      for (long k = 0; k < count; k++)
        for (int v = 0; v < width(n) / LANES; v++) sums[v] += *(V*)(right + k * width(n) + v * LANES);
      for (int i = 0; i < features.tiles; i++) {
        float* out = gradients_.w_x + features.start(i) * columns_ + column;
        tile_for(features.height(i), n)(left_.p + (block * I + features.start(i)) * DEEP, 1, &count, right, block ? out : nullptr, columns_, out, columns_, n);
      }
    }
    if (gradients_.bias)
      for (int v = 0; v < 2; v++) store(gradients_.bias + column + v * LANES, sums[v], n - v * LANES);
  }

 private:
  const Arrays& arrays_;
  const Gradients& gradients_;
  const long rows_, columns_;

 public:
  const long blocks, panels;

 private:
  Scratch left_, right_;
};

static void backward(ffi::ThreadPool& threads, const Arrays& arrays, const Gradients& gradients) {
  const long T = arrays.sizes.T, B = arrays.sizes.B, H = arrays.sizes.H;
  in_large_pages(gradients.z, T * B * Z * H * 4);
  const Split split(arrays.sizes, threads.num_threads());
  const Projection projection(arrays, split);
  const WeightGradient weight(arrays, gradients);
  const long sums_size = (P + 1) * split.wide;
  Scratch sums(split.count * sums_size);
  run(threads, 2 * multiplications(arrays.sizes), {projection.panels, split.count + weight.blocks, weight.panels}, [&](int stage, long id) {
    if (stage == 0) return projection.pack_panel(id);
    if (stage == 1 && id >= split.count) return weight.pack_left(id - split.count);
    if (stage == 2) return weight.multiply(id);
    const Part part = split.part(id);
    const Room room(arrays, split);
    const long row = part.b * H + part.begin;
    float* const sum = sums.p + id * sums_size;
    memset(sum, 0, 4 * sums_size);
    for (int j = 0; j < X; j++) {
      memcpy(gradients.start[j] + row, gradients.last[j] + row, 4 * part.n);
      if (gradients.initial[j]) memset(gradients.initial[j] + row, 0, 4 * part.n);
    }
    for (long begin = (T - 1) / STEPS * STEPS; begin >= 0; begin -= STEPS) {
      const long end = std::min(begin + STEPS, T);
      projection.z(part, begin, end, room.operand(), room.z());
      for (int v = 0; v < part.vectors(); v++) {
        const long u = v * LANES;
        const int n = std::min<long>(LANES, part.n - u);
        V params[P + 1], d_h[X], d_total[P + 1];
        for (int e = 0; e < P; e++) params[e] = load(arrays.params + e * H + part.begin + u, n);
        for (int e = 0; e < P; e++) d_total[e] = load(sum + e * split.wide + u);
        for (int j = 0; j < X; j++) d_h[j] = load(gradients.start[j] + row + u, n);
        for (long t = end - 1; t >= begin; t--) {
          const long tb = t * B + part.b;
          float* const d_z_of = gradients.z + tb * Z * H + part.begin + u;
          for (int j = 0; j < X; j++) d_h[j] += load(gradients.states[j] + tb * H + part.begin + u, n);
          if (!arrays.flags.takes(tb)) {
            for (int e = 0; e < Z; e++) store(d_z_of + e * H, (V){}, n);
            continue;
          }
          const bool reset = arrays.flags.reset(tb), followed = arrays.flags.followed && arrays.flags.followed[tb];
          V z[Z], old[X], d_z[Z], d_params[P + 1], d_old[X];
          for (int e = 0; e < Z; e++) z[e] = load(room.z() + ((t - begin) * Z + e) * split.wide + u);
          for (int j = 0; j < X; j++)
            old[j] = load(reset ? arrays.initial[j] + row + u : t ? arrays.states[j] + (tb - B) * H + part.begin + u : arrays.start[j] + row + u, n);
          Cell::backward(z, params, old, d_h, d_z, d_params, d_old);
          if (followed) {  // a step whose gradients are all zero may be lost to the reset: its derivative may be NaN
            Mask lost = mask(true);
            for (int j = 0; j < X; j++) lost &= d_h[j] == 0.f;
            auto cut = [&](V* each, int count) { for (int e = 0; e < count; e++) each[e] = pick(lost, V{}, each[e]); };
            cut(d_z, Z), cut(d_params, P), cut(d_old, X);
          }
          for (int e = 0; e < Z; e++) store(d_z_of + e * H, d_z[e], n);
          for (int e = 0; e < P; e++) d_total[e] += d_params[e];
          for (int j = 0; j < X; j++) {
            d_h[j] = d_old[j];
            if (!reset) continue;
            float* const d_initial = gradients.initial[j] + row + u;
            store(d_initial, load(d_initial, n) + d_old[j], n);
            d_h[j] = V{};
          }
        }
        for (int e = 0; e < P; e++) store(sum + e * split.wide + u, d_total[e]);
        for (int j = 0; j < X; j++) store(gradients.start[j] + row + u, d_h[j], n);
      }
    }
  });
  for (int e = 0; e < P; e++)
    for (long u = 0; u < H; u++) {
      float total = 0;
      for (long b = 0; b < B; b++) total += sums.p[(b * split.blocks + u / split.wide) * sums_size + e * split.wide + u % split.wide];
      gradients.params[e * H + u] = total;
    }
}
