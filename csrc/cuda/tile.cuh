// Tiles: some whole planes of one image, copied into shared memory and written from there.
//
// A run is some neighbouring channels of one image. A map lies in one of three ways:
//   planes: a run is one stretch of memory;
//   channels last: at every position a run is one stretch of memory;
//   strided: anything else.
// The first two are read and written 16 bytes at a time wherever a run starts on such a boundary. A tile keeps the
// order of what it was read from: position after position within a plane, or channel after channel.
#pragma once

#include <algorithm>
#include <cstring>
#include <numeric>

#include "launch.cuh"
#include "tensors.h"

namespace toplight::cuda {

constexpr int kVectorBytes = 16;

template <typename scalar_t>
constexpr int kVector = kVectorBytes / static_cast<int>(sizeof(scalar_t));

constexpr int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

enum class Layout { kPlanes, kChannelsLast, kStrided };

// How a map lies in memory; strides in elements.
struct View {
  Layout layout;
  int height, width;
  int64_t batch_stride, channel_stride, height_stride, width_stride;
  int64_t position_stride;  // of h * width + w, unless strided

  __host__ __device__ int positions() const {
    return height * width;
  }
  __device__ int64_t offset(int64_t b, int64_t c) const {
    return b * batch_stride + c * channel_stride;
  }
  // Of one position from the start of its plane.
  __device__ int64_t offset_of(int n) const {
    return layout == Layout::kStrided ? n / width * height_stride + n % width * width_stride : n * position_stride;
  }
};

inline View view_of(const Tensor& tensor) {
  const Map map = map_of(tensor);
  STD_TORCH_CHECK(
      map.positions() <= std::numeric_limits<int32_t>::max() / 4, "a plane of ", map.positions(), " values is too large");
  const bool flat = map.height == 1 || map.width == 1 || map.height_stride == map.width * map.width_stride;
  const int64_t position_stride = map.width == 1 ? map.height_stride : map.width_stride;
  const bool dense = flat && (position_stride == 1 || map.positions() == 1);
  const bool neighbours = map.channels == 1 || map.channel_stride == map.positions();
  Layout layout = Layout::kStrided;
  if (dense && neighbours) {
    layout = Layout::kPlanes;
  } else if (flat && map.channel_stride == 1) {
    layout = Layout::kChannelsLast;
  }
  return {
      layout,
      static_cast<int>(map.height),
      static_cast<int>(map.width),
      map.batch_stride,
      map.channel_stride,
      map.height_stride,
      map.width_stride,
      position_stride};
}

// Where the values of a tile stand in shared memory, in elements.
struct TileShape {
  int run_pitch;
  int plane_pitch;
  int position_pitch;

  __device__ int at(int run, int plane, int position) const {
    return run * run_pitch + plane * plane_pitch + position * position_pitch;
  }
};

template <typename scalar_t>
TileShape tile_shape(const View& view, int64_t planes) {
  const int64_t n = view.positions();
  if (view.layout == Layout::kChannelsLast) {
    // One vector of padding puts neighbouring positions on different banks.
    const int64_t pitch = round_up(planes, kVector<scalar_t>) + kVector<scalar_t>;
    return {static_cast<int>(n * pitch), 1, static_cast<int>(pitch)};
  }
  return {static_cast<int>(round_up(planes * n, kVector<scalar_t>)), static_cast<int>(n), 1};
}

// Channels per run for tiles of `runs` runs: about kBlockBytes, `extra_bytes` per channel included, whole vectors, and
// no fewer blocks than twice the multiprocessors if there are channels enough.
template <typename scalar_t>
int64_t planes_per_run(
    const View& view,
    int64_t images,
    int64_t channels,
    int runs,
    int64_t extra_bytes,
    int multiprocessors) {
  constexpr int64_t kBlockBytes = 16384, kMostChannels = 64;
  const int64_t plane_bytes = view.positions() * static_cast<int64_t>(sizeof(scalar_t));
  int64_t planes = kBlockBytes / (runs * plane_bytes + extra_bytes);
  int64_t step = kVectorBytes / std::gcd<int64_t>(kVectorBytes, plane_bytes);
  if (view.layout == Layout::kChannelsLast) {
    step = kVector<scalar_t>;
    planes = std::clamp<int64_t>(planes, 2 * step, kMostChannels);  // 2 vectors are a sector of memory
  }
  const int64_t busy = 2 * static_cast<int64_t>(multiprocessors);
  planes = std::min(planes, images * channels / busy);
  return std::min(channels, std::max(step, planes / step * step));
}

__device__ inline bool is_aligned(const void* address) {
  return reinterpret_cast<uintptr_t>(address) % kVectorBytes == 0;
}

// Copies `planes` channels at `source` to `tile`, both at the first value of the run. The caller synchronises.
template <typename scalar_t>
__device__ void read_run(const scalar_t* source, const View& view, int planes, const TileShape& shape, scalar_t* tile) {
  constexpr int kLanes = kVector<scalar_t>;
  const int n = view.positions(), thread = threadIdx.x;
  if (view.layout == Layout::kPlanes) {
    const int vectors = is_aligned(source) ? planes * n / kLanes : 0;
#pragma unroll 4
    for (int i = thread; i < vectors; i += kThreads) {
      reinterpret_cast<uint4*>(tile)[i] = __ldg(reinterpret_cast<const uint4*>(source) + i);
    }
    for (int i = vectors * kLanes + thread; i < planes * n; i += kThreads) {
      tile[i] = source[i];
    }
  } else if (view.layout == Layout::kChannelsLast) {
    if (is_aligned(source) && view.position_stride % kLanes == 0 && planes % kLanes == 0) {
      const int vectors = planes / kLanes;
#pragma unroll 4
      for (int i = thread; i < vectors * n; i += kThreads) {
        const int position = i / vectors, first = i % vectors * kLanes;
        *reinterpret_cast<uint4*>(tile + shape.at(0, first, position)) =
            __ldg(reinterpret_cast<const uint4*>(source + position * view.position_stride + first));
      }
    } else {
      for (int i = thread; i < planes * n; i += kThreads) {
        const int position = i / planes, plane = i % planes;
        tile[shape.at(0, plane, position)] = source[position * view.position_stride + plane];
      }
    }
  } else {
    for (int i = thread; i < planes * n; i += kThreads) {
      const int plane = i / n, position = i % n;
      tile[shape.at(0, plane, position)] = source[plane * view.channel_stride + view.offset_of(position)];
    }
  }
}

// A value of a run: plane, position and, for those who need them, row and column of the position.
struct Place {
  int plane, position, row, column;

  __device__ Place(int plane, int position, int width)
      : plane(plane), position(position), row(position / width), column(position % width) {}

  // The next position, or the first of the next plane.
  __device__ void advance(int height, int width) {
    ++position;
    if (++column == width) {
      column = 0;
      if (++row == height) {
        row = position = 0;
        ++plane;
      }
    }
  }
};

// Writes value(place) to every place of `planes` channels at `target`, which lies in planes or channels last.
template <typename scalar_t, typename Value>
__device__ void write_run(scalar_t* target, const View& view, int planes, const Value& value) {
  constexpr int kLanes = kVector<scalar_t>;
  const int n = view.positions(), thread = threadIdx.x;
  scalar_t lanes[kLanes];
  const auto write_lanes = [&](scalar_t* first) {
    uint4 vector;
    memcpy(&vector, lanes, kVectorBytes);
    *reinterpret_cast<uint4*>(first) = vector;
  };
  if (view.layout == Layout::kPlanes) {
    const int vectors = is_aligned(target) ? planes * n / kLanes : 0;
    for (int i = thread; i < vectors; i += kThreads) {
      Place place(i * kLanes / n, i * kLanes % n, view.width);
#pragma unroll
      for (int lane = 0; lane < kLanes; ++lane) {
        lanes[lane] = static_cast<scalar_t>(value(place));
        place.advance(view.height, view.width);
      }
      write_lanes(target + i * kLanes);
    }
    for (int i = vectors * kLanes + thread; i < planes * n; i += kThreads) {
      target[i] = static_cast<scalar_t>(value(Place(i / n, i % n, view.width)));
    }
  } else if (is_aligned(target) && view.position_stride % kLanes == 0 && planes % kLanes == 0) {
    const int vectors = planes / kLanes;
    for (int i = thread; i < vectors * n; i += kThreads) {
      Place place(i % vectors * kLanes, i / vectors, view.width);
      scalar_t* first = target + place.position * view.position_stride + place.plane;
#pragma unroll
      for (int lane = 0; lane < kLanes; ++lane, ++place.plane) {
        lanes[lane] = static_cast<scalar_t>(value(place));
      }
      write_lanes(first);
    }
  } else {
    for (int i = thread; i < planes * n; i += kThreads) {
      const Place place(i % planes, i / planes, view.width);
      target[place.position * view.position_stride + place.plane] = static_cast<scalar_t>(value(place));
    }
  }
}

}  // namespace toplight::cuda
