// Between planes, whose positions lie side by side, and packs, whose lanes are planes: squares of values are turned in
// registers. Every cache line is touched once.
#pragma once

#include <algorithm>

#include "pack.h"

namespace toplight::cpu {

// a0 b0 a1 b1 ...: the packs of two interleaved sets of channels as these lie in memory.
template <typename T>
std::pair<Pack<T>, Pack<T>> interleave(Pack<T> a, Pack<T> b) {
  return [&]<int... k>(std::integer_sequence<int, k...>) {
    constexpr int lanes = Pack<T>::kLanes;
    return std::pair(
        Pack<T>(shuffle<T, (k % 2 * lanes + k / 2)...>(a.v, b.v)),
        Pack<T>(shuffle<T, (k % 2 * lanes + k / 2 + lanes / 2)...>(a.v, b.v)));
  }(std::make_integer_sequence<int, Pack<T>::kLanes>{});
}

// The inverse.
template <typename T>
std::pair<Pack<T>, Pack<T>> separate(Pack<T> low, Pack<T> high) {
  return [&]<int... k>(std::integer_sequence<int, k...>) {
    return std::pair(Pack<T>(shuffle<T, (2 * k)...>(low.v, high.v)), Pack<T>(shuffle<T, (2 * k + 1)...>(low.v, high.v)));
  }(std::make_integer_sequence<int, Pack<T>::kLanes>{});
}

// The units of kUnit values of a and b that kTake names, a's being 0 .. kCount - 1 and b's the next: in every stretch of
// kCount units of the register.
template <typename T, int kUnit, int... kTake>
typename Register<T>::Values take_units(typename Register<T>::Values a, typename Register<T>::Values b) {
  constexpr int take[] = {kTake...}, count = sizeof...(kTake), lanes = Pack<T>::kLanes;
  constexpr auto index = [=](int lane) {
    const int from = take[lane / kUnit % count], start = lane / (kUnit * count) * (kUnit * count);
    return (from < count ? 0 : lanes) + start + from % count * kUnit + lane % kUnit;
  };
  return [&]<int... k>(std::integer_sequence<int, k...>) {
    return shuffle<T, index(k)...>(a, b);
  }(std::make_integer_sequence<int, lanes>{});
}

// Turns the squares of kCount units in kCount rows, `apart` rows after one another.
template <int kCount, int kUnit, typename T>
[[gnu::always_inline]] inline void turn_units(Pack<T>* rows, int apart) {
  if constexpr (kCount == 2) {
    const auto a = rows[0].v, b = rows[apart].v;
    rows[0].v = take_units<T, kUnit, 0, 2>(a, b);
    rows[apart].v = take_units<T, kUnit, 1, 3>(a, b);
  } else if constexpr (kCount == 4) {
    const auto a = rows[0].v, b = rows[apart].v, c = rows[2 * apart].v, d = rows[3 * apart].v;
    const auto ab_low = take_units<T, kUnit, 0, 1, 4, 5>(a, b), ab_high = take_units<T, kUnit, 2, 3, 6, 7>(a, b);
    const auto cd_low = take_units<T, kUnit, 0, 1, 4, 5>(c, d), cd_high = take_units<T, kUnit, 2, 3, 6, 7>(c, d);
    rows[0].v = take_units<T, kUnit, 0, 2, 4, 6>(ab_low, cd_low);
    rows[apart].v = take_units<T, kUnit, 1, 3, 5, 7>(ab_low, cd_low);
    rows[2 * apart].v = take_units<T, kUnit, 0, 2, 4, 6>(ab_high, cd_high);
    rows[3 * apart].v = take_units<T, kUnit, 1, 3, 5, 7>(ab_high, cd_high);
  }
}

// Turns a square of values: what was lane k of row r becomes lane r of row k. First within 16 bytes, which processors
// shuffle with least effort, then by 16 bytes.
template <typename T>
[[gnu::always_inline]] inline void turn(Pack<T> (&rows)[Pack<T>::kLanes]) {
  constexpr int kSize = 16 / sizeof(T), kStretches = kPackBytes / 16;
#pragma GCC unroll 4
  for (int stretch = 0; stretch < kStretches; ++stretch) {
    turn_units<kSize, 1>(rows + stretch * kSize, 1);
  }
#pragma GCC unroll 4
  for (int k = 0; k < kSize; ++k) {
    turn_units<kStretches, kSize>(rows + k, kSize);
  }
}

// How far ahead of what is read or written cache lines are asked for: the planes of a bundle, `apart` values after one
// another, are more places at once than processors foresee. Of a long plane these are its next lines, of a short one
// those of planes to come.
template <typename T>
constexpr int64_t values_ahead(int64_t apart) {
  constexpr int64_t kLongPlane = 768 / sizeof(T), kNear = 256 / sizeof(T), kFar = 4096 / sizeof(T);
  return apart > kLongPlane ? kNear : kFar;
}

// Up to a square of positions of the planes of all lanes, `apart` values after one another, into a tile and back.
template <bool kWhole, typename T>
void turn_square_in(const T* planes, int64_t apart, int64_t ahead, int64_t count, T* tile) {
  constexpr int64_t kLanes = Pack<T>::kLanes;
  Pack<T> rows[kLanes];
#pragma GCC unroll 16
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    const T* source = planes + lane * apart;
    __builtin_prefetch(source + ahead, 0);
    rows[lane] = kWhole ? Pack<T>::load(source) : Pack<T>::load_first(source, count);
  }
  turn(rows);
  if constexpr (kWhole) {
#pragma GCC unroll 16
    for (int64_t i = 0; i < kLanes; ++i) {
      rows[i].store(tile + i * kLanes);
    }
  } else {
    for (int64_t i = 0; i < count; ++i) {
      rows[i].store(tile + i * kLanes);
    }
  }
}

template <bool kWhole, typename T>
void turn_square_out(const T* tile, int64_t count, T* planes, int64_t apart, int64_t ahead) {
  constexpr int64_t kLanes = Pack<T>::kLanes;
  Pack<T> rows[kLanes];
  if constexpr (kWhole) {
#pragma GCC unroll 16
    for (int64_t i = 0; i < kLanes; ++i) {
      rows[i] = Pack<T>::load(tile + i * kLanes);
    }
  } else {
    for (int64_t i = 0; i < count; ++i) {
      rows[i] = Pack<T>::load(tile + i * kLanes);
    }
  }
  turn(rows);
#pragma GCC unroll 16
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    T* target = planes + lane * apart;
    __builtin_prefetch(target + ahead, 1);
    kWhole ? rows[lane].store(target) : rows[lane].store_first(target, count);
  }
}

template <typename T>
void turn_in(const T* planes, int64_t apart, int64_t count, T* tile) {
  constexpr int64_t kLanes = Pack<T>::kLanes;
  const int64_t ahead = values_ahead<T>(apart);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    turn_square_in<true>(planes + i, apart, ahead, kLanes, tile + i * kLanes);
  }
  if (i < count) {
    turn_square_in<false>(planes + i, apart, ahead, count - i, tile + i * kLanes);
  }
}

template <typename T>
void turn_out(const T* tile, int64_t count, T* planes, int64_t apart) {
  constexpr int64_t kLanes = Pack<T>::kLanes;
  const int64_t ahead = values_ahead<T>(apart);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    turn_square_out<true>(tile + i * kLanes, kLanes, planes + i, apart, ahead);
  }
  if (i < count) {
    turn_square_out<false>(tile + i * kLanes, count - i, planes + i, apart, ahead);
  }
}

// The same for planes of any type, converted a piece at a time.
constexpr int64_t kPiece = 64;  // positions

template <typename T, typename scalar_t>
void turn_in_as(const scalar_t* planes, int64_t apart, int64_t count, T* tile) {
  constexpr int64_t kLanes = Pack<T>::kLanes;
  if constexpr (std::is_same_v<T, scalar_t>) {
    turn_in(planes, apart, count, tile);
  } else {
    T values[kLanes * kPiece];
    for (int64_t start = 0; start < count; start += kPiece) {
      const int64_t length = std::min(kPiece, count - start);
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        for (int64_t i = 0; i < length; ++i) {
          values[lane * kPiece + i] = static_cast<T>(planes[lane * apart + start + i]);
        }
      }
      turn_in(values, kPiece, length, tile + start * kLanes);
    }
  }
}

template <typename T, typename scalar_t>
void turn_out_as(const T* tile, int64_t count, scalar_t* planes, int64_t apart) {
  constexpr int64_t kLanes = Pack<T>::kLanes;
  if constexpr (std::is_same_v<T, scalar_t>) {
    turn_out(tile, count, planes, apart);
  } else {
    T values[kLanes * kPiece];
    for (int64_t start = 0; start < count; start += kPiece) {
      const int64_t length = std::min(kPiece, count - start);
      turn_out(tile + start * kLanes, length, values, kPiece);
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        for (int64_t i = 0; i < length; ++i) {
          planes[lane * apart + start + i] = static_cast<scalar_t>(values[lane * kPiece + i]);
        }
      }
    }
  }
}

}  // namespace toplight::cpu
