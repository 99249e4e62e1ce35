// shuffle_attention: y = x * gate(x), channels shuffled; see plane.h for the gate. Forward reads x once from memory
// and writes y once; backward reads x and dy and writes dx, and measures x again rather than keep anything.
// A block has the bundles at the same place of both halves of the channels, which the shuffle interleaves.
#include "attention.h"

namespace toplight::cpu {
namespace {

// The bundles of a task, where they stand in x and where in y.
struct Channels {
  std::vector<Lanes> in, out;
};

template <typename T>
void channels_of(int64_t block, const Blocks& blocks, const Attention<T>& attention, Channels& channels) {
  blocks.lanes(block, {0, attention.channels() / 2}, channels.in);
  attention.output(channels.in, channels.out);
}

// Whether the maps of one task and of the next, of so many packs each, fit the second cache: then the next ones are
// asked for while these are computed. Larger planes are long enough for processors to foresee.
constexpr bool asks_ahead(int64_t packs) {
  return packs <= (256 << 10) / kPackBytes;
}

template <typename scalar_t>
void forward(const Tensor& x, const AttentionArguments& arguments, Tensor& y) {
  using T = accumulate_t<scalar_t>;
  constexpr int64_t kLanes = Pack<T>::kLanes;
  const Map map = map_of(x), out = map_of(y);
  const Attention<T> attention(arguments, map.channels);
  const int64_t half = map.channels / 2, size = map.positions() * kLanes;
  const Blocks blocks(map, half, kLanes, 2 * map.positions());
  const bool ahead = asks_ahead(4 * blocks.bundles() * map.positions());
  const auto* source = x.const_data_ptr<scalar_t>();
  auto* target = y.mutable_data_ptr<scalar_t>();
  for_blocks(map.batch, blocks, 4 * blocks.bundles() * size, [&] {
    return [&, channels = Channels(), next = Channels(), tiles = Buffer<T>(2 * blocks.bundles() * size)](
               int64_t b, int64_t block) mutable {
      channels_of(block, blocks, attention, channels);
      const auto [next_b, next_block] = blocks.after(b, block);
      channels_of(next_block, blocks, attention, next);
      const Rows rows{0, map.height};
      read_tiles<T>(source + b * map.batch_stride, map, channels.in, rows, tiles.get());
      for (size_t j = 0; j < channels.in.size(); ++j) {
        if (ahead) {
          ask_for<true>(target + b * out.batch_stride, out, channels.out[j]);
        }
        if (ahead && j < next.in.size()) {  // an image's last block may have more bundles than the next one's first
          ask_for<false>(source + next_b * map.batch_stride, map, next.in[j]);
        }
        T* tile = tiles + j * size;
        attend(tile, map.positions(), attention.parameters(channels.in[j]), attention.eps(), tile);
      }
      write_tiles<T>(tiles.get(), channels.out, rows, out, target + b * out.batch_stride);
    };
  });
}

template <typename scalar_t>
void backward(
    const Tensor& grad,
    const Tensor& x,
    const AttentionArguments& arguments,
    Tensor& dx,
    ParameterTensors& d_parameters) {
  using T = accumulate_t<scalar_t>;
  constexpr int64_t kLanes = Pack<T>::kLanes;
  const Map map = map_of(x), dy = map_of(grad), out = map_of(dx);
  const Attention<T> attention(arguments, map.channels);
  const int64_t half = map.channels / 2, size = map.positions() * kLanes;
  const Blocks blocks(map, half, kLanes, 4 * map.positions());
  const bool ahead = asks_ahead(6 * blocks.bundles() * map.positions());
  const auto* source = x.const_data_ptr<scalar_t>();
  const auto* gradient = grad.const_data_ptr<scalar_t>();
  auto* target = dx.mutable_data_ptr<scalar_t>();
  AllPlaneSums<T> sums(map.batch, map.channels);
  for_blocks(map.batch, blocks, 8 * blocks.bundles() * size, [&] {
    return [&,
            channels = Channels(),
            next = Channels(),
            tiles = Buffer<T>(2 * blocks.bundles() * size),
            dy_tiles = Buffer<T>(2 * blocks.bundles() * size),
            dt = Buffer<T>(size)](int64_t b, int64_t block) mutable {
      channels_of(block, blocks, attention, channels);
      const auto [next_b, next_block] = blocks.after(b, block);
      channels_of(next_block, blocks, attention, next);
      const Rows rows{0, map.height};
      read_tiles<T>(source + b * map.batch_stride, map, channels.in, rows, tiles.get());
      read_tiles<T>(gradient + b * dy.batch_stride, dy, channels.out, rows, dy_tiles.get());
      for (size_t j = 0; j < channels.in.size(); ++j) {
        if (ahead) {
          ask_for<true>(target + b * out.batch_stride, out, channels.in[j]);
        }
        if (ahead && j < next.in.size()) {
          ask_for<false>(source + next_b * map.batch_stride, map, next.in[j]);
          ask_for<false>(gradient + next_b * dy.batch_stride, dy, next.out[j]);
        }
        const auto parameters = attention.parameters(channels.in[j]);
        T *tile = tiles + j * size, *dy_tile = dy_tiles + j * size;
        sums.set(b, channels.in[j], attend_backward(
            tile, dy_tile, map.positions(), parameters, attention.eps(), dt.get()));
      }
      write_tiles<T>(dy_tiles.get(), channels.in, rows, out, target + b * out.batch_stride);
    };
  });
  sums.reduce(arguments, d_parameters);
}

}  // namespace

void shuffle_attention(const Tensor& x, const AttentionArguments& arguments, Tensor& y) {
  dispatch_floating(x.scalar_type(), "shuffle_attention", [&](auto tag) {
    forward<typename decltype(tag)::type>(x, arguments, y);
  });
}

void shuffle_attention_backward(
    const Tensor& grad,
    const Tensor& x,
    const AttentionArguments& arguments,
    Tensor& dx,
    ParameterTensors& d_parameters) {
  dispatch_floating(x.scalar_type(), "shuffle_attention_backward", [&](auto tag) {
    backward<typename decltype(tag)::type>(grad, x, arguments, dx, d_parameters);
  });
}

}  // namespace toplight::cpu
