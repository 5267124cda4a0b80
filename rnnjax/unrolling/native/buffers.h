// The arrays of XLA's calls, taken in order, and what all recurrences have of sizes and flags.
#pragma once
#include <cstring>
#include <new>
#include "vectors.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

struct Sizes {
  long T, B, I, H;
};

struct Flags {
  const bool *valid, *resets, *followed;  // each null where there are none
  bool takes(long tb) const { return !valid || valid[tb]; }
  bool reset(long tb) const { return resets && resets[tb]; }
};

// The states of all steps: of X leaves, each [T, B, H].
template <int X>
struct States {
  Sizes sizes;
  Flags flags;
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
  // Whether a step met or made a state that is not finite, which a later reset cuts off.
  bool lost(long t, long b) const {
    const long tb = t * sizes.B + b;
    if (!flags.followed || !flags.followed[tb]) return false;
    for (int j = 0; j < X; j++)
      if (!all_finite(begin(j, t, b), sizes.H) || !all_finite(states[j] + tb * sizes.H, sizes.H)) return true;
    return false;
  }
};

class Reader {
 public:
  explicit Reader(ffi::RemainingArgs all) : all_(all) {}
  ffi::AnyBuffer next() { return *all_.get<ffi::AnyBuffer>(at_++); }
  template <class Entry = float>
  Entry* array() {
    ffi::AnyBuffer buffer = next();
    return buffer.element_count() ? (Entry*)buffer.untyped_data() : nullptr;
  }

 private:
  ffi::RemainingArgs all_;
  size_t at_ = 0;
};

class Writer {
 public:
  explicit Writer(ffi::RemainingRets all) : all_(all) {}
  float* array() {
    ffi::Result<ffi::AnyBuffer> buffer = *all_.get<ffi::AnyBuffer>(at_++);
    places_ = buffer->dimensions()[0];
    return buffer->element_count() ? (float*)buffer->untyped_data() : nullptr;
  }
  // The size of the first axis of the latest array.
  long places() const { return places_; }

 private:
  ffi::RemainingRets all_;
  size_t at_ = 0;
  long places_ = 0;
};

static void in_place(float* out, const float* in, size_t floats) {
  if (out != in) memcpy(out, in, 4 * floats);
}

// What a call returns whose work is done in the end.
template <class Work>
static ffi::Error done(Work work) {
  try {
    work();
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "Native() found no memory for its scratch arrays");
  }
  return ffi::Error::Success();
}

#define SIZES Attr<int64_t>("T").Attr<int64_t>("B").Attr<int64_t>("I").Attr<int64_t>("H")
#define HANDLERS(forward, backward, sizes)                                                                                            \
  _Pragma("GCC visibility push(default)")                                                                                             \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(Forward, forward, ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().sizes.RemainingArgs().RemainingRets());     \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(Backward, backward, ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().sizes.RemainingArgs().RemainingRets());   \
  _Pragma("GCC visibility pop")
