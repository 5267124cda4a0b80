// The arrays of a unitwise recurrence, and how its sequences and units are shared out.
#pragma once
#include "buffers.h"
#include "products.h"
#include "tasks.h"

constexpr int Z = Cell::ENTRIES, P = Cell::PARAMS, X = Cell::LEAVES, K = Cell::KEPT;
constexpr long STEPS = Cell::STEPS;  // whose z is made at once, so that it stays in the nearest cache

struct Arrays : States<X> {  // where the cell is finished, its states are those before every STEPS steps
  long O;
  const float *x, *w_x, *bias, *w_y, *scale, *params;  // x is z where the cell is not projected; no scale is null
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

// Some units of one sequence.
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

// Steps [begin, end) of one sequence.
struct Piece {
  long b, begin, end;
  long length() const { return end - begin; }
};

// Steps [begin, end) of sequences [first, last), and `size` numbers of each that are soon read again.
struct Chunk {
  long first, last, begin, end;
  float* numbers;
  long size;
  float* of(long t, long b) const { return numbers + ((b - first) * (end - begin) + t - begin) * size; }
};

// The order of the work: some sequences at a time, and of these a chunk of steps after the other. A share has some parts
// of every chunk, and then, when all parts are done, some rows of it, which are multiplied while they are in the caches.
class Chunks {
 public:
  // Args: size: of a chunk, as above. multiplied: whether there are any products of rows.
  Chunks(const Sizes& sizes, const Split& split, long threads, long size, bool multiplied, bool backward)
      : shares(multiplied ? std::min(threads, split.count) : split.count), sizes_(sizes), split_(split), size_(size),
        multiplied_(multiplied), backward_(backward), groups_((sizes.B + 2 * shares - 1) / (2 * shares)),
        length_(multiplied ? length() : sizes.T), count_((sizes.T + length_ - 1) / length_), steps_(groups_ * count_ + multiplied, shares),
        numbers_(2 * most() * length_ * size) {}

  // Calls recur(room, part, chunk) for all parts of a share, and multiply(share, piece, chunk) for all its rows.
  template <class Room, class Recur, class Multiply>
  void work(long own, const Room& room, const Recur& recur, const Multiply& multiply) {
    steps_.work(own, [&](long step, long share) {
      if (multiplied_ && step > 0) each_piece(share, at(step - 1), multiply);
      if (step < groups_ * count_) each_part(room, share, at(step), recur);
    });
  }
  const long shares;

 private:
  static constexpr long NEAR = 1 << 16, MOST = 16;  // numbers of a share in its nearest caches, and times STEPS of a chunk
  long most() const { return (sizes_.B + groups_ - 1) / groups_; }
  long length() const {
    const long fit = NEAR * shares / (most() * std::max(size_, 1L) * STEPS);
    return std::min(sizes_.T, std::max(1L, std::min(fit, MOST)) * STEPS);
  }
  Chunk at(long step) const {
    const long group = step / count_, number = backward_ ? count_ - 1 - step % count_ : step % count_;
    return {sizes_.B * group / groups_, sizes_.B * (group + 1) / groups_, number * length_, std::min((number + 1) * length_, sizes_.T),
            numbers_.p + step % 2 * most() * length_ * size_, size_};
  }
  template <class Room, class Recur>
  void each_part(const Room& room, long share, const Chunk& chunk, const Recur& recur) const {
    const long first = chunk.first * split_.blocks, count = (chunk.last - chunk.first) * split_.blocks;
    for (long id = count * share / shares; id < count * (share + 1) / shares; id++) recur(room, split_.part(first + id), chunk);
  }
  template <class Multiply>
  void each_piece(long share, const Chunk& chunk, const Multiply& multiply) const {
    const long length = chunk.end - chunk.begin, rows = (chunk.last - chunk.first) * length, end = rows * (share + 1) / shares;
    for (long row = rows * share / shares, next; row < end; row = next) {
      const long b = row / length;
      next = std::min(end, (b + 1) * length);
      multiply(share, Piece{chunk.first + b, chunk.begin + row - b * length, chunk.begin + next - b * length}, chunk);
    }
  }

  const Sizes& sizes_;
  const Split& split_;
  const long size_;
  const bool multiplied_, backward_;
  const long groups_, length_, count_;
  Steps steps_;
  const Scratch numbers_;
};
