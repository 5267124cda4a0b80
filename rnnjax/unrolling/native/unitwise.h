// The recurrence of a cell whose units do not read each other, forward and backward in time. The file that includes this
// one defines the cell:
//
//   struct Cell {
//     static constexpr int ENTRIES, PARAMS, LEAVES, KEPT;  // entries of z and of the parameters, leaves of the state, and
//                                                          // what is computed of the parameters alone; each a unit
//     static constexpr bool PROJECTED, FINISHED;           // whether z = x w_x + bias is computed here, and whether
//                                                          // y [T, B, O] is, the sum of the states' leaves by w_y,
//                                                          // plus scale * x
//     static void prepare(const V* params, V* kept);       // once for all steps; likewise prepare_backward
//     static void forward(const V* z, const V* params, const V* kept, const V* old, V* now);
//     static void backward(const V* z, const V* params, const V* kept, const V* old, const V* d_now,
//                          V* d_z, V* d_params, V* d_old);
//   };
//
// As z reads no state, it is made of tiles of steps, and sequences and units are shared out: nobody waits for a step.
// Arrays: x [T, B, I] or z [T, B, ENTRIES, H]; leaves of states [T, B, H]; w_y [LEAVES, H, O], scale [O]. A flag is a
// byte for each step and sequence.
#pragma once
#include <deque>
#include <vector>
#include "buffers.h"
#include "products.h"
#include "tasks.h"

constexpr int Z = Cell::ENTRIES, P = Cell::PARAMS, X = Cell::LEAVES, K = Cell::KEPT;
constexpr long STEPS = 8 * MOST_ROWS;  // whose z is made at once, so that it stays in the nearest cache

struct Arrays {
  Sizes sizes;
  Flags flags;
  long O;
  const float *x, *w_x, *bias, *w_y, *scale, *params;  // x is z where the cell is not projected; no scale is null
  const float* start[X];
  const float* initial[X];
  float* states[X];
  float* last[X];
  float* y;
};

struct Gradients {
  const float* states[X];  // y instead where the cell is finished
  const float* y;
  const float* last[X];
  float *x, *w_x, *bias, *w_y, *scale, *params;  // x as above, null where nobody wants it
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

// Products of the rows of steps, [T, B, depth], by a weight whose panels are some units of each of its entries.
class Product {
 public:
  Product(const float* rows, long depth, long entries, const Split& split)
      : rows_(rows), depth_(depth), entries_(entries), split_(split), panels(entries * split.blocks), size_(depth * split.wide), packed_(panels * size_ + 64 * LANES) {}

  // Of a weight [depth, entries, H].
  void pack_panel(long panel, const float* weight) const {
    const Part part = split_.part(panel / entries_);
    pack(weight + panel % entries_ * split_.H + part.begin, depth_, entries_ * split_.H, part.n, packed_.p + panel * size_);
  }
  // Of a weight [entries, H, depth].
  void pack_panel_transposed(long panel, const float* weight) const {
    const Part part = split_.part(panel / entries_);
    pack_transposed(weight + (panel % entries_ * split_.H + part.begin) * depth_, depth_, depth_, part.n, packed_.p + panel * size_);
  }
  // Those of steps [begin, end) of a part, [steps][entries][wide], plus a bias [entries, H]; `operand` holds a tile of rows.
  void multiply(const Part& part, long B, long begin, long end, const float* bias, float* operand, float* out) const {
    const long row = entries_ * split_.wide;
    const Rows steps(begin, end);
    for (int i = 0; i < steps.tiles; i++) {
      const int height = steps.height(i);
      for (int m = 0; m < height; m++) put_row(rows_ + ((begin + steps.start(i) + m) * B + part.b) * depth_, 0, depth_, operand + m * DEPTH, height);
      for (int e = 0; e < entries_; e++) {
        const float* init = bias ? bias + e * split_.H + part.begin : nullptr;
        tile_for(height, part.n)(operand, 1, &depth_, packed_.p + (part.block * entries_ + e) * size_, init, 0, out + steps.start(i) * row + e * split_.wide, row, part.n);
      }
    }
  }

 private:
  const float* const rows_;
  const long depth_, entries_;
  const Split& split_;

 public:
  const long panels;

 private:
  const long size_;
  Scratch packed_;
};

// Scratch memory of a part: a tile of rows, and z and gradients of states of some steps, of which entries past the units
// are read and never stored.
struct Room {
  Room(const Arrays& arrays, const Split& split)
      : operand_size(MOST_ROWS * round_up(std::max(arrays.sizes.I, arrays.O), DEPTH)), z_size(STEPS * Z * split.wide), d_size(STEPS * X * split.wide),
        all(operand_size + z_size + d_size) {
    memset(z(), 0, 4 * (z_size + d_size));
  }
  float* operand() const { return all.p; }
  float* z() const { return all.p + operand_size; }
  float* d_states() const { return z() + z_size; }
  const long operand_size, z_size, d_size;
  Scratch all;
};

// z of steps [begin, end) of a part, [steps][Z][wide].
static void put_z(const Arrays& arrays, const Split& split, const Product& inputs, const Part& part, long begin, long end, const Room& room) {
  const long B = arrays.sizes.B;
  if (Cell::PROJECTED) return inputs.multiply(part, B, begin, end, arrays.bias, room.operand(), room.z());
  for (long t = begin; t < end; t++)
    for (int e = 0; e < Z; e++)
      memcpy(room.z() + ((t - begin) * Z + e) * split.wide, arrays.x + ((t * B + part.b) * Z + e) * split.H + part.begin, 4 * part.n);
}

// Products of all rows of arrays side by side, [rows, depth] each, by a weight: rows in tiles, columns in panels.
class RowProducts {
 public:
  RowProducts(std::vector<const float*> sources, long depth, long rows, float* out, long columns)
      : sources_(sources), depths_(sources.size(), depth), depth_(depth), rows_(rows), columns_(columns), out_(out),
        panels(out ? (columns + WIDTH - 1) / WIDTH : 0), tasks(out ? (rows + STEPS - 1) / STEPS : 0),
        panel_size_((long)sources.size() * depth * WIDTH), packed_(panels * panel_size_ + 64 * LANES) {
    if (out) in_large_pages(out, rows * columns * 4);
  }
  // Of a weight [all depths, columns].
  void pack_panel(long panel, const float* weight) const { pack(weight + panel * WIDTH, sources_.size() * depth_, columns_, width_of(panel), packed_.p + panel * panel_size_); }
  // Of a weight [columns, depth].
  void pack_panel_transposed(long panel, const float* weight) const { pack_transposed(weight + panel * WIDTH * depth_, depth_, depth_, width_of(panel), packed_.p + panel * panel_size_); }
  // Plus scale * by, a number for each column and rows like those of the result, where there is a scale.
  void multiply(long task, const float* scale, const float* by) const {
    const long wide = round_up(depth_, DEPTH);
    const Rows rows(task * STEPS, std::min((task + 1) * STEPS, rows_));
    Scratch operand(MOST_ROWS * wide * sources_.size());
    for (int i = 0; i < rows.tiles; i++) {
      const int height = rows.height(i);
      const long first = rows.begin + rows.start(i);
      for (size_t j = 0; j < sources_.size(); j++)
        for (int m = 0; m < height; m++) put_row(sources_[j] + (first + m) * depth_, 0, depth_, operand.p + j * wide * height + m * DEPTH, height);
      for (long k = first * columns_; scale && k < (first + height) * columns_; k += columns_)
        for (long column = 0; column < columns_; column++) out_[k + column] = scale[column] * by[k + column];
      for (long panel = 0; panel < panels; panel++) {
        float* out = out_ + first * columns_ + panel * WIDTH;
        tile_for(height, width_of(panel))(operand.p, (int)sources_.size(), depths_.data(), packed_.p + panel * panel_size_, scale ? out : nullptr, columns_, out, columns_, width_of(panel));
      }
    }
  }

 private:
  int width_of(long panel) const { return (int)std::min<long>(WIDTH, columns_ - panel * WIDTH); }
  const std::vector<const float*> sources_;
  const std::vector<long> depths_;
  const long depth_, rows_, columns_;
  float* const out_;

 public:
  const long panels, tasks;

 private:
  const long panel_size_;
  Scratch packed_;
};

static long multiplications(const Arrays& arrays) {
  const Sizes& sizes = arrays.sizes;
  return sizes.T * sizes.B * sizes.H * (Z * (Cell::PROJECTED ? sizes.I : 8) + X * arrays.O);
}

static void forward(ffi::ThreadPool& threads, const Arrays& arrays) {
  const long T = arrays.sizes.T, B = arrays.sizes.B, H = arrays.sizes.H;
  for (float* leaf : arrays.states) in_large_pages(leaf, T * B * H * 4);
  const Split split(arrays.sizes, threads.num_threads());
  const Product inputs(arrays.x, arrays.sizes.I, Cell::PROJECTED ? Z : 0, split);
  const RowProducts outputs(std::vector<const float*>(arrays.states, arrays.states + X), H, T * B, arrays.y, arrays.O);
  run(threads, multiplications(arrays), {inputs.panels + outputs.panels, split.count, outputs.tasks}, [&](int stage, long id) {
    if (stage == 0) return id < inputs.panels ? inputs.pack_panel(id, arrays.w_x) : outputs.pack_panel(id - inputs.panels, arrays.w_y);
    if (stage == 2) return outputs.multiply(id, arrays.scale, arrays.x);
    const Part part = split.part(id);
    const Room room(arrays, split);
    const long row = part.b * H + part.begin;
    for (int j = 0; j < X; j++) memcpy(arrays.last[j] + row, arrays.start[j] + row, 4 * part.n);
    for (long begin = 0; begin < T; begin += STEPS) {
      const long end = std::min(begin + STEPS, T);
      put_z(arrays, split, inputs, part, begin, end, room);
      for (int v = 0; v < part.vectors(); v++) {
        const long u = v * LANES;
        const int n = std::min<long>(LANES, part.n - u);
        V params[P + 1], kept[K + 1], h[X];
        for (int e = 0; e < P; e++) params[e] = load(arrays.params + e * H + part.begin + u, n);
        Cell::prepare(params, kept);
        for (int j = 0; j < X; j++) h[j] = load(arrays.last[j] + row + u, n);
        for (long t = begin; t < end; t++) {
          const long tb = t * B + part.b;
          if (arrays.flags.takes(tb)) {
            V z[Z], now[X];
            if (arrays.flags.reset(tb))
              for (int j = 0; j < X; j++) h[j] = load(arrays.initial[j] + row + u, n);
            for (int e = 0; e < Z; e++) z[e] = load(room.z() + ((t - begin) * Z + e) * split.wide + u);
            Cell::forward(z, params, kept, h, now);
            for (int j = 0; j < X; j++) h[j] = now[j];
          }
          for (int j = 0; j < X; j++) store(arrays.states[j] + tb * H + part.begin + u, h[j], n);
        }
        for (int j = 0; j < X; j++) store(arrays.last[j] + row + u, h[j], n);
      }
    }
  });
}

// The gradient of a weight: one product of all rows, [features, rows] by [rows, columns], and the sum of the latter. Rows
// are shared out, and what the shares found is added up in the end.
class WeightGradient {
 public:
  WeightGradient(const float* from, long features, const float* by, long columns, long rows, float* out, float* sums, long threads)
      : from_(from), by_(by), out_(out), sums_(sums), features_(features), columns_(columns), rows_(rows), shares(std::clamp<long>(rows / DEEP, 1, threads)),
        size_((features + 1) * columns), partial_((shares - 1) * size_) {}

  void multiply(long share) const {
    float* const out = share ? partial(share) : out_;
    float* const sums = share ? partial(share) + features_ * columns_ : sums_;
    const Scratch left(DEEP * features_), right(DEEP * WIDTH);
    const long first = rows_ * share / shares, end = rows_ * (share + 1) / shares;
    for (long begin = first; begin < end; begin += DEEP) {
      const long count = std::min(DEEP, end - begin);
      pack_left(begin, count, left.p);
      for (long column = 0; column < columns_; column += WIDTH) multiply(column, begin, count, begin > first, left.p, right.p, out, sums);
    }
  }
  void add_up() const {
    for (long share = 1; share < shares; share++) {
      for (long k = 0; k < features_ * columns_; k++) out_[k] += partial(share)[k];
      for (long k = 0; sums_ && k < columns_; k++) sums_[k] += partial(share)[features_ * columns_ + k];
    }
  }

 private:
  static constexpr long DEEP = 256;  // rows that a tile is multiplied by
  float* partial(long share) const { return partial_.p + (share - 1) * size_; }

  // The left rows as tiles of features, with the rows as their depth.
  void pack_left(long begin, long count, float* left) const {
    const Rows features(0, features_);
    for (long k = 0; k < count; k++) {
      const float* from = from_ + (begin + k) * features_;
      for (int i = 0; i < features.tiles; i++) {
        const int height = features.height(i);
        float* to = left + features.start(i) * DEEP + k / DEPTH * height * DEPTH + k % DEPTH;
        for (int m = 0; m < height; m++) to[m * DEPTH] = from[features.start(i) + m];
      }
    }
  }
  void multiply(long column, long begin, long count, bool adds, const float* left, float* right, float* out, float* sums) const {
    const int n = std::min<long>(WIDTH, columns_ - column);
    const Rows features(0, features_);
    pack(by_ + begin * columns_ + column, count, columns_, n, right);
    for (int i = 0; i < features.tiles; i++) {
      float* to = out + features.start(i) * columns_ + column;
      tile_for(features.height(i), n)(left + features.start(i) * DEEP, 1, &count, right, adds ? to : nullptr, columns_, to, columns_, n);
    }
    for (int v = 0; sums && v < width(n); v += LANES) {
      V sum = adds ? load(sums + column + v, n - v) : V{};
      for (long k = 0; k < count; k++) sum += *(V*)(right + k * width(n) + v);
      store(sums + column + v, sum, n - v);
    }
  }

  const float *const from_, *const by_;
  float *const out_, *const sums_;
  const long features_, columns_, rows_;

 public:
  const long shares;

 private:
  const long size_;
  Scratch partial_;
};

// The gradients of the weights that there are: tasks are numbered over all of them.
class WeightGradients {
 public:
  WeightGradients(const Arrays& arrays, const Gradients& gradients, const float* d_z, long threads) {
    const long H = arrays.sizes.H, rows = arrays.sizes.T * arrays.sizes.B;
    if (Cell::PROJECTED) all.emplace_back(arrays.x, arrays.sizes.I, d_z, Z * H, rows, gradients.w_x, gradients.bias, threads);
    for (int j = 0; Cell::FINISHED && j < X; j++)
      all.emplace_back(arrays.states[j], H, gradients.y, arrays.O, rows, gradients.w_y + j * H * arrays.O, nullptr, threads);
    for (const WeightGradient& each : all) tasks += each.shares;
  }
  void multiply(long task) const {
    for (const WeightGradient& each : all) {
      if (task < each.shares) return each.multiply(task);
      task -= each.shares;
    }
  }
  long tasks = 0;
  std::deque<WeightGradient> all;
};

// The gradient of the scale, some columns of it: the sum over all rows of d_y * x.
static void put_d_scale(const Arrays& arrays, const Gradients& gradients, long panel) {
  const long O = arrays.O, column = panel * WIDTH;
  const int n = std::min<long>(WIDTH, O - column);
  V sums[2] = {};
  for (long row = column; row < arrays.sizes.T * arrays.sizes.B * O; row += O)
    for (int v = 0; v < 2; v++) sums[v] += load(gradients.y + row + v * LANES, n - v * LANES) * load(arrays.x + row + v * LANES, n - v * LANES);
  for (int v = 0; v < 2; v++) store(gradients.scale + column + v * LANES, sums[v], n - v * LANES);
}

static void backward(ffi::ThreadPool& threads, const Arrays& arrays, const Gradients& gradients) {
  const long T = arrays.sizes.T, B = arrays.sizes.B, H = arrays.sizes.H;
  Scratch own_d_z(Cell::PROJECTED ? T * B * Z * H : 0);
  float* const d_z_of_all = Cell::PROJECTED ? own_d_z.p : gradients.x;
  in_large_pages(d_z_of_all, T * B * Z * H * 4);
  const Split split(arrays.sizes, threads.num_threads());
  const Product inputs(arrays.x, arrays.sizes.I, Cell::PROJECTED ? Z : 0, split), d_outputs(gradients.y, arrays.O, Cell::FINISHED ? X : 0, split);
  const RowProducts d_inputs({d_z_of_all}, Z * H, T * B, Cell::PROJECTED ? gradients.x : nullptr, arrays.sizes.I);
  const WeightGradients weights(arrays, gradients, d_z_of_all, threads.num_threads());
  const long scale_panels = gradients.scale ? (arrays.O + WIDTH - 1) / WIDTH : 0;
  const long sums_size = (P + 1) * split.wide;
  Scratch sums(split.count * sums_size);
  run(threads, 2 * multiplications(arrays), {inputs.panels + d_outputs.panels + d_inputs.panels, split.count, weights.tasks + scale_panels + d_inputs.tasks, (long)weights.all.size()}, [&](int stage, long id) {
    if (stage == 0) {
      if (id < inputs.panels) return inputs.pack_panel(id, arrays.w_x);
      id -= inputs.panels;
      return id < d_outputs.panels ? d_outputs.pack_panel_transposed(id, arrays.w_y) : d_inputs.pack_panel_transposed(id - d_outputs.panels, arrays.w_x);
    }
    if (stage == 2) {
      if (id < weights.tasks) return weights.multiply(id);
      id -= weights.tasks;
      return id < scale_panels ? put_d_scale(arrays, gradients, id) : d_inputs.multiply(id - scale_panels, arrays.scale, gradients.y);
    }
    if (stage == 3) return weights.all[id].add_up();
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
      put_z(arrays, split, inputs, part, begin, end, room);
      if (Cell::FINISHED) d_outputs.multiply(part, B, begin, end, nullptr, room.operand(), room.d_states());
      for (int v = 0; v < part.vectors(); v++) {
        const long u = v * LANES;
        const int n = std::min<long>(LANES, part.n - u);
        V params[P + 1], kept[K + 1], d_h[X], d_total[P + 1];
        for (int e = 0; e < P; e++) params[e] = load(arrays.params + e * H + part.begin + u, n);
        Cell::prepare_backward(params, kept);
        for (int e = 0; e < P; e++) d_total[e] = load(sum + e * split.wide + u);
        for (int j = 0; j < X; j++) d_h[j] = load(gradients.start[j] + row + u, n);
        for (long t = end - 1; t >= begin; t--) {
          const long tb = t * B + part.b;
          float* const d_z_of = d_z_of_all + tb * Z * H + part.begin + u;
          for (int j = 0; j < X; j++)
            d_h[j] += Cell::FINISHED ? load(room.d_states() + ((t - begin) * X + j) * split.wide + u) : load(gradients.states[j] + tb * H + part.begin + u, n);
          if (!arrays.flags.takes(tb)) {
            for (int e = 0; e < Z; e++) store(d_z_of + e * H, (V){}, n);
            continue;
          }
          const bool reset = arrays.flags.reset(tb), followed = arrays.flags.followed && arrays.flags.followed[tb];
          V z[Z], old[X], d_z[Z], d_params[P + 1], d_old[X];
          for (int e = 0; e < Z; e++) z[e] = load(room.z() + ((t - begin) * Z + e) * split.wide + u);
          for (int j = 0; j < X; j++)
            old[j] = load(reset ? arrays.initial[j] + row + u : t ? arrays.states[j] + (tb - B) * H + part.begin + u : arrays.start[j] + row + u, n);
          Cell::backward(z, params, kept, old, d_h, d_z, d_params, d_old);
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
