// Moving runs of maps: from memory into tiles, and from registers to memory.
#pragma once

#include "map.cuh"

namespace toplight::cuda {

// Calls body(lane, position) for `lanes` neighbours at every position of a strip: 2^shift threads side by side take the
// lanes, so that nothing is divided.
template <typename Body>
__device__ void for_lanes(int lanes, int positions, int shift, const Body& body) {
  const int beside = 1 << shift;
  for (int lane = threadIdx.x & (beside - 1); lane < lanes; lane += beside) {
    for (int position = threadIdx.x >> shift; position < positions; position += kThreads >> shift) {
      body(lane, position);
    }
  }
}

template <typename scalar_t>
constexpr int kLaneShift = kLanes<scalar_t> == 8 ? 3 : kLanes<scalar_t> == 4 ? 2 : 1;

// Copies a strip of `planes` channels at `source`, the first value of the run, to `tile`; wait_for_copies() follows.
// kVector: source is as in_vectors() says.
template <bool kVector, typename scalar_t>
__device__ void read_run(
    const scalar_t* source,
    const View& view,
    const Cut& cut,
    const Strip& strip,
    int planes,
    const TileShape& shape,
    scalar_t* tile) {
  const int positions = strip.rows * cut.width;
  source += strip.first_row * view.height_stride;
  if constexpr (kVector) {
    constexpr int kVectorLanes = kLanes<scalar_t>;
    if (view.channels_inner) {
      for_lanes(planes / kVectorLanes, positions, max(cut.plane_shift - kLaneShift<scalar_t>, 0), [&](int lane, int i) {
        const int plane = lane * kVectorLanes;
        copy_vector(tile + shape.at(0, plane, i), source + i * view.position_stride + plane);
      });
    } else {
      for (int i = threadIdx.x * kVectorLanes; i < planes * positions; i += kThreads * kVectorLanes) {
        copy_vector(tile + i, source + i);
      }
    }
  } else {
    const auto copy = [&](int plane, int position) {
      const int row = cut.by_width.quotient(position), column = position - row * cut.width;
      tile[shape.at(0, plane, position)] = source[plane * view.channel_stride + view.offset_in_plane(row, column)];
    };
    if (view.channels_inner) {
      for_lanes(planes, positions, cut.plane_shift, copy);
    } else {
      for (int i = threadIdx.x; i < planes * positions; i += kThreads) {
        const int plane = cut.by_positions.quotient(i);
        copy(plane, i - plane * cut.positions());
      }
    }
  }
}

// A value of a strip of a run: plane, position within the strip, and row and column of the plane.
struct Place {
  int plane, position, row, column;

  __device__ Place(const Cut& cut, const Strip& strip, int plane, int position) : plane(plane), position(position) {
    const int row_of_strip = cut.by_width.quotient(position);
    row = strip.first_row + row_of_strip;
    column = position - row_of_strip * cut.width;
  }

  // The next position, or the first of the next plane.
  __device__ void advance(const Cut& cut) {
    ++column;
    if (column == cut.width) {
      column = 0;
      ++row;
    }
    if (++position == cut.positions()) {
      position = row = column = 0;
      ++plane;
    }
  }
};

// The value at index i of a strip of planes that lie one after the other; only single planes come in several strips.
__device__ inline Place place_of(const Cut& cut, const Strip& strip, int i) {
  const int plane = cut.by_positions.quotient(i);
  return Place(cut, strip, plane, i - plane * cut.positions());
}

// Writes value(place) to a strip of `planes` channels at `target`, the first value of the run, in a dense map.
// `uniform`: within a vector of neighbouring positions only `position` and `column` change as far as value() sees,
// which saves looking for the ends of rows and planes.
template <bool kVector, typename scalar_t, typename Value>
__device__ void write_run(
    scalar_t* target,
    const View& view,
    const Cut& cut,
    const Strip& strip,
    int planes,
    bool uniform,
    const Value& value) {
  const int positions = strip.rows * cut.width;
  target += strip.first_row * view.height_stride;
  if constexpr (kVector) {
    constexpr int kVectorLanes = kLanes<scalar_t>;
    scalar_t lanes[kVectorLanes];
    if (view.channels_inner) {
      const int shift = max(cut.plane_shift - kLaneShift<scalar_t>, 0);
      for_lanes(planes / kVectorLanes, positions, shift, [&](int first, int position) {
        Place place(cut, strip, first * kVectorLanes, position);
        scalar_t* const vector = target + position * view.position_stride + place.plane;
#pragma unroll
        for (int lane = 0; lane < kVectorLanes; ++lane, ++place.plane) {
          lanes[lane] = static_cast<scalar_t>(value(place));
        }
        write_vector(vector, lanes);
      });
      return;
    }
    const auto write_planes = [&](const auto& advance) {
      for (int i = threadIdx.x * kVectorLanes; i < planes * positions; i += kThreads * kVectorLanes) {
        Place place = place_of(cut, strip, i);
#pragma unroll
        for (int lane = 0; lane < kVectorLanes; ++lane) {
          lanes[lane] = static_cast<scalar_t>(value(place));
          advance(place);
        }
        write_vector(target + i, lanes);
      }
    };
    if (uniform) {
      write_planes([](Place& place) { ++place.position, ++place.column; });
    } else {
      write_planes([&](Place& place) { place.advance(cut); });
    }
  } else if (view.channels_inner) {
    for_lanes(planes, positions, cut.plane_shift, [&](int plane, int position) {
      const Place place(cut, strip, plane, position);
      target[position * view.position_stride + plane] = static_cast<scalar_t>(value(place));
    });
  } else {
    for (int i = threadIdx.x; i < planes * positions; i += kThreads) {
      target[i] = static_cast<scalar_t>(value(place_of(cut, strip, i)));
    }
  }
}

}  // namespace toplight::cuda
