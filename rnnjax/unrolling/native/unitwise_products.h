// The products before and behind a unitwise recurrence, forward and backward, of some rows at a time.
#pragma once
#include <deque>
#include "unitwise_arrays.h"

// Rows that lie `row` entries apart.
struct View {
  const float* p;
  long row;
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

// Products of rows of arrays side by side, of `depth` entries each, by a weight: rows in tiles, columns in panels.
class RowProducts {
 public:
  RowProducts(long sources, long depth, long columns)
      : depths_(sources, depth), depth_(depth), columns_(columns), panels((columns + WIDTH - 1) / WIDTH),
        panel_size_(sources * depth * WIDTH), packed_(panels * panel_size_ + 64 * LANES) {}
  // Of a weight [all depths, columns].
  void pack_panel(long panel, const float* weight) const {
    pack(weight + panel * WIDTH, depths_.size() * depth_, columns_, width_of(panel), packed_.p + panel * panel_size_);
  }
  // Of a weight [columns, depth].
  void pack_panel_transposed(long panel, const float* weight) const {
    pack_transposed(weight + panel * WIDTH * depth_, depth_, depth_, width_of(panel), packed_.p + panel * panel_size_);
  }
  // Of so many rows, into rows of `out`; plus scale * added, a number for each column, where there is a scale.
  void multiply(const View* sources, long count, float* out, long out_row, const float* scale, View added) const {
    const long wide = round_up(depth_, DEPTH);
    const int parts = (int)depths_.size();
    const Rows rows(0, count);
    Scratch operand(MOST_ROWS * wide * parts);
    for (int i = 0; i < rows.tiles; i++) {
      const int height = rows.height(i);
      const long first = rows.start(i);
      float* const to = out + first * out_row;
      for (int j = 0; j < parts; j++)
        for (int m = 0; m < height; m++)
          put_row(sources[j].p + (first + m) * sources[j].row, 0, depth_, operand.p + j * wide * height + m * DEPTH, height);
      for (int m = 0; scale && m < height; m++)
        for (long column = 0; column < columns_; column++) to[m * out_row + column] = scale[column] * added.p[(first + m) * added.row + column];
      for (long panel = 0; panel < panels; panel++) {
        const int n = width_of(panel);
        float* const at = to + panel * WIDTH;
        tile_for(height, n)(operand.p, parts, depths_.data(), packed_.p + panel * panel_size_, scale ? at : nullptr, out_row, at, out_row, n);
      }
    }
  }

 private:
  int width_of(long panel) const { return (int)std::min<long>(WIDTH, columns_ - panel * WIDTH); }
  const std::vector<long> depths_;
  const long depth_, columns_;

 public:
  const long panels;

 private:
  const long panel_size_;
  Scratch packed_;
};

// The gradient of a weight [features, columns]: the product of rows of features by rows of columns, and the sum of the
// latter. Each share adds up its own rows, and what they found is added up in the end.
class WeightGradient {
 public:
  WeightGradient(long features, long columns, float* out, float* sums, long shares)
      : features_(features), columns_(columns), shares_(shares), size_((features + 1) * columns), out_(out), sums_(sums), found_(shares * size_) {}

  void clear(long share) const { memset(found_.p + share * size_, 0, 4 * size_); }
  void add(long share, View from, View by, long count) const {
    float* const out = found_.p + share * size_;
    const Scratch left(DEEP * features_), right(DEEP * WIDTH);
    for (long begin = 0; begin < count; begin += DEEP) {
      const long deep = std::min(DEEP, count - begin);
      pack_left(from.p + begin * from.row, from.row, deep, left.p);
      for (long column = 0; column < columns_; column += WIDTH) multiply(by.p + begin * by.row + column, by.row, column, deep, left.p, right.p, out);
    }
  }
  void add_up() const {
    memcpy(out_, found_.p, 4 * features_ * columns_);
    if (sums_) memcpy(sums_, found_.p + features_ * columns_, 4 * columns_);
    for (const float* share = found_.p + size_; share < found_.p + shares_ * size_; share += size_) {
      for (long k = 0; k < features_ * columns_; k++) out_[k] += share[k];
      for (long k = 0; sums_ && k < columns_; k++) sums_[k] += share[features_ * columns_ + k];
    }
  }

 private:
  static constexpr long DEEP = 256;  // rows that a tile is multiplied by

  // Rows as tiles of features, with the rows as their depth.
  void pack_left(const float* from, long row, long count, float* left) const {
    const Rows features(0, features_);
    for (long k = 0; k < count; k++, from += row)
      for (int i = 0; i < features.tiles; i++) {
        const int height = features.height(i);
        float* to = left + features.start(i) * DEEP + k / DEPTH * height * DEPTH + k % DEPTH;
        for (int m = 0; m < height; m++) to[m * DEPTH] = from[features.start(i) + m];
      }
  }
  void multiply(const float* by, long row, long column, long count, const float* left, float* right, float* out) const {
    const int n = std::min<long>(WIDTH, columns_ - column);
    const Rows features(0, features_);
    pack(by, count, row, n, right);
    for (int i = 0; i < features.tiles; i++) {
      float* to = out + features.start(i) * columns_ + column;
      tile_for(features.height(i), n)(left + features.start(i) * DEEP, 1, &count, right, to, columns_, to, columns_, n);
    }
    float* const sums = out + features_ * columns_ + column;
    for (int v = 0; sums_ && v < width(n); v += LANES) {
      V sum = load(sums + v, n - v);
      for (long k = 0; k < count; k++) sum += *(V*)(right + k * width(n) + v);
      store(sums + v, sum, n - v);
    }
  }

  const long features_, columns_, shares_, size_;
  float *const out_, *const sums_;
  const Scratch found_;
};

// The gradient of the scale: the sum over all rows of d_y * x, likewise.
class ScaleGradient {
 public:
  ScaleGradient(long columns, float* out, long shares) : columns_(out ? columns : 0), shares_(shares), out_(out), found_(shares * columns_) {}
  void clear(long share) const { memset(found_.p + share * columns_, 0, 4 * columns_); }
  void add(long share, View d_y, View x, long count) const {
    float* const sums = found_.p + share * columns_;
    for (long row = 0; row < count; row++)
      for (long column = 0; column < columns_; column++) sums[column] += d_y.p[row * d_y.row + column] * x.p[row * x.row + column];
  }
  void add_up() const {
    for (long column = 0; column < columns_; column++) {
      out_[column] = 0;
      for (long share = 0; share < shares_; share++) out_[column] += found_.p[share * columns_ + column];
    }
  }

 private:
  const long columns_, shares_;
  float* const out_;
  const Scratch found_;
};

// The gradients of all weights that there are.
class WeightGradients {
 public:
  WeightGradients(const Arrays& arrays, const Gradients& gradients, long shares)
      : arrays_(arrays), gradients_(gradients), scale_(arrays.O, gradients.scale, shares) {
    const long H = arrays.sizes.H;
    if (Cell::PROJECTED) all_.emplace_back(arrays.sizes.I, Z * H, gradients.w_x, gradients.bias, shares);
    for (int j = 0; Cell::FINISHED && j < X; j++) all_.emplace_back(H, arrays.O, gradients.w_y + j * H * arrays.O, nullptr, shares);
  }
  void clear(long share) const {
    for (const WeightGradient& each : all_) each.clear(share);
    scale_.clear(share);
  }
  // Those of a piece, from its d_z, and its states [LEAVES, H] where the cell is finished.
  void add(long share, const Piece& piece, View d_z, View states) const {
    const long B = arrays_.sizes.B, I = arrays_.sizes.I, H = arrays_.sizes.H, O = arrays_.O, at = piece.begin * B + piece.b;
    const View x{arrays_.x + at * I, B * I}, d_y{gradients_.y + at * O, B * O};
    auto each = all_.begin();
    if (Cell::PROJECTED) each++->add(share, x, d_z, piece.length());
    for (int j = 0; Cell::FINISHED && j < X; j++) each++->add(share, {states.p + j * H, states.row}, d_y, piece.length());
    scale_.add(share, d_y, x, piece.length());
  }
  long sums() const { return all_.size() + 1; }
  void add_up(long number) const { number ? all_[number - 1].add_up() : scale_.add_up(); }

 private:
  const Arrays& arrays_;
  const Gradients& gradients_;
  const ScaleGradient scale_;
  std::deque<WeightGradient> all_;
};
