// The recurrence of a cell whose units do not read each other, forward and backward in time. The file that includes this
// one defines the cell:
//
//   struct Cell {
//     static constexpr int ENTRIES, PARAMS, LEAVES, KEPT;  // entries of z and of the parameters, leaves of the state, and
//                                                          // what is computed of the parameters alone; each a unit
//     static constexpr long STEPS;                         // that are taken at once
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
// byte for each step and sequence. The states of a finished cell are no output: only those before every STEPS steps are
// kept, [ceil(T / STEPS), B, H], and the way back takes the steps between them again, as that costs less than memory.
#pragma once
#include "unitwise_products.h"

// Scratch memory of a part: a tile of rows, z and gradients of states of some steps, and a state, of which entries past
// the units are read and never stored.
struct Room {
  Room(const Arrays& arrays, const Split& split)
      : operand_size(MOST_ROWS * round_up(std::max(arrays.sizes.I, arrays.O), DEPTH)), z_size(STEPS * Z * split.wide), d_size(Cell::FINISHED ? STEPS * X * split.wide : 0),
        all(operand_size + z_size + d_size + X * split.wide) {
    memset(z(), 0, 4 * (z_size + d_size));
  }
  float* operand() const { return all.p; }
  float* z() const { return all.p + operand_size; }
  float* d_states() const { return z() + z_size; }
  float* state() const { return d_states() + d_size; }
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

static long multiplications(const Arrays& arrays) {
  const Sizes& sizes = arrays.sizes;
  return sizes.T * sizes.B * sizes.H * (Z * (Cell::PROJECTED ? sizes.I : 8) + X * arrays.O);
}

enum Stage : int { PACK, WORK, ADD_UP };

// Takes the steps [begin, end) of a part, whose z are made.
// Args: state: of each leaf the units of the part, before and then after them. states: where those after the first step
// go, and each next one `row` entries behind.
static void take_steps(const Arrays& arrays, const Split& split, const Part& part, long begin, long end, const Room& room, float* const* state, float* const* states, long row) {
  const long B = arrays.sizes.B, H = arrays.sizes.H;
  for (int v = 0; v < part.vectors(); v++) {
    const long u = v * LANES;
    const int n = std::min<long>(LANES, part.n - u);
    V params[P + 1], kept[K + 1], h[X];
    for (int e = 0; e < P; e++) params[e] = load(arrays.params + e * H + part.begin + u, n);
    Cell::prepare(params, kept);
    for (int j = 0; j < X; j++) h[j] = load(state[j] + u, n);
    for (long t = begin; t < end; t++) {
      const long tb = t * B + part.b;
      if (arrays.flags.takes(tb)) {
        V z[Z], now[X];
        if (arrays.flags.reset(tb))
          for (int j = 0; j < X; j++) h[j] = load(arrays.initial[j] + part.b * H + part.begin + u, n);
        for (int e = 0; e < Z; e++) z[e] = load(room.z() + ((t - begin) * Z + e) * split.wide + u);
        Cell::forward(z, params, kept, h, now);
        for (int j = 0; j < X; j++) h[j] = now[j];
      }
      for (int j = 0; j < X; j++) store(states[j] + (t - begin) * row + u, h[j], n);
    }
    for (int j = 0; j < X; j++) store(state[j] + u, h[j], n);
  }
}

static void forward(ffi::ThreadPool& threads, const Arrays& arrays) {
  const long T = arrays.sizes.T, B = arrays.sizes.B, I = arrays.sizes.I, H = arrays.sizes.H, O = arrays.O;
  for (int j = 0; !Cell::FINISHED && j < X; j++) in_large_pages(arrays.states[j], T * B * H * 4);
  in_large_pages(arrays.y, T * B * O * 4);
  const Split split(arrays.sizes, threads.num_threads());
  const Product inputs(arrays.x, I, Cell::PROJECTED ? Z : 0, split);
  const RowProducts outputs(X, H, Cell::FINISHED ? O : 0);
  Chunks chunks(arrays.sizes, split, threads.num_threads(), Cell::FINISHED ? X * H : 0, Cell::FINISHED, false);
  const long row = Cell::FINISHED ? X * H : B * H;  // from a state to the next
  auto states_of = [&](const Chunk& chunk, int j, long t, long b) { return Cell::FINISHED ? chunk.of(t, b) + j * H : arrays.states[j] + (t * B + b) * H; };

  auto recur = [&](const Room& room, const Part& part, const Chunk& chunk) {
    const long at = part.b * H + part.begin;
    float* last[X];
    for (int j = 0; j < X; j++) last[j] = arrays.last[j] + at;
    for (int j = 0; !chunk.begin && j < X; j++) memcpy(last[j], arrays.start[j] + at, 4 * part.n);
    for (long begin = chunk.begin; begin < chunk.end; begin += STEPS) {
      const long end = std::min(begin + STEPS, chunk.end);
      put_z(arrays, split, inputs, part, begin, end, room);
      for (int j = 0; Cell::FINISHED && j < X; j++) memcpy(arrays.states[j] + begin / STEPS * B * H + at, last[j], 4 * part.n);
      float* states[X];
      for (int j = 0; j < X; j++) states[j] = states_of(chunk, j, begin, part.b) + part.begin;
      take_steps(arrays, split, part, begin, end, room, last, states, row);
    }
  };
  auto multiply = [&](long, const Piece& piece, const Chunk& chunk) {
    const long at = piece.begin * B + piece.b;
    View states[X];
    for (int j = 0; j < X; j++) states[j] = {states_of(chunk, j, piece.begin, piece.b), row};
    outputs.multiply(states, piece.length(), arrays.y + at * O, B * O, arrays.scale, {arrays.x + at * I, B * I});
  };
  run(threads, multiplications(arrays), {inputs.panels + outputs.panels, chunks.shares}, [&](int stage, long id) {
    if (stage == WORK) return chunks.work(id, Room(arrays, split), recur, multiply);
    return id < inputs.panels ? inputs.pack_panel(id, arrays.w_x) : outputs.pack_panel(id - inputs.panels, arrays.w_y);
  });
}

static void backward(ffi::ThreadPool& threads, const Arrays& arrays, const Gradients& gradients) {
  const long T = arrays.sizes.T, B = arrays.sizes.B, I = arrays.sizes.I, H = arrays.sizes.H, O = arrays.O;
  if (gradients.x) in_large_pages(gradients.x, T * B * (Cell::PROJECTED ? I : Z * H) * 4);
  const Split split(arrays.sizes, threads.num_threads());
  const Product inputs(arrays.x, I, Cell::PROJECTED ? Z : 0, split), d_outputs(gradients.y, O, Cell::FINISHED ? X : 0, split);
  const bool wants_x = Cell::PROJECTED && gradients.x;
  const RowProducts d_inputs(1, Z * H, wants_x ? I : 0);
  const long d_z_size = Cell::PROJECTED ? Z * H : 0, size = d_z_size + (Cell::FINISHED ? X * H : 0);
  Chunks chunks(arrays.sizes, split, threads.num_threads(), size, Cell::PROJECTED || Cell::FINISHED, true);
  const WeightGradients weights(arrays, gradients, chunks.shares);
  const long sums_size = (P + 1) * split.wide;
  Scratch sums(split.count * sums_size);
  const long row = Cell::PROJECTED ? size : B * Z * H;  // from a d_z to the next
  auto d_z_of = [&](const Chunk& chunk, long t, long b) { return Cell::PROJECTED ? chunk.of(t, b) : gradients.x + (t * B + b) * Z * H; };
  auto state_of = [&](const Chunk& chunk, int j, long t, long b) { return chunk.of(t, b) + d_z_size + j * H; };

  auto take_again = [&](const Room& room, const Part& part, const Chunk& chunk, long begin, long end) {
    float *state[X], *states[X];
    for (int j = 0; j < X; j++) {
      state[j] = room.state() + j * split.wide;
      states[j] = state_of(chunk, j, begin, part.b) + part.begin;
      memcpy(state[j], arrays.states[j] + (begin / STEPS * B + part.b) * H + part.begin, 4 * part.n);
    }
    take_steps(arrays, split, part, begin, end, room, state, states, size);
  };
  // What step t of a tile that begins at `begin` starts from.
  auto start_of = [&](const Chunk& chunk, int j, long begin, long t, long b) -> const float* {
    if (!Cell::FINISHED) return arrays.begin(j, t, b);
    if (arrays.flags.reset(t * B + b)) return arrays.initial[j] + b * H;
    return t > begin ? state_of(chunk, j, t - 1, b) : arrays.states[j] + (t / STEPS * B + b) * H;
  };

  auto recur = [&](const Room& room, const Part& part, const Chunk& chunk) {
    const long at = part.b * H + part.begin;
    float* const sum = sums.p + (part.b * split.blocks + part.block) * sums_size;
    if (chunk.end == T) {
      memset(sum, 0, 4 * sums_size);
      for (int j = 0; j < X; j++) {
        memcpy(gradients.start[j] + at, gradients.last[j] + at, 4 * part.n);
        if (gradients.initial[j]) memset(gradients.initial[j] + at, 0, 4 * part.n);
      }
    }
    for (long end = chunk.end, begin; end > chunk.begin; end = begin) {
      begin = (end - 1) / STEPS * STEPS;
      put_z(arrays, split, inputs, part, begin, end, room);
      if (Cell::FINISHED) take_again(room, part, chunk, begin, end);
      if (Cell::FINISHED) d_outputs.multiply(part, B, begin, end, nullptr, room.operand(), room.d_states());
      bool lost[STEPS];
      for (long t = begin; t < end; t++) lost[t - begin] = !Cell::FINISHED && arrays.lost(t, part.b);
      for (int v = 0; v < part.vectors(); v++) {
        const long u = v * LANES;
        const int n = std::min<long>(LANES, part.n - u);
        V params[P + 1], kept[K + 1], d_h[X], d_total[P + 1];
        for (int e = 0; e < P; e++) params[e] = load(arrays.params + e * H + part.begin + u, n);
        Cell::prepare_backward(params, kept);
        for (int e = 0; e < P; e++) d_total[e] = load(sum + e * split.wide + u);
        for (int j = 0; j < X; j++) d_h[j] = load(gradients.start[j] + at + u, n);
        float* const d_z_begin = d_z_of(chunk, begin, part.b) + part.begin + u;
        for (long t = end - 1; t >= begin; t--) {
          const long tb = t * B + part.b;
          float* const d_z_at = d_z_begin + (t - begin) * row;
          for (int j = 0; j < X; j++)
            d_h[j] += Cell::FINISHED ? load(room.d_states() + ((t - begin) * X + j) * split.wide + u)
                                     : load(gradients.states[j] + tb * H + part.begin + u, n);
          if (lost[t - begin] || !arrays.flags.takes(tb)) {
            for (int j = 0; lost[t - begin] && j < X; j++) d_h[j] = V{};
            for (int e = 0; e < Z; e++) store(d_z_at + e * H, (V){}, n);
            continue;
          }
          const bool reset = arrays.flags.reset(tb);
          V z[Z], old[X], d_z[Z], d_params[P + 1], d_old[X];
          for (int e = 0; e < Z; e++) z[e] = load(room.z() + ((t - begin) * Z + e) * split.wide + u);
          for (int j = 0; j < X; j++) old[j] = load(start_of(chunk, j, begin, t, part.b) + part.begin + u, n);
          Cell::backward(z, params, kept, old, d_h, d_z, d_params, d_old);
          for (int e = 0; e < Z; e++) store(d_z_at + e * H, d_z[e], n);
          for (int e = 0; e < P; e++) d_total[e] += d_params[e];
          for (int j = 0; j < X; j++) {
            d_h[j] = d_old[j];
            if (!reset) continue;
            float* const d_initial = gradients.initial[j] + at + u;
            store(d_initial, load(d_initial, n) + d_old[j], n);
            d_h[j] = V{};
          }
        }
        for (int e = 0; e < P; e++) store(sum + e * split.wide + u, d_total[e]);
        for (int j = 0; j < X; j++) store(gradients.start[j] + at + u, d_h[j], n);
      }
    }
  };
  auto multiply = [&](long share, const Piece& piece, const Chunk& chunk) {
    const long at = piece.begin * B + piece.b;
    const View d_z{d_z_of(chunk, piece.begin, piece.b), row};
    weights.add(share, piece, d_z, {state_of(chunk, 0, piece.begin, piece.b), size});
    if (wants_x) d_inputs.multiply(&d_z, piece.length(), gradients.x + at * I, B * I, arrays.scale, {gradients.y + at * O, B * O});
  };
  const long panels = inputs.panels + d_outputs.panels + d_inputs.panels;
  run(threads, 2 * multiplications(arrays), {panels + chunks.shares, chunks.shares, weights.sums()}, [&](int stage, long id) {
    if (stage == WORK) return chunks.work(id, Room(arrays, split), recur, multiply);
    if (stage == ADD_UP) return weights.add_up(id);
    if (id < inputs.panels) return inputs.pack_panel(id, arrays.w_x);
    id -= inputs.panels;
    if (id < d_outputs.panels) return d_outputs.pack_panel_transposed(id, arrays.w_y);
    id -= d_outputs.panels;
    return id < d_inputs.panels ? d_inputs.pack_panel_transposed(id, arrays.w_x) : weights.clear(id - d_inputs.panels);
  });
  for (int e = 0; e < P; e++)
    for (long u = 0; u < H; u++) {
      float total = 0;
      for (long b = 0; b < B; b++) total += sums.p[(b * split.blocks + u / split.wide) * sums_size + e * split.wide + u % split.wide];
      gradients.params[e * H + u] = total;
    }
}
