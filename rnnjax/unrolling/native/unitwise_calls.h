// The two calls from XLA of a unitwise cell, which take and return their arrays in the order of `unitwise_calls.py`.
#pragma once
#include "unitwise.h"

// What both calls take: x or z, w_x, bias, w_y, scale, parameters, three flags, the first state, the one of resets.
static Arrays read(Reader& args, Sizes sizes, long O) {
  Arrays arrays{};
  arrays.sizes = sizes;
  arrays.O = O;
  arrays.x = args.array();
  arrays.w_x = args.array();
  arrays.bias = args.array();
  arrays.w_y = args.array();
  arrays.scale = args.array();
  arrays.params = args.array();
  arrays.flags = {args.array<bool>(), args.array<bool>(), args.array<bool>()};
  for (auto& leaf : arrays.start) leaf = args.array();
  for (auto& leaf : arrays.initial) leaf = args.array();
  return arrays;
}

static ffi::Error forward_call(ffi::ThreadPool threads, int64_t T, int64_t B, int64_t I, int64_t H, int64_t O, ffi::RemainingArgs args, ffi::RemainingRets rets) {
  Reader reader(args);
  Writer writer(rets);
  Arrays arrays = read(reader, {T, B, I, H}, O);
  for (auto& leaf : arrays.states) leaf = writer.array();
  for (auto& leaf : arrays.last) leaf = writer.array();
  arrays.y = writer.array();
  return done([&] { forward(threads, arrays); });
}

static ffi::Error backward_call(ffi::ThreadPool threads, int64_t T, int64_t B, int64_t I, int64_t H, int64_t O, ffi::RemainingArgs args, ffi::RemainingRets rets) {
  Reader reader(args);
  Writer writer(rets);
  Arrays arrays = read(reader, {T, B, I, H}, O);
  for (auto& leaf : arrays.states) leaf = reader.array();
  Gradients gradients{};
  for (auto& leaf : gradients.states) leaf = reader.array();
  gradients.y = reader.array();
  for (auto& leaf : gradients.last) leaf = reader.array();
  gradients.x = writer.array();
  gradients.w_x = writer.array();
  gradients.bias = writer.array();
  gradients.w_y = writer.array();
  gradients.scale = writer.array();
  gradients.params = writer.array();
  for (auto& leaf : gradients.start) leaf = writer.array();
  for (auto& leaf : gradients.initial) leaf = writer.array();
  return done([&] { backward(threads, arrays, gradients); });
}

HANDLERS(forward_call, backward_call, SIZES.Attr<int64_t>("O"))
