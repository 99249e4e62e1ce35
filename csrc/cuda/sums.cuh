// Sums of the planes of a run: over w of every row, and over h of every column.
#pragma once

#include "reduce.cuh"
#include "tile.cuh"

namespace toplight::cuda {

// Where a kernel adds up the tiles it reads.
template <typename scalar_t>
struct Summation {
  using T = accumulate_t<scalar_t>;

  bool in_vectors;  // every row of a tile starts on a boundary of a vector
  int row_threads;  // that add up a row
  TileShape shape;

  Summation(const View& view, const Cut& cut) : shape(tile_shape<scalar_t>(view, cut, cut.planes)) {
    in_vectors = !view.channels_inner && cut.width % kLanes<scalar_t> == 0;
    const int units = in_vectors ? cut.width / kLanes<scalar_t> : cut.width;
    // Few threads, since every exchange between them costs as much as reading some values. Of a short row the power of
    // two in its length: then the rows of a warp start on different banks.
    constexpr int kMost = 8;
    row_threads = units > 2 * kMost ? kMost : std::min(units & -units, kMost);
  }

  __device__ static T sum_vector(const scalar_t* first) {
    scalar_t lanes[kLanes<scalar_t>];
    const uint4 vector = *reinterpret_cast<const uint4*>(first);
    std::memcpy(lanes, &vector, kVectorBytes);
    T total = static_cast<T>(lanes[0]);
#pragma unroll
    for (int lane = 1; lane < kLanes<scalar_t>; ++lane) {
      total += static_cast<T>(lanes[lane]);
    }
    return total;
  }

  // target(plane)[row] becomes the sum of a row; planes with target(plane) == nullptr are left out.
  template <typename Target>
  __device__ void rows(
      const scalar_t* tile,
      const Cut& cut,
      const Strip& strip,
      int planes,
      const Target& target) const {
    if (shape.position_pitch != 1) {
      for_lanes(planes, strip.rows, cut.plane_shift, [&](int plane, int row) {
        if (T* const sums = target(plane)) {
          T total = T(0);
          for (int column = 0; column < cut.width; ++column) {
            total += static_cast<T>(tile[shape.at(0, plane, row * cut.width + column)]);
          }
          sums[strip.first_row + row] = total;
        }
      });
      return;
    }
    for_slots(planes * strip.rows, row_threads, [&](int slot, const Group& group, bool active) {
      const int plane = cut.by_height.quotient(slot), row = slot - plane * cut.height;
      T* const sums = active ? target(plane) : nullptr;
      const scalar_t* const first = tile + shape.at(0, plane, row * cut.width);
      const int width = sums != nullptr ? cut.width : 0;
      T total = T(0);
      if (in_vectors) {
        constexpr int kVectorLanes = kLanes<scalar_t>;
        for (int column = group.lane * kVectorLanes; column < width; column += group.width * kVectorLanes) {
          total += sum_vector(first + column);
        }
      } else {
        for (int column = group.lane; column < width; column += group.width) {
          total += static_cast<T>(first[column]);
        }
      }
      total = group.sum(total);
      if (sums != nullptr && group.lane == 0) {
        sums[strip.first_row + row] = total;
      }
    });
  }

  // The strip's part of the sum of a column is added to target(plane)[column]; the first strip sets it.
  template <typename Target>
  __device__ void columns(
      const scalar_t* tile,
      const Cut& cut,
      const Strip& strip,
      int planes,
      T* scratch,  // (kThreads)
      const Target& target) const {
    const auto sum_rows = [&](int plane, int column, int first, int step) {
      T total = T(0);
      for (int row = first; row < strip.rows; row += step) {
        total += static_cast<T>(tile[shape.at(0, plane, row * cut.width + column)]);
      }
      return total;
    };
    const auto add = [&](T& sum, T total) { sum = strip.first_row == 0 ? total : sum + total; };
    if (shape.position_pitch != 1) {
      for_lanes(planes, cut.width, cut.plane_shift, [&](int plane, int column) {
        if (T* const sums = target(plane)) {
          add(sums[column], sum_rows(plane, column, 0, 1));
        }
      });
      return;
    }
    // Where there are fewer columns than threads, every column is shared out among `parts` of them.
    const int units = planes * cut.width, parts = max(kThreads / units, 1), thread = threadIdx.x;
    const int part = parts > 1 ? thread / units : 0;
    for (int first = 0; first < units; first += kThreads) {
      const int unit = first + thread - part * units;
      const int plane = cut.by_width.quotient(unit), column = unit - plane * cut.width;
      T* const sums = unit < units && part < parts ? target(plane) : nullptr;
      T total = sums != nullptr ? sum_rows(plane, column, part, parts) : T(0);
      if (parts > 1) {
        scratch[thread] = total;
        __syncthreads();
        for (int other = 1; part == 0 && other < parts; ++other) {
          total += scratch[unit + other * units];
        }
        __syncthreads();
      }
      if (sums != nullptr && part == 0) {
        add(sums[column], total);
      }
    }
  }
};

// Reads a run strip by strip and adds it up, rows of the planes at `of_rows` and columns of those at `of_columns`,
// which may be the same; ends synchronised.
template <bool kVector, typename scalar_t, typename Rows, typename Columns>
__device__ void sum_run(
    const Summation<scalar_t>& summation,
    const scalar_t* of_rows,
    const scalar_t* of_columns,
    const View& view,
    const Cut& cut,
    int planes,
    scalar_t* tile,  // one run, or two
    accumulate_t<scalar_t>* scratch,  // (kThreads)
    const Rows& rows,
    const Columns& columns) {
  const TileShape& shape = summation.shape;
  scalar_t* const column_tile = of_rows == of_columns ? tile : tile + shape.run_pitch;
  for (int index = 0; index < cut.strips; ++index) {
    const Strip strip = cut.strip(index);
    read_run<kVector>(of_rows, view, cut, strip, planes, shape, tile);
    if (of_rows != of_columns) {
      read_run<kVector>(of_columns, view, cut, strip, planes, shape, column_tile);
    }
    wait_for_copies();
    summation.rows(tile, cut, strip, planes, rows);
    summation.columns(column_tile, cut, strip, planes, scratch, columns);
    __syncthreads();
  }
}

}  // namespace toplight::cuda
