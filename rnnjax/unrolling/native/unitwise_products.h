// The arrays of a unitwise recurrence, and the products before and behind it, forward and backward, in tasks for threads.
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
      : rows_(rows), depth_(depth), entries_(entries), split_(split), panels(entries * split.blocks),
        size_(depth * split.wide), packed_(panels * size_ + 64 * LANES) {}

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
      for (int m = 0; m < height; m++) {
        const long t = begin + steps.start(i) + m;
        put_row(rows_ + (t * B + part.b) * depth_, 0, depth_, operand + m * DEPTH, height);
      }
      for (int e = 0; e < entries_; e++) {
        const float* init = bias ? bias + e * split_.H + part.begin : nullptr;
        const float* weight = packed_.p + (part.block * entries_ + e) * size_;
        float* to = out + steps.start(i) * row + e * split_.wide;
        tile_for(height, part.n)(operand, 1, &depth_, weight, init, 0, to, row, part.n);
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
  void pack_panel(long panel, const float* weight) const {
    pack(weight + panel * WIDTH, sources_.size() * depth_, columns_, width_of(panel), packed_.p + panel * panel_size_);
  }
  // Of a weight [columns, depth].
  void pack_panel_transposed(long panel, const float* weight) const {
    pack_transposed(weight + panel * WIDTH * depth_, depth_, depth_, width_of(panel), packed_.p + panel * panel_size_);
  }
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
        const int n = width_of(panel), parts = (int)sources_.size();
        const float* weight = packed_.p + panel * panel_size_;
        tile_for(height, n)(operand.p, parts, depths_.data(), weight, scale ? out : nullptr, columns_, out, columns_, n);
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

// The gradient of a weight: one product of all rows, [features, rows] by [rows, columns], and the sum of the latter. Rows
// are shared out, and what the shares found is added up in the end.
class WeightGradient {
 public:
  WeightGradient(const float* from, long features, const float* by, long columns, long rows, float* out, float* sums, long threads)
      : from_(from), by_(by), out_(out), sums_(sums), features_(features), columns_(columns), rows_(rows),
        shares(std::clamp<long>(rows / DEEP, 1, threads)),
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
