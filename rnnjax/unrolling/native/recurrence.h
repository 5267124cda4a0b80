// A recurrence forward and backward in time. The file that includes this one defines the cell:
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
// Arrays: z [T, B, ENTRIES, H]; r [T, B, gates with an r of their own, H]; leaves of states [T, B, H]. On the way back
// the first two are replaced by their gradients. A flag is a byte for each step and sequence.
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

struct Arrays {
  Sizes sizes;
  Flags flags;
  const float *x, *w_x, *bias, *w, *params;
  float *z, *r;
  const float* start[X];
  const float* initial[X];
  float* states[X];
  // The state of sequence b before step t, without a reset.
  const float* before(int leaf, long t, long b) const {
    return t ? states[leaf] + ((t - 1) * sizes.B + b) * sizes.H : start[leaf] + b * sizes.H;
  }
  const float* begin(int leaf, long t, long b) const {
    return flags.reset(t * sizes.B + b) ? initial[leaf] + b * sizes.H : before(leaf, t, b);
  }
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

// Sequences are shared out, each part for all steps: no thread waits for another at a step. Several parts a thread, where
// tiles stay high, so that a thread that is held up holds up less.
static long parts_of(long B, const ffi::ThreadPool& threads) {
  const long count = std::max<long>(1, std::min<long>(threads.num_threads(), (B + 3) / 4));
  return count * std::clamp<long>(B / (2 * MOST_ROWS * count), 1, 4);
}

static void forward(ffi::ThreadPool& threads, const Arrays& arrays) {
  const long T = arrays.sizes.T, B = arrays.sizes.B, I = arrays.sizes.I, H = arrays.sizes.H;
  in_large_pages(arrays.z, T * B * Z * H * 4);
  in_large_pages(arrays.r, T * B * R * H * 4);
  for (float* leaf : arrays.states) in_large_pages(leaf, T * B * H * 4);
  const long x_depth = Cell::PROJECTED ? round_up(I, DEPTH) : 0, depth = x_depth + round_up(H, DEPTH);

  struct Panel {
    Run run;
    long offset, column, depths[2];
    int parts, n;
    float* out;
    long row;
  };
  std::vector<Panel> panels;
  long packed_size = 64 * LANES;
  for (const Run& run : runs())
    for (long column = run.begin * H; column < run.end * H; column += WIDTH) {
      Panel panel{run, packed_size - 64 * LANES, column, {}, 0, (int)std::min<long>(WIDTH, run.end * H - column), nullptr, 0};
      if (run.of_x) panel.depths[panel.parts++] = I;
      if (run.of_h) panel.depths[panel.parts++] = H;
      panel.out = (run.in_z ? arrays.z : arrays.r) + run.column * H + column - run.begin * H;
      panel.row = (run.in_z ? Z : R) * H;
      packed_size += ((run.of_x ? I : 0) + (run.of_h ? H : 0)) * width(panel.n);
      panels.push_back(panel);
    }

  const long parts = parts_of(B, threads), most = (B + parts - 1) / parts;
  Scratch packed(packed_size), operands(parts * most * depth);
  run(threads, T * B * G * H * (x_depth + H), {(long)panels.size(), parts}, [&](int stage, long id) {
    if (stage == 0) {
      const Panel& panel = panels[id];
      float* to = packed.p + panel.offset;
      if (panel.run.of_x) pack(arrays.w_x + panel.column, I, G * H, panel.n, to), to += I * width(panel.n);
      if (panel.run.of_h) pack(arrays.w + panel.column, H, G * H, panel.n, to);
      return;
    }
    const Rows rows(B * id / parts, B * (id + 1) / parts);
    float* const operand = operands.p + id * most * depth;  // of each tile x, then h
    auto each_row = [&](auto task) {
      for (int i = 0; i < rows.tiles; i++)
        for (int m = 0, height = rows.height(i); m < height; m++)
          task(rows.begin + rows.start(i) + m, operand + rows.start(i) * depth + m * DEPTH, height);
    };
    each_row([&](long b, float* row, int height) { put_row(arrays.begin(Cell::HIDDEN, 0, b), H, row + x_depth * height, height); });
    for (long t = 0; t < T; t++) {
      if (Cell::PROJECTED) each_row([&](long b, float* row, int height) { put_row(arrays.x + (t * B + b) * I, I, row, height); });
      for (const Panel& panel : panels)
        for (int i = 0; i < rows.tiles; i++) {
          int height = rows.height(i);
          float* out = panel.out + (t * B + rows.begin + rows.start(i)) * panel.row;
          const float* init = panel.run.in_z && arrays.bias ? arrays.bias + panel.column : nullptr;
          const float* a = operand + rows.start(i) * depth + (panel.run.of_x ? 0 : x_depth * height);
          tile_for(height, panel.n)(a, panel.parts, panel.depths, packed.p + panel.offset, init, 0, out, panel.row, panel.n);
        }
      each_row([&](long b, float* row, int height) {
        const long tb = t * B + b;
        float* const h = row + x_depth * height;
        const bool resets_next = t + 1 < T && arrays.flags.reset(tb + B);
        if (arrays.flags.takes(tb)) {
          const float* old_of[X];
          for (int j = 0; j < X; j++) old_of[j] = arrays.begin(j, t, b);
          for (long u = 0; u < H; u += LANES) {
            const int n = std::min<long>(LANES, H - u);
            V z[Z + 1], r[R + 1], params[P + 1], old[X], now[X];
            for (int e = 0; e < Z; e++) z[e] = load(arrays.z + (tb * Z + e) * H + u, n);
            for (int e = 0; e < R; e++) r[e] = load(arrays.r + (tb * R + e) * H + u, n);
            for (int e = 0; e < P; e++) params[e] = load(arrays.params + e * H + u, n);
            for (int j = 0; j < X; j++) old[j] = load(old_of[j] + u, n);
            Cell::forward(z, r, params, old, now);
            for (int j = 0; j < X; j++) store(arrays.states[j] + tb * H + u, now[j], n);
            store(h + u / DEPTH * height * DEPTH + u % DEPTH, now[Cell::HIDDEN]);
          }
        } else {
          for (int j = 0; j < X; j++) memcpy(arrays.states[j] + tb * H, arrays.before(j, t, b), 4 * H);
          put_row(arrays.states[Cell::HIDDEN] + tb * H, H, h, height);
        }
        if (resets_next) put_row(arrays.initial[Cell::HIDDEN] + b * H, H, h, height);
      });
    }
  });
}

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

static void backward(ffi::ThreadPool& threads, const Arrays& arrays, const Gradients& gradients) {
  const long T = arrays.sizes.T, B = arrays.sizes.B, I = arrays.sizes.I, H = arrays.sizes.H;
  in_large_pages(gradients.w, H * G * H * 4);
  const long panels = (H + WIDTH - 1) / WIDTH, parts = parts_of(B, threads), most = (B + parts - 1) / parts, wide = round_up(H, DEPTH);
  const long part_size = most * wide * (G + X);
  auto columns = [&](long panel) { return (int)std::min<long>(WIDTH, H - panel * WIDTH); };
  long depths[G];
  for (long& depth : depths) depth = H;
  const WeightGradients weights(arrays, gradients, threads);
  Scratch packed(panels * WIDTH * G * H + 64 * LANES), operands(parts * part_size), sums(parts * (P + 1) * wide);
  run(threads, 2 * T * B * G * H * H, {panels + weights.blocks, parts, weights.groups}, [&](int stage, long id) {
    if (stage == 0 && id < panels) return pack_transposed(arrays.w + id * WIDTH * G * H, G * H, G * H, columns(id), packed.p + id * WIDTH * G * H);
    if (stage == 0) return weights.pack_left(id - panels);
    if (stage == 2) return weights.multiply(id);
    const Rows rows(B * id / parts, B * (id + 1) / parts);
    float *const operand = operands.p + id * part_size, *const d_states = operand + most * wide * G, *const sum = sums.p + id * (P + 1) * wide;
    auto d_state = [&](int leaf, long row) { return d_states + (leaf * most + row) * wide; };
    memset(sum, 0, 4 * (P + 1) * wide);
    for (long row = 0; row < rows.count; row++)
      for (int j = 0; j < X; j++) {
        memcpy(d_state(j, row), gradients.last[j] + (rows.begin + row) * H, 4 * H);
        if (gradients.initial[j]) memset(gradients.initial[j] + (rows.begin + row) * H, 0, 4 * H);
      }
    for (long t = T - 1; t >= 0; t--) {
      for (int i = 0; i < rows.tiles; i++)
        for (int m = 0, height = rows.height(i); m < height; m++) {
          const long row = rows.start(i) + m, b = rows.begin + row, tb = t * B + b;
          float *const a = operand + rows.start(i) * wide * G + m * DEPTH, *const d_z_of = arrays.z + tb * Z * H, *const d_r_of = arrays.r + tb * R * H;
          if (!arrays.flags.takes(tb)) {
            for (int g = 0; g < G; g++) put_row(nullptr, H, a + g * wide * height, height);
            memset(d_z_of, 0, 4 * Z * H);
            if (R) memset(d_r_of, 0, 4 * R * H);
            continue;
          }
          const float* old_of[X];
          for (int j = 0; j < X; j++) old_of[j] = arrays.begin(j, t, b);
          const bool followed = arrays.flags.followed && arrays.flags.followed[tb];
          for (long u = 0; u < H; u += LANES) {
            const int n = std::min<long>(LANES, H - u);
            V z[Z + 1], r[R + 1], params[P + 1], old[X], d_now[X], d_z[Z + 1], d_r[R + 1], d_params[P + 1], d_old[X];
            for (int e = 0; e < Z; e++) z[e] = load(d_z_of + e * H + u, n);
            for (int e = 0; e < R; e++) r[e] = load(d_r_of + e * H + u, n);
            for (int e = 0; e < P; e++) params[e] = load(arrays.params + e * H + u, n);
            for (int j = 0; j < X; j++) old[j] = load(old_of[j] + u, n);
            for (int j = 0; j < X; j++) d_now[j] = load(d_state(j, row) + u, n);
            d_now[Cell::HIDDEN] += load(gradients.ys + tb * H + u, n);
            Cell::backward(z, r, params, old, d_now, d_z, d_r, d_params, d_old);
            if (followed) {  // a step whose gradients are all zero may be lost to the reset: its derivative may be NaN
              Mask lost = mask(true);
              for (int j = 0; j < X; j++) lost &= d_now[j] == 0.f;
              auto cut = [&](V* each, int count) { for (int e = 0; e < count; e++) each[e] = pick(lost, V{}, each[e]); };
              cut(d_z, Z), cut(d_r, R), cut(d_params, P), cut(d_old, X);
            }
            for (int e = 0; e < Z; e++) store(d_z_of + e * H + u, d_z[e], n);
            for (int e = 0; e < R; e++) store(d_r_of + e * H + u, d_r[e], n);
            for (int e = 0; e < P; e++) store(sum + e * wide + u, load(sum + e * wide + u) + d_params[e]);
            for (int j = 0; j < X; j++) store(d_state(j, row) + u, d_old[j]);
            float* const to = a + u / DEPTH * height * DEPTH + u % DEPTH;
            for (int g = 0, own = 0; g < G; g++) store(to + g * wide * height, Cell::SUMMED[g] ? d_z[g] : d_r[own++]);
          }
        }
      for (long panel = 0; panel < panels; panel++)
        for (int i = 0; i < rows.tiles; i++) {
          float* d_h = d_state(Cell::HIDDEN, rows.start(i)) + panel * WIDTH;
          tile_for(rows.height(i), columns(panel))(operand + rows.start(i) * wide * G, G, depths, packed.p + panel * WIDTH * G * H, d_h, wide, d_h, wide, columns(panel));
        }
      for (long row = 0; arrays.flags.resets && row < rows.count; row++) {
        const long b = rows.begin + row;
        if (!arrays.flags.reset(t * B + b) || !arrays.flags.takes(t * B + b)) continue;
        for (int j = 0; j < X; j++)
          for (long u = 0; u < H; u++) gradients.initial[j][b * H + u] += d_state(j, row)[u], d_state(j, row)[u] = 0.f;
      }
    }
    for (long row = 0; row < rows.count; row++)
      for (int j = 0; j < X; j++) memcpy(gradients.start[j] + (rows.begin + row) * H, d_state(j, row), 4 * H);
  });
  for (int e = 0; e < P; e++)
    for (long u = 0; u < H; u++) {
      float total = 0;
      for (long part = 0; part < parts; part++) total += sums.p[(part * (P + 1) + e) * wide + u];
      gradients.params[e * H + u] = total;
    }
}
