// A recurrence forward and backward in time.
#pragma once
#include "weights.h"

// How the work is shared out: sequences, each part of them for all steps, so that no thread waits for another at a step;
// or, where these are too few, the units of all sequences, whose shares wait for each other at every step.
class Split {
 public:
  long parts, shares = 1;
  Split(const Sizes& sizes, long threads) : sizes_(sizes), blocks_((sizes.H + WIDTH - 1) / WIDTH) {
    parts = std::clamp<long>((sizes.B + LEAST_ROWS - 1) / LEAST_ROWS, 1, threads);
    const long step = sizes.B * G * sizes.H * (sizes.H + (Cell::PROJECTED ? sizes.I : 0));
    const long most = std::min({threads, blocks_, step / WORTH_A_SHARE});
    if (sizes.B <= LEAST_ROWS * threads && most > 1 && most >= parts) {
      shares = most;
      parts = 1;
    } else {  // several parts a thread, where tiles stay high, so that a thread that is held up holds up less
      parts *= std::clamp<long>(sizes.B / (2 * MOST_ROWS * parts), 1, 4);
    }
  }
  Rows rows(long part) const { return {sizes_.B * part / parts, sizes_.B * (part + 1) / parts}; }
  long most_rows() const { return (sizes_.B + parts - 1) / parts; }
  // The first unit of a share; that of the one behind the last is the number of units.
  long unit(long share) const { return share < shares ? blocks_ * share / shares * WIDTH : sizes_.H; }
  // The columns of some gates that belong to a share, as ranges.
  std::vector<std::pair<long, long>> columns(const Run& run, long share) const {
    const long H = sizes_.H;
    if (shares == 1) return {{run.begin * H, run.end * H}};
    std::vector<std::pair<long, long>> found;
    for (long gate = run.begin; gate < run.end; gate++) found.push_back({gate * H + unit(share), gate * H + unit(share + 1)});
    return found;
  }
  // What a share writes for the next step must not be what others still read.
  long buffers() const { return shares > 1 ? 2 : 1; }

 private:
  static constexpr long LEAST_ROWS = 4, WORTH_A_SHARE = 1 << 13;  // multiplications a step
  const Sizes sizes_;
  const long blocks_;
};

static void forward(ffi::ThreadPool& threads, const Arrays& arrays) {
  const long T = arrays.sizes.T, B = arrays.sizes.B, I = arrays.sizes.I, H = arrays.sizes.H;
  in_large_pages(arrays.z, arrays.z_places * B * Z * H * 4);
  in_large_pages(arrays.r, arrays.r_places * B * R * H * 4);
  for (float* leaf : arrays.states) in_large_pages(leaf, T * B * H * 4);
  const long x_size = Cell::PROJECTED ? I : 0, x_depth = round_up(x_size, DEPTH), depth = x_depth + round_up(H, DEPTH);
  const Split split(arrays.sizes, threads.num_threads());

  struct Panel {
    Run run;
    long offset, column, depths[2];
    int parts, n;
    long to, row;  // of a row of z or r
  };
  std::vector<Panel> panels;
  std::vector<long> first;  // panel of each share
  long packed_size = 64 * LANES;
  for (long share = 0; share < split.shares; share++) {
    first.push_back(panels.size());
    for (const Run& run : runs())
      for (auto [begin, end] : split.columns(run, share))
        for (long column = begin; column < end; column += WIDTH) {
          Panel panel{run, packed_size - 64 * LANES, column, {}, 0, (int)std::min<long>(WIDTH, end - column), 0, 0};
          if (run.of_x) panel.depths[panel.parts++] = I;
          if (run.of_h) panel.depths[panel.parts++] = H;
          panel.to = run.column * H + column - run.begin * H;
          panel.row = (run.in_z ? Z : R) * H;
          packed_size += ((run.of_x ? I : 0) + (run.of_h ? H : 0)) * width(panel.n);
          panels.push_back(panel);
        }
  }
  first.push_back(panels.size());

  const long operand_size = split.most_rows() * depth;
  Scratch packed(packed_size), operands(split.parts * split.buffers() * operand_size);
  // Of each tile x, then h, for a step.
  auto operand_of = [&](long part, long t) { return operands.p + (part * split.buffers() + t % split.buffers()) * operand_size; };
  auto each_row = [&](const Rows& rows, float* operand, auto task) {
    for (int i = 0; i < rows.tiles; i++)
      for (int m = 0, height = rows.height(i); m < height; m++)
        task(rows.begin + rows.start(i) + m, operand + rows.start(i) * depth + m * DEPTH, height);
  };
  auto pack_panel = [&](const Panel& panel) {
    float* to = packed.p + panel.offset;
    if (panel.run.of_x) pack(arrays.w_x + panel.column, I, G * H, panel.n, to), to += I * width(panel.n);
    if (panel.run.of_h) pack(arrays.w + panel.column, H, G * H, panel.n, to);
  };
  auto begin = [&](long part) {
    each_row(split.rows(part), operand_of(part, 0), [&](long b, float* row, int height) {
      put_row(arrays.x + b * I, 0, x_size, row, height);
      put_row(arrays.begin(Cell::HIDDEN, 0, b), 0, H, row + x_depth * height, height);
    });
  };
  auto step = [&](long part, long share, long t) {
    const Rows rows = split.rows(part);
    const long unit = split.unit(share), end = split.unit(share + 1);
    for (long j = first[share]; j < first[share + 1]; j++)
      for (int i = 0; i < rows.tiles; i++) {
        const Panel& panel = panels[j];
        int height = rows.height(i);
        const long b = rows.begin + rows.start(i);
        float* out = (panel.run.in_z ? arrays.z_of(t, b) : arrays.r_of(t, b)) + panel.to;
        const float* init = panel.run.in_z && arrays.bias ? arrays.bias + panel.column : nullptr;
        const float* a = operand_of(part, t) + rows.start(i) * depth + (panel.run.of_x ? 0 : x_depth * height);
        tile_for(height, panel.n)(a, panel.parts, panel.depths, packed.p + panel.offset, init, 0, out, panel.row, panel.n);
      }
    each_row(rows, operand_of(part, t + 1), [&](long b, float* row, int height) {
      const long tb = t * B + b;
      float* const h = row + x_depth * height;
      if (arrays.flags.takes(tb)) {
        const float *old_of[X], *const z_row = arrays.z_of(t, b), *const r_row = arrays.r_of(t, b);
        for (int j = 0; j < X; j++) old_of[j] = arrays.begin(j, t, b);
        for (long u = unit; u < end; u += LANES) {
          const int n = std::min<long>(LANES, end - u);
          V z[Z + 1], r[R + 1], params[P + 1], old[X], now[X];
          for (int e = 0; e < Z; e++) z[e] = load(z_row + e * H + u, n);
          for (int e = 0; e < R; e++) r[e] = load(r_row + e * H + u, n);
          for (int e = 0; e < P; e++) params[e] = load(arrays.params + e * H + u, n);
          for (int j = 0; j < X; j++) old[j] = load(old_of[j] + u, n);
          Cell::forward(z, r, params, old, now);
          for (int j = 0; j < X; j++) store(arrays.states[j] + tb * H + u, now[j], n);
          store(h + u / DEPTH * height * DEPTH + u % DEPTH, now[Cell::HIDDEN]);
        }
      } else {
        for (int j = 0; j < X; j++) memcpy(arrays.states[j] + tb * H + unit, arrays.before(j, t, b) + unit, 4 * (end - unit));
        put_row(arrays.states[Cell::HIDDEN] + tb * H, unit, end, h, height);
      }
      if (t + 1 == T) return;
      if (arrays.flags.reset(tb + B)) put_row(arrays.initial[Cell::HIDDEN] + b * H, unit, end, h, height);
      put_row(arrays.x + (tb + B) * I, x_size * share / split.shares, x_size * (share + 1) / split.shares, row, height);
    });
  };
  std::vector<Steps> steps;
  for (long part = 0; part < split.parts; part++) steps.emplace_back(T, split.shares);
  run(threads, T * B * G * H * (x_depth + H), {(long)panels.size(), split.parts, split.parts * split.shares}, [&](int stage, long id) {
    if (stage == 0) return pack_panel(panels[id]);
    if (stage == 1) return begin(id);
    const long part = id / split.shares;
    steps[part].work(id % split.shares, [&](long t, long share) { step(part, share, t); });
  });
}

static void backward(ffi::ThreadPool& threads, const Arrays& arrays, const Gradients& gradients) {
  const long T = arrays.sizes.T, B = arrays.sizes.B, H = arrays.sizes.H;
  in_large_pages(gradients.w, H * G * H * 4);
  const Split split(arrays.sizes, threads.num_threads());
  const long panels = (H + WIDTH - 1) / WIDTH, most = split.most_rows(), wide = round_up(H, DEPTH);
  auto columns = [&](long panel) { return (int)std::min<long>(WIDTH, H - panel * WIDTH); };
  long depths[G];
  for (long& depth : depths) depth = H;
  const WeightGradients weights(arrays, gradients, threads);
  const long operand_size = most * wide * G;
  Scratch packed(panels * WIDTH * G * H + 64 * LANES), operands(split.parts * split.buffers() * operand_size);
  Scratch states(split.parts * most * wide * X), sums(split.parts * (P + 1) * wide);
  // Of each tile the gradients of the gates, for a step counted from the last.
  auto operand_of = [&](long part, long i) { return operands.p + (part * split.buffers() + i % split.buffers()) * operand_size; };
  auto d_state = [&](long part, int leaf, long row) { return states.p + ((part * X + leaf) * most + row) * wide; };
  auto begin = [&](long part) {
    const Rows rows = split.rows(part);
    memset(sums.p + part * (P + 1) * wide, 0, 4 * (P + 1) * wide);
    for (long row = 0; row < rows.count; row++)
      for (int j = 0; j < X; j++) {
        memcpy(d_state(part, j, row), gradients.last[j] + (rows.begin + row) * H, 4 * H);
        if (gradients.initial[j]) memset(gradients.initial[j] + (rows.begin + row) * H, 0, 4 * H);
      }
  };
  // What reaches the states before step t from the gates.
  auto multiply = [&](long part, long share, long t) {
    const Rows rows = split.rows(part);
    const long unit = split.unit(share), end = split.unit(share + 1);
    for (long panel = unit / WIDTH; panel * WIDTH < end; panel++)
      for (int i = 0; i < rows.tiles; i++) {
        float* d_h = d_state(part, Cell::HIDDEN, rows.start(i)) + panel * WIDTH;
        const float* a = operand_of(part, T - 1 - t) + rows.start(i) * wide * G;
        tile_for(rows.height(i), columns(panel))(a, G, depths, packed.p + panel * WIDTH * G * H, d_h, wide, d_h, wide, columns(panel));
      }
    for (long row = 0; arrays.flags.resets && row < rows.count; row++) {
      const long b = rows.begin + row;
      if (!arrays.flags.reset(t * B + b) || !arrays.flags.takes(t * B + b)) continue;
      for (int j = 0; j < X; j++)
        for (long u = unit; u < end; u++) gradients.initial[j][b * H + u] += d_state(part, j, row)[u], d_state(part, j, row)[u] = 0.f;
    }
  };
  auto differentiate = [&](long part, long share, long t) {
    const Rows rows = split.rows(part);
    const long unit = split.unit(share), end = split.unit(share + 1);
    float* const sum = sums.p + part * (P + 1) * wide;
    for (int i = 0; i < rows.tiles; i++)
      for (int m = 0, height = rows.height(i); m < height; m++) {
        const long row = rows.start(i) + m, b = rows.begin + row, tb = t * B + b;
        float *const a = operand_of(part, T - 1 - t) + rows.start(i) * wide * G + m * DEPTH, *const d_z_of = arrays.z + tb * Z * H, *const d_r_of = arrays.r + tb * R * H;
        const bool lost = arrays.lost(t, b);
        if (lost || !arrays.flags.takes(tb)) {
          for (int j = 0; lost && j < X; j++) memset(d_state(part, j, row) + unit, 0, 4 * (end - unit));
          for (int g = 0; g < G; g++) put_row(nullptr, unit, end, a + g * wide * height, height);
          for (int e = 0; e < Z; e++) memset(d_z_of + e * H + unit, 0, 4 * (end - unit));
          for (int e = 0; e < R; e++) memset(d_r_of + e * H + unit, 0, 4 * (end - unit));
          continue;
        }
        const float* old_of[X];
        for (int j = 0; j < X; j++) old_of[j] = arrays.begin(j, t, b);
        for (long u = unit; u < end; u += LANES) {
          const int n = std::min<long>(LANES, end - u);
          V z[Z + 1], r[R + 1], params[P + 1], old[X], d_now[X], d_z[Z + 1], d_r[R + 1], d_params[P + 1], d_old[X];
          for (int e = 0; e < Z; e++) z[e] = load(d_z_of + e * H + u, n);
          for (int e = 0; e < R; e++) r[e] = load(d_r_of + e * H + u, n);
          for (int e = 0; e < P; e++) params[e] = load(arrays.params + e * H + u, n);
          for (int j = 0; j < X; j++) old[j] = load(old_of[j] + u, n);
          for (int j = 0; j < X; j++) d_now[j] = load(d_state(part, j, row) + u, n);
          d_now[Cell::HIDDEN] += load(gradients.ys + tb * H + u, n);
          Cell::backward(z, r, params, old, d_now, d_z, d_r, d_params, d_old);
          for (int e = 0; e < Z; e++) store(d_z_of + e * H + u, d_z[e], n);
          for (int e = 0; e < R; e++) store(d_r_of + e * H + u, d_r[e], n);
          for (int e = 0; e < P; e++) store(sum + e * wide + u, load(sum + e * wide + u) + d_params[e]);
          for (int j = 0; j < X; j++) store(d_state(part, j, row) + u, d_old[j]);
          float* const to = a + u / DEPTH * height * DEPTH + u % DEPTH;
          for (int g = 0, own = 0; g < G; g++) store(to + g * wide * height, Cell::SUMMED[g] ? d_z[g] : d_r[own++]);
        }
      }
  };
  std::vector<Steps> steps;
  for (long part = 0; part < split.parts; part++) steps.emplace_back(T + 1, split.shares);
  run(threads, 2 * T * B * G * H * H, {panels + weights.blocks, split.parts, split.parts * split.shares, weights.groups}, [&](int stage, long id) {
    if (stage == 0 && id < panels) return pack_transposed(arrays.w + id * WIDTH * G * H, G * H, G * H, columns(id), packed.p + id * WIDTH * G * H);
    if (stage == 0) return weights.pack_left(id - panels);
    if (stage == 1) return begin(id);
    if (stage == 3) return weights.multiply(id);
    const long part = id / split.shares;
    steps[part].work(id % split.shares, [&](long i, long share) {
      if (i > 0) multiply(part, share, T - i);
      if (i < T) differentiate(part, share, T - 1 - i);
    });
  });
  for (long part = 0; part < split.parts; part++) {
    const Rows rows = split.rows(part);
    for (long row = 0; row < rows.count; row++)
      for (int j = 0; j < X; j++) memcpy(gradients.start[j] + (rows.begin + row) * H, d_state(part, j, row), 4 * H);
  }
  for (int e = 0; e < P; e++)
    for (long u = 0; u < H; u++) {
      float total = 0;
      for (long part = 0; part < split.parts; part++) total += sums.p[(part * (P + 1) + e) * wide + u];
      gradients.params[e * H + u] = total;
    }
}
