// The two calls from XLA, which take and return their arrays in the order of `calls.py`.
#pragma once
#include "recurrence.h"

// What both calls take: z or x, w_x, bias, w, parameters, three flags, the first state, the one of resets.
static Arrays read(Reader& args, Sizes sizes) {
  Arrays arrays{};
  arrays.sizes = sizes;
  arrays.x = args.array();
  arrays.w_x = args.array();
  arrays.bias = args.array();
  arrays.w = args.array();
  arrays.params = args.array();
  arrays.flags = {args.array<bool>(), args.array<bool>(), args.array<bool>()};
  for (auto& leaf : arrays.start) leaf = args.array();
  for (auto& leaf : arrays.initial) leaf = args.array();
  return arrays;
}

static ffi::Error forward_call(ffi::ThreadPool threads, int64_t T, int64_t B, int64_t I, int64_t H, ffi::RemainingArgs args, ffi::RemainingRets rets) {
  Reader reader(args);
  Writer writer(rets);
  Arrays arrays = read(reader, {T, B, I, H});
  arrays.z = writer.array();
  arrays.z_places = writer.places();
  arrays.r = writer.array();
  arrays.r_places = writer.places();
  for (auto& leaf : arrays.states) leaf = writer.array();
  if (!Cell::PROJECTED && arrays.z) in_place(arrays.z, arrays.x, T * B * Z * H);
  return done([&] { forward(threads, arrays); });
}

static ffi::Error backward_call(ffi::ThreadPool threads, int64_t T, int64_t B, int64_t I, int64_t H, ffi::RemainingArgs args, ffi::RemainingRets rets) {
  Reader reader(args);
  Writer writer(rets);
  const float *z = reader.array(), *r = reader.array();
  Arrays arrays = read(reader, {T, B, I, H});
  for (auto& leaf : arrays.states) leaf = reader.array();
  Gradients gradients{};
  gradients.ys = reader.array();
  for (auto& leaf : gradients.last) leaf = reader.array();
  arrays.z = writer.array();
  arrays.r = writer.array();
  gradients.w_x = writer.array();
  gradients.bias = writer.array();
  gradients.w = writer.array();
  gradients.params = writer.array();
  for (auto& leaf : gradients.start) leaf = writer.array();
  for (auto& leaf : gradients.initial) leaf = writer.array();
  in_place(arrays.z, z, T * B * Z * H);
  if (R) in_place(arrays.r, r, T * B * R * H);
  return done([&] { backward(threads, arrays, gradients); });
}

HANDLERS(forward_call, backward_call, SIZES)
