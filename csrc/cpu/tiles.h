// Tiles: how the CPU kernels read and write maps. The tile of a bundle is dense, (positions, lanes), and lies in the
// cache, whatever type and strides the map has. Kernels compute on tiles only; what depends on the layout is here,
// chosen by the strides:
//   channels side by side: a pack is read or written as it lies;
//   positions side by side: squares of planes by positions are turned in registers;
//   anything else: value by value.
#pragma once

#include <span>

#include "bundles.h"
#include "turn.h"

namespace toplight::cpu {

// Rows of a map: from `begin` up to `end`.
struct Rows {
  int64_t begin, end;
};
constexpr Rows kOneRow{0, 1};

// Vectors (B, C, n) as maps of one row.
inline Map row_map(const Tensor& vectors) {
  const auto n = vectors.sizes();
  const auto s = vectors.strides();
  return {n[0], n[1], 1, n[2], s[0], s[1], 0, s[2]};
}

inline bool dense_positions(const Map& map) {
  return (map.width == 1 || map.width_stride == 1) &&
      (map.height == 1 || map.height_stride == (map.width == 1 ? 1 : map.width));
}

template <typename T, typename scalar_t>
Pack<T> load_as(const scalar_t* source) {
  if constexpr (std::is_same_v<T, scalar_t>) {
    return Pack<T>::load(source);
  } else {
    T values[Pack<T>::kLanes];
    for (int64_t lane = 0; lane < Pack<T>::kLanes; ++lane) {
      values[lane] = static_cast<T>(source[lane]);
    }
    return Pack<T>::load(values);
  }
}

template <typename T, typename scalar_t>
void store_as(Pack<T> pack, scalar_t* target) {
  if constexpr (std::is_same_v<T, scalar_t>) {
    pack.store(target);
  } else {
    T values[Pack<T>::kLanes];
    pack.store(values);
    for (int64_t lane = 0; lane < Pack<T>::kLanes; ++lane) {
      target[lane] = static_cast<scalar_t>(values[lane]);
    }
  }
}

// Which of the ways above serves bundles of these lanes.
enum class Access { kChannels, kPairs, kPositions, kValues };

// All bundles are of one kind.
template <typename T>
Access access_of(const Map& map, std::span<const Lanes> bundles) {
  const Lanes& lanes = bundles.front();
  if (lanes.count() < Pack<T>::kLanes) {
    return Access::kValues;
  }
  if (map.channel_stride == 1) {
    // Step 2: of two interleaved halves, bundle j of the first and bundle j of the second fill one run.
    return lanes.step == 1 ? Access::kChannels : Access::kPairs;
  }
  return dense_positions(map) ? Access::kPositions : Access::kValues;
}

// body(i, offset) for the positions of the rows, i counted from the first.
template <typename Body>
void for_positions(const Map& map, Rows rows, const Body& body) {
  int64_t i = 0;
  for (int64_t h = rows.begin; h < rows.end; ++h) {
    for (int64_t w = 0; w < map.width; ++w, ++i) {
      body(i, h * map.height_stride + w * map.width_stride);
    }
  }
}

// How far ahead in a map with its channels side by side cache lines are asked for: the next position lies too far away
// for processors to foresee.
constexpr int64_t kPositionsAhead = 8;

// Asks for the cache lines of a bundle of one image, so that they come while something else is computed. Of two
// interleaved bundles, which lie in one run, the first asks for the first half of it and the second for the other.
// Inlined, since gcc takes a function that does nothing else for one without effect and leaves its calls out.
template <bool kWrite, typename scalar_t>
[[gnu::always_inline]] inline void ask_for(const scalar_t* image, const Map& map, const Lanes& lanes) {
  constexpr int64_t kLine = 64 / sizeof(scalar_t);
  const int64_t first = lanes.first + lanes.first % lanes.step * (lanes.count() - 1);
  const scalar_t* run = image + first * map.channel_stride;
  if (map.channel_stride == 1) {
    for_positions(map, {0, map.height}, [&](int64_t, int64_t offset) { __builtin_prefetch(run + offset, kWrite); });
  } else if (dense_positions(map) && map.channel_stride == map.positions()) {
    // Line after line, which processors foresee as well.
    for (int64_t i = 0; i < lanes.count() * map.positions(); i += kLine) {
      __builtin_prefetch(run + i, kWrite);
    }
  }
}

// Reads the bundles of one image, at `image`, to tiles (bundles, positions of the rows, lanes).
template <typename T, typename scalar_t>
void read_tiles(const scalar_t* image, const Map& map, std::span<const Lanes> bundles, Rows rows, T* tiles) {
  constexpr int64_t kLanes = Pack<T>::kLanes;
  const int64_t count = bundles.size(), positions = (rows.end - rows.begin) * map.width, size = positions * kLanes;
  const int64_t ahead = kPositionsAhead * map.width_stride;
  switch (access_of<T>(map, bundles)) {
    case Access::kChannels:
      for_positions(map, rows, [&](int64_t i, int64_t offset) {
        for (int64_t j = 0; j < count; ++j) {
          const scalar_t* source = image + offset + bundles[j].first;
          __builtin_prefetch(source + ahead, 0);
          load_as<T>(source).store(tiles + j * size + i * kLanes);
        }
      });
      return;
    case Access::kPairs:
      for_positions(map, rows, [&](int64_t i, int64_t offset) {
        for (int64_t j = 0; j < count / 2; ++j) {
          const scalar_t* source = image + offset + bundles[j].first;
          __builtin_prefetch(source + ahead, 0);
          __builtin_prefetch(source + ahead + kLanes, 0);
          T* even = tiles + j * size + i * kLanes;
          const auto [a, b] = separate(load_as<T>(source), load_as<T>(source + kLanes));
          a.store(even);
          b.store(even + count / 2 * size);
        }
      });
      return;
    case Access::kPositions:
      for (int64_t j = 0; j < count; ++j) {
        const scalar_t* planes = image + bundles[j].first * map.channel_stride + rows.begin * map.width;
        turn_in_as(planes, bundles[j].step * map.channel_stride, positions, tiles + j * size);
      }
      return;
    case Access::kValues:
      for (int64_t j = 0; j < count; ++j) {
        for (int64_t lane = 0; lane < kLanes; ++lane) {
          const scalar_t* plane = image + bundles[j].channel(lane) * map.channel_stride;
          for_positions(map, rows, [&](int64_t i, int64_t offset) {
            tiles[j * size + i * kLanes + lane] = static_cast<T>(plane[offset]);
          });
        }
      }
  }
}

template <typename T, typename scalar_t>
void write_tiles(const T* tiles, std::span<const Lanes> bundles, Rows rows, const Map& map, scalar_t* image) {
  constexpr int64_t kLanes = Pack<T>::kLanes;
  const int64_t count = bundles.size(), positions = (rows.end - rows.begin) * map.width, size = positions * kLanes;
  const int64_t ahead = kPositionsAhead * map.width_stride;
  switch (access_of<T>(map, bundles)) {
    case Access::kChannels:
      for_positions(map, rows, [&](int64_t i, int64_t offset) {
        for (int64_t j = 0; j < count; ++j) {
          scalar_t* target = image + offset + bundles[j].first;
          __builtin_prefetch(target + ahead, 1);
          store_as(Pack<T>::load(tiles + j * size + i * kLanes), target);
        }
      });
      return;
    case Access::kPairs:
      for_positions(map, rows, [&](int64_t i, int64_t offset) {
        for (int64_t j = 0; j < count / 2; ++j) {
          const T* even = tiles + j * size + i * kLanes;
          scalar_t* target = image + offset + bundles[j].first;
          __builtin_prefetch(target + ahead, 1);
          __builtin_prefetch(target + ahead + kLanes, 1);
          const auto [low, high] = interleave(Pack<T>::load(even), Pack<T>::load(even + count / 2 * size));
          store_as(low, target);
          store_as(high, target + kLanes);
        }
      });
      return;
    case Access::kPositions:
      for (int64_t j = 0; j < count; ++j) {
        scalar_t* planes = image + bundles[j].first * map.channel_stride + rows.begin * map.width;
        turn_out_as(tiles + j * size, positions, planes, bundles[j].step * map.channel_stride);
      }
      return;
    case Access::kValues:
      for (int64_t j = 0; j < count; ++j) {
        for (int64_t lane = bundles[j].begin; lane < bundles[j].end; ++lane) {
          scalar_t* plane = image + bundles[j].channel(lane) * map.channel_stride;
          for_positions(map, rows, [&](int64_t i, int64_t offset) {
            plane[offset] = static_cast<scalar_t>(tiles[j * size + i * kLanes + lane]);
          });
        }
      }
  }
}

}  // namespace toplight::cpu
