// shuffle_attention: y = x * gate(x), channels shuffled; see plane.h for the gate. Forward reads x once from memory
// and writes y once; backward reads x and dy and writes dx, and measures x again rather than keep anything.
#include "attention_block.h"

namespace toplight::cpu {
namespace {

template <typename scalar_t>
void forward_planes(const Tensor& x, const Attention<accumulate_t<scalar_t>>& attention, Tensor& y) {
  using T = accumulate_t<scalar_t>;
  const Map map = map_of(x), out = map_of(y);
  const auto* source = x.const_data_ptr<scalar_t>();
  auto* target = y.mutable_data_ptr<scalar_t>();
  parallel_tasks(map.batch * map.channels, 4 * map.positions(), [&](int64_t begin, int64_t end) {
    std::vector<T> scratch(map.positions());
    for (int64_t plane = begin; plane < end; ++plane) {
      const int64_t b = plane / map.channels, c = plane % map.channels;
      const T* values = read_plane(source + map.offset(b, c), map, scratch.data());
      scalar_t* written = target + out.offset(b, attention.output_channel(c));
      attend(values, map.positions(), attention, attention.role(c), written);
    }
  });
}

template <typename scalar_t>
void backward_planes(
    const Tensor& grad,
    const Tensor& x,
    const Attention<accumulate_t<scalar_t>>& attention,
    std::vector<PlaneSums<accumulate_t<scalar_t>>>& sums,
    Tensor& dx) {
  using T = accumulate_t<scalar_t>;
  const Map map = map_of(x), dy = map_of(grad), out = map_of(dx);
  const auto* source = x.const_data_ptr<scalar_t>();
  const auto* gradient = grad.const_data_ptr<scalar_t>();
  auto* target = dx.mutable_data_ptr<scalar_t>();
  parallel_tasks(map.batch * map.channels, 8 * map.positions(), [&](int64_t begin, int64_t end) {
    std::vector<T> x_scratch(map.positions()), dy_scratch(map.positions()), gates(map.positions());
    for (int64_t plane = begin; plane < end; ++plane) {
      const int64_t b = plane / map.channels, c = plane % map.channels;
      sums[plane] = attend_backward(
          read_plane(source + map.offset(b, c), map, x_scratch.data()),
          read_plane(gradient + dy.offset(b, attention.output_channel(c)), dy, dy_scratch.data()),
          map.positions(),
          attention,
          attention.role(c),
          gates.data(),
          target + out.offset(b, c));
    }
  });
}

// channels_last: a task is a block of channels of the first half and the block at the same place of the second
// half, which the shuffle interleaves to one contiguous block of the output.

constexpr int64_t kHalves = 2;

// How the channels of the two halves lie in the output: channel k of half i is at i * apart + k * step.
struct Interleave {
  int64_t step, apart;

  Interleave(int64_t channels, bool shuffle) : step(shuffle ? 2 : 1), apart(shuffle ? 1 : channels / 2) {}
};

template <typename scalar_t>
void forward_channels_last(const Tensor& x, const Attention<accumulate_t<scalar_t>>& attention, Tensor& y) {
  using T = accumulate_t<scalar_t>;
  const Map map = map_of(x);
  const int64_t half = map.channels / 2, positions = map.positions();
  const int64_t block = channel_block(half, kHalves * positions);
  const int64_t blocks = (half + block - 1) / block;
  const Interleave interleave(map.channels, attention.shuffle);
  const auto* source = x.const_data_ptr<scalar_t>();
  auto* target = y.mutable_data_ptr<scalar_t>();
  parallel_tasks(map.batch * blocks, 4 * kHalves * positions * block, [&](int64_t begin, int64_t end) {
    std::vector<T> tiles(kHalves * positions * block), s(block);
    std::array<ChannelGates<T>, kHalves> gates{ChannelGates<T>(block), ChannelGates<T>(block)};
    for (int64_t task = begin; task < end; ++task) {
      const int64_t b = task / blocks, c = task % blocks * block;
      const int64_t width = std::min(block, half - c);
      const int64_t image = b * positions * map.channels;
      for (int64_t i = 0; i < kHalves; ++i) {
        const int64_t channel = i * half + c;
        T* tile = tiles.data() + i * positions * width;
        measure_block(source + image + channel, map, channel, width, attention, tile, gates[i]);
      }
      for (int64_t position = 0; position < positions; ++position) {
        scalar_t* written = target + image + position * map.channels + c * interleave.step;
        for (int64_t i = 0; i < kHalves; ++i) {
          const T* values = tiles.data() + (i * positions + position) * width;
          gates[i].evaluate(values, width, s.data());
          for (int64_t k = 0; k < width; ++k) {
            written[i * interleave.apart + k * interleave.step] = static_cast<scalar_t>(values[k] * s[k]);
          }
        }
      }
    }
  });
}

template <typename scalar_t>
void backward_channels_last(
    const Tensor& grad,
    const Tensor& x,
    const Attention<accumulate_t<scalar_t>>& attention,
    std::vector<PlaneSums<accumulate_t<scalar_t>>>& sums,
    Tensor& dx) {
  using T = accumulate_t<scalar_t>;
  const Map map = map_of(x), dy = map_of(grad);
  const int64_t half = map.channels / 2, positions = map.positions();
  const int64_t block = channel_block(half, 3 * kHalves * positions);
  const int64_t blocks = (half + block - 1) / block;
  const auto* source = x.const_data_ptr<scalar_t>();
  const auto* gradient = grad.const_data_ptr<scalar_t>();
  auto* target = dx.mutable_data_ptr<scalar_t>();
  parallel_tasks(map.batch * blocks, 8 * kHalves * positions * block, [&](int64_t begin, int64_t end) {
    std::vector<T> tile(positions * block), dy_tiles(kHalves * positions * block), s(positions * block);
    ChannelGates<T> gates(block);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t b = task / blocks, c = task % blocks * block;
      const int64_t width = std::min(block, half - c);
      const int64_t image = b * positions * map.channels;
      // Both halves of dy in one walk, as the shuffle has laid them.
      for (int64_t position = 0; position < positions; ++position) {
        const scalar_t* read = gradient + b * dy.batch_stride + position / map.width * dy.height_stride +
            position % map.width * dy.width_stride;
        for (int64_t i = 0; i < kHalves; ++i) {
          T* copied = dy_tiles.data() + (i * positions + position) * width;
          const int64_t first = attention.output_channel(i * half + c);
          const int64_t stride = (attention.shuffle ? 2 : 1) * dy.channel_stride;
          for (int64_t k = 0; k < width; ++k) {
            copied[k] = static_cast<T>(read[first * dy.channel_stride + k * stride]);
          }
        }
      }
      for (int64_t i = 0; i < kHalves; ++i) {
        const int64_t channel = i * half + c;
        measure_block(source + image + channel, map, channel, width, attention, tile.data(), gates);
        backward_block(
            tile.data(),
            dy_tiles.data() + i * positions * width,
            s.data(),
            map,
            channel,
            width,
            attention,
            gates,
            sums.data() + b * map.channels + channel,
            target + image + channel);
      }
    }
  });
}

Tensor shuffle_attention(
    const Tensor& x,
    const Tensor& channel_weight,
    const Tensor& channel_bias,
    const Tensor& spatial_weight,
    const Tensor& spatial_bias,
    const Tensor& norm_weight,
    const Tensor& norm_bias,
    int64_t groups,
    double eps,
    bool shuffle) {
  const char* op = "shuffle_attention";
  check_map(x, op, "x");
  const auto parameters = check_parameters(
      {&channel_weight, &channel_bias, &spatial_weight, &spatial_bias, &norm_weight, &norm_bias},
      x,
      x.size(1),
      groups,
      op);
  const bool channels_last = is_channels_last(x);
  Tensor y = empty_map({x.size(0), x.size(1), x.size(2), x.size(3)}, x, channels_last);
  dispatch_floating(x.scalar_type(), op, [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    const auto attention = attention_of<accumulate_t<scalar_t>>(parameters, x.size(1), groups, eps, shuffle);
    channels_last ? forward_channels_last<scalar_t>(x, attention, y) : forward_planes<scalar_t>(x, attention, y);
  });
  return y;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> shuffle_attention_backward(
    const Tensor& grad,
    const Tensor& x,
    const Tensor& channel_weight,
    const Tensor& channel_bias,
    const Tensor& spatial_weight,
    const Tensor& spatial_bias,
    const Tensor& norm_weight,
    const Tensor& norm_bias,
    int64_t groups,
    double eps,
    bool shuffle) {
  const char* op = "shuffle_attention_backward";
  check_map(x, op, "x");
  check_same(grad, x, op, "grad");
  check_size(grad, {x.size(0), x.size(1), x.size(2), x.size(3)}, op, "grad");
  const auto parameters = check_parameters(
      {&channel_weight, &channel_bias, &spatial_weight, &spatial_bias, &norm_weight, &norm_bias},
      x,
      x.size(1),
      groups,
      op);
  const bool channels_last = is_channels_last(x);
  Tensor dx = empty_map({x.size(0), x.size(1), x.size(2), x.size(3)}, x, channels_last);
  const SixTensors p = dispatch_floating(x.scalar_type(), op, [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    using T = accumulate_t<scalar_t>;
    const auto attention = attention_of<T>(parameters, x.size(1), groups, eps, shuffle);
    std::vector<PlaneSums<T>> sums(x.size(0) * x.size(1));
    channels_last ? backward_channels_last<scalar_t>(grad, x, attention, sums, dx)
                  : backward_planes<scalar_t>(grad, x, attention, sums, dx);
    return reduce_parameter_gradients(sums, attention, parameters[0]);
  });
  return {dx, p[0], p[1], p[2], p[3], p[4], p[5]};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(toplight_ext, CPU, m) {
  m.impl("shuffle_attention", TORCH_BOX(shuffle_attention));
  m.impl("shuffle_attention_backward", TORCH_BOX(shuffle_attention_backward));
}

}  // namespace toplight::cpu
