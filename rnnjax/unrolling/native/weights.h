#pragma once
#include "arrays.h"

// The gradients of the weights: one product of all steps and sequences, [H + I, T B] by [T B, G H].
class WeightGradients {
 public:
  static constexpr long DEEP = 256, TOGETHER = 4;  // steps and sequences, and panels, that a tile is multiplied by

  WeightGradients(const Arrays& arrays, const Gradients& gradients, const ffi::ThreadPool& threads)
      : arrays_(arrays), TB_(arrays.sizes.T * arrays.sizes.B), blocks((TB_ + DEEP - 1) / DEEP), columns_(columns_of(arrays, gradients)),
        groups(groups_of(columns_.size(), threads.num_threads())), block_size_(DEEP * (arrays.sizes.H + inputs())),
        left_(blocks * block_size_), right_(groups * TOGETHER * DEEP * WIDTH) {}

  // h before each step, and x, as tiles with the steps as their depth.
  void pack_left(long block) const {
    const long B = arrays_.sizes.B, I = arrays_.sizes.I, H = arrays_.sizes.H;
    const long count = std::min(DEEP, TB_ - block * DEEP);
    for (bool of_x : {false, true}) {
      const Rows units(0, of_x ? inputs() : H);
      float* to = left_.p + block * block_size_ + (of_x ? DEEP * H : 0);
      for (long k = 0; k < count; k++) {
        const long tb = block * DEEP + k;
        const float* from = of_x ? arrays_.x + tb * I : arrays_.begin(Cell::HIDDEN, tb / B, tb % B);
        const bool cut = !of_x && arrays_.flags.followed && arrays_.flags.followed[tb];
        for (int i = 0; i < units.tiles; i++) {
          const int height = units.height(i);
          const float* source = from + units.start(i);
          float* row = to + units.start(i) * DEEP + k / DEPTH * height * DEPTH + k % DEPTH;
          // There d r is zero where h is not finite, and zero times NaN would be NaN.
          for (int m = 0; m < height; m++) row[m * DEPTH] = cut && !std::isfinite(source[m]) ? 0.f : source[m];
        }
      }
    }
  }

  void multiply(long group) const {
    const long H = arrays_.sizes.H, begin = columns_.size() * group / groups, end = columns_.size() * (group + 1) / groups;
    float* const right = right_.p + group * TOGETHER * DEEP * WIDTH;
    V sums[TOGETHER][2] = {};
    for (long block = 0; block < blocks; block++) {
      const long count = std::min(DEEP, TB_ - block * DEEP);
      for (long j = begin; j < end; j++) {
        const Columns& columns = columns_[j];
        float* panel = right + (j - begin) * DEEP * WIDTH;
        pack(columns.from + block * DEEP * columns.row, count, columns.row, columns.n, panel);
        if (!columns.bias) continue;
        const int vectors = width(columns.n) / LANES;
        for (long k = 0; k < count; k++)
          for (int v = 0; v < vectors; v++) sums[j - begin][v] += *(V*)(panel + (k * vectors + v) * LANES);
      }
      for (bool of_x : {false, true}) {
        const Rows units(0, of_x ? inputs() : H);
        const float* left = left_.p + block * block_size_ + (of_x ? DEEP * H : 0);
        for (int i = 0; i < units.tiles; i++)
          for (long j = begin; j < end; j++) {
            float* weight = of_x ? columns_[j].of_x : columns_[j].of_h;
            if (!weight) continue;
            float* out = weight + units.start(i) * G * H;
            tile_for(units.height(i), columns_[j].n)(left + units.start(i) * DEEP, 1, &count, right + (j - begin) * DEEP * WIDTH,
                                                     block ? out : nullptr, G * H, out, G * H, columns_[j].n);
          }
      }
    }
    for (long j = begin; j < end; j++)
      if (columns_[j].bias)
        for (int v = 0; v < 2; v++) store(columns_[j].bias + v * LANES, sums[j - begin][v], columns_[j].n - v * LANES);
  }

 private:
  struct Columns {
    const float* from;
    long row;
    float *of_h, *of_x, *bias;  // null: not of these columns
    int n;
  };
  static std::vector<Columns> columns_of(const Arrays& arrays, const Gradients& gradients) {
    const long H = arrays.sizes.H;
    std::vector<Columns> found;
    for (const Run& run : runs())
      for (long column = run.begin * H; column < run.end * H; column += WIDTH)
        found.push_back({(run.in_z ? arrays.z : arrays.r) + run.column * H + column - run.begin * H, (run.in_z ? Z : R) * H,
                         run.of_h ? gradients.w + column : nullptr, run.of_x ? gradients.w_x + column : nullptr,
                         run.of_x ? gradients.bias + column : nullptr, (int)std::min<long>(WIDTH, run.end * H - column)});
    return found;
  }
  static long groups_of(long columns, long threads) {
    const long together = std::clamp<long>(columns / (4 * threads), 1, TOGETHER);
    return (columns + together - 1) / together;
  }
  long inputs() const { return Cell::PROJECTED ? arrays_.sizes.I : 0; }
  const Arrays& arrays_;
  const long TB_;

 public:
  const long blocks;

 private:
  const std::vector<Columns> columns_;

 public:
  const long groups;

 private:
  const long block_size_;
  Scratch left_, right_;
};
