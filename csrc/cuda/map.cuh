// How maps lie in memory, and how a kernel cuts them into what its blocks work on.
//
// A block takes a run: some neighbouring channels of one image. Where the run does not fit into shared memory the block
// passes over it strip by strip, a strip being some rows of its planes.
#pragma once

#include <algorithm>
#include <bit>
#include <limits>
#include <numeric>

#include "divisor.cuh"
#include "launch.cuh"
#include "memory.cuh"
#include "tensors.h"

namespace toplight::cuda {

// Strides of a map, in elements.
struct View {
  int64_t batch_stride, channel_stride, height_stride, width_stride;
  int64_t position_stride;  // of h * width + w, where rows follow one another without a gap
  bool channels_inner;  // neighbouring channels, not neighbouring positions, lie closest in memory
  bool dense_inner;  // and the closest lie beside one another: a run is one stretch, or one at every position

  __device__ int64_t offset(int64_t b, int64_t c) const {
    return b * batch_stride + c * channel_stride;
  }
  __device__ int64_t offset_in_plane(int row, int column) const {
    return row * height_stride + column * width_stride;
  }
};

inline View view_of(const Tensor& tensor) {
  const Map map = map_of(tensor);
  // So that the values of a few planes are counted in 32 bits; where they stand in memory is not.
  constexpr int64_t kLargest = std::numeric_limits<int32_t>::max() / 16;
  STD_TORCH_CHECK(
      map.positions() <= kLargest && map.channels <= kLargest,
      "planes of ", map.height, " x ", map.width, " values or ", map.channels, " channels are too many for the GPU");
  const bool flat = map.height == 1 || map.width == 1 || map.height_stride == map.width * map.width_stride;
  const int64_t position_stride = map.width == 1 ? map.height_stride : map.width_stride;
  const bool plane_is_dense = flat && (position_stride == 1 || map.positions() == 1);
  const bool in_planes = plane_is_dense && (map.channels == 1 || map.channel_stride == map.positions());
  const bool channels_inner = !in_planes && map.channel_stride != 0 && map.channel_stride < position_stride;
  return {
      map.batch_stride,
      map.channel_stride,
      map.height_stride,
      map.width_stride,
      position_stride,
      channels_inner,
      in_planes || (channels_inner && flat && map.channel_stride == 1)};
}

// Strides of (B, C, n) vectors, in elements.
struct VectorView {
  int64_t batch_stride, channel_stride, slice_stride;

  __device__ int64_t offset(int64_t b, int64_t c, int64_t slice) const {
    return b * batch_stride + c * channel_stride + slice * slice_stride;
  }
};

inline VectorView vector_view_of(const Tensor& vectors) {
  return {vectors.stride(0), vectors.stride(1), vectors.stride(2)};
}

// Doubles, which are there for gradient checks, go one by one.
template <typename scalar_t>
constexpr bool kHasVectors = sizeof(scalar_t) < sizeof(double);

// Whether all runs of a map start on a boundary of a vector and consist of whole vectors; `channels` is what the blocks
// share out, of which the map has one or two times as many.
template <typename scalar_t>
bool in_vectors(const Tensor& tensor, const View& view, int64_t channels) {
  constexpr int64_t kWhole = kLanes<scalar_t>;
  const auto address = reinterpret_cast<uintptr_t>(tensor.const_data_ptr<scalar_t>());
  const int64_t positions = tensor.size(2) * tensor.size(3);
  return kHasVectors<scalar_t> && view.dense_inner && address % kVectorBytes == 0 &&
      (tensor.size(0) == 1 || view.batch_stride % kWhole == 0) &&
      (view.channels_inner ? view.position_stride % kWhole == 0 && channels % kWhole == 0
                           : channels * positions % kWhole == 0);
}

struct Strip {
  int first_row;
  int rows;
};

struct Cut {
  int height, width;
  Divisor by_positions, by_height, by_width;
  int channels;  // that the blocks share out
  int planes;  // channels of a run; the last one can have fewer
  int blocks;  // runs per image
  int rows;  // of a strip; the last one can have fewer
  int strips;
  int plane_shift;  // 2^plane_shift >= planes: threads side by side on the channels of one position
  bool vectors;  // all maps of the kernel are read and written in vectors

  __host__ __device__ int positions() const {
    return height * width;
  }
  __device__ Strip strip(int index) const {
    return {index * rows, min(rows, height - index * rows)};
  }
  // All rows at once, for kernels that read no map.
  __device__ Strip whole() const {
    return {0, height};
  }
};

// The run of this block.
struct Run {
  int64_t b;
  int first;  // channel
  int planes;

  __device__ explicit Run(const Cut& cut)
      : b(blockIdx.x / cut.blocks),
        first(static_cast<int>(blockIdx.x % cut.blocks) * cut.planes),
        planes(min(cut.planes, cut.channels - first)) {}
};

// Where the values of a tile stand in shared memory, in elements. A tile is one strip of some runs of one map, in the
// order in which the map has them: position after position within a plane, or channel after channel at a position.
struct TileShape {
  int run_pitch, plane_pitch, position_pitch;

  __device__ int at(int run, int plane, int position) const {
    return run * run_pitch + plane * plane_pitch + position * position_pitch;
  }
};

// Between neighbouring positions of a tile whose channels lie innermost. One vector of padding puts the positions on
// different banks; short pitches have that of themselves, and less than a vector is never moved in vectors.
template <typename scalar_t>
int64_t inner_pitch(int64_t planes) {
  constexpr int64_t kVectorLanes = kLanes<scalar_t>;
  if (planes < kVectorLanes) {
    return planes;
  }
  return round_up(planes, kVectorLanes) + (planes >= 4 * kVectorLanes ? kVectorLanes : 0);
}

// Values of shared memory of one run.
template <typename scalar_t>
int64_t tile_values(bool channels_inner, int64_t planes, int64_t positions) {
  return channels_inner ? positions * inner_pitch<scalar_t>(planes) : round_up(planes * positions, kLanes<scalar_t>);
}

// Of a run of `planes` channels.
template <typename scalar_t>
TileShape tile_shape(const View& view, const Cut& cut, int64_t planes) {
  const int positions = cut.rows * cut.width;
  const auto run_pitch = static_cast<int>(tile_values<scalar_t>(view.channels_inner, planes, positions));
  if (view.channels_inner) {
    return {run_pitch, 1, static_cast<int>(inner_pitch<scalar_t>(planes))};
  }
  return {run_pitch, positions, 1};
}

// What a kernel asks of a cut.
struct Demand {
  int64_t images, channels;
  int tiles = 0;  // runs that a block holds in shared memory
  bool paired = false;  // two of them are one run of twice the channels
  int64_t plane_bytes = 0;  // of shared memory per plane besides
  int64_t block_bytes = 0;  // of shared memory that grow with the map, whatever the planes
  bool one_pass = true;  // strips cost nothing, since every one is read once
  bool vectors = true;
  bool channels_inner = false, planes_inner = false;  // in any of the maps

  template <typename scalar_t>
  void add(const Tensor& map, const View& view) {
    vectors = vectors && in_vectors<scalar_t>(map, view, channels);
    (view.channels_inner ? channels_inner : planes_inner) = true;
  }
};

// Channels per run: about 16 KiB. Four such blocks of a multiprocessor have 64 KiB on their way, twice what latency
// times bandwidth of an H200 asks for. A small input is cut finer, into two blocks per multiprocessor.
template <typename scalar_t>
int64_t planes_per_run(const Demand& demand, int64_t n, int64_t step, int64_t least, int multiprocessors) {
  constexpr int64_t kBlockBytes = 16 * 1024, kMostInner = 64;
  const int64_t bytes = std::max(demand.tiles, 1) * n * static_cast<int64_t>(sizeof(scalar_t)) + demand.plane_bytes;
  int64_t planes = std::min(kBlockBytes / bytes, demand.images * demand.channels / (2 * int64_t{multiprocessors}));
  if (demand.channels_inner) {
    planes = std::bit_floor(static_cast<uint64_t>(std::clamp(planes, least, kMostInner)));
  }
  return std::max(step, planes / step * step);
}

template <typename scalar_t>
Cut cut_maps(const Demand& demand, int64_t height, int64_t width, const Device& device) {
  constexpr int64_t kScalar = sizeof(scalar_t), kStripBytes = 48 * 1024, kSectorsBytes = 64;
  constexpr int64_t kFixedBytes = 1024;  // of shared memory, whatever the map
  const int64_t n = height * width, most = device.limits().shared_memory - kFixedBytes - demand.block_bytes;
  const int64_t limit = demand.one_pass ? std::min(kStripBytes, most) : most;
  const int64_t lanes = demand.vectors ? kLanes<scalar_t> : 1;
  // Runs of a multiple of `step` channels start on boundaries. Where channels lie innermost, fewer than `least` of them
  // waste parts of the sectors of memory, which several passes over strips would do even more.
  const int64_t step = demand.channels_inner ? lanes : lanes / std::gcd(lanes, n);
  const int64_t least = demand.channels_inner ? kSectorsBytes / kScalar : step;
  int64_t planes = planes_per_run<scalar_t>(demand, n, step, least, device.limits().multiprocessors);
  planes = std::min(planes, demand.channels);
  int64_t rows = height;
  bool vectors = demand.vectors;
  const auto tile_bytes = [&](int64_t positions) {
    const auto values = [&](int64_t channels) {
      return tile_values<scalar_t>(demand.channels_inner, channels, positions);
    };
    const int64_t paired = demand.paired ? values(2 * planes) : 0;
    return kScalar * ((demand.tiles - (demand.paired ? 2 : 0)) * values(planes) + paired);
  };
  const auto with_tile = [&](int64_t positions) { return tile_bytes(positions) + planes * demand.plane_bytes; };
  const auto halve = [&] { planes = std::max(step, planes / 2 / step * step); };
  const auto fits = [&] { return demand.tiles == 0 || with_tile(n) <= limit; };
  while (!fits() && planes > (demand.one_pass ? least : step)) {
    halve();
  }
  int64_t row_step = height;  // the smallest strip
  if (!fits()) {
    if (demand.planes_inner && planes > 1) {
      planes = 1;  // a strip of several planes is not one stretch of memory
      vectors = false;
    }
    row_step = vectors && demand.planes_inner ? lanes / std::gcd(lanes, width) : 1;
  }
  // What is kept of each plane of a large map can be more than a block has.
  while (with_tile(row_step * width) > most && planes > step) {
    halve();
  }
  if (row_step < height) {
    const int64_t room = std::min(kStripBytes, most - planes * demand.plane_bytes);
    rows = std::min(height, std::max<int64_t>(room / tile_bytes(width) / row_step, 1) * row_step);
  }
  const int h = static_cast<int>(height), w = static_cast<int>(width);
  Cut cut{h, w, Divisor(h * w), Divisor(h), Divisor(w)};
  cut.channels = static_cast<int>(demand.channels);
  cut.planes = static_cast<int>(planes);
  cut.blocks = static_cast<int>((demand.channels + planes - 1) / planes);
  cut.rows = static_cast<int>(rows);
  cut.strips = static_cast<int>((height + rows - 1) / rows);
  cut.plane_shift = std::bit_width(static_cast<uint64_t>(planes - 1));
  cut.vectors = vectors;
  return cut;
}

// Calls launch(std::bool_constant<kVector>) with the kVector that the cut is made for.
template <typename scalar_t, typename Launch>
void with_vectors(const Cut& cut, const Launch& launch) {
  if constexpr (kHasVectors<scalar_t>) {
    if (cut.vectors) {
      return launch(std::true_type{});
    }
  }
  launch(std::false_type{});
}

}  // namespace toplight::cuda
