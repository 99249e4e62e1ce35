// Pack: one value of each of several planes, in one vector register. All arithmetic of the CPU kernels runs on packs,
// by the formulas of plane.h, so a result depends neither on the width of the registers nor on the plane's place.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace toplight::cpu {

#if defined(__AVX512F__)
constexpr int64_t kPackBytes = 64;
#elif defined(__AVX2__)
constexpr int64_t kPackBytes = 32;
#else
constexpr int64_t kPackBytes = 16;
#endif

// Vector registers of the compiler, by element type.
template <typename T>
struct Register;
template <>
struct Register<float> {
  typedef float Values __attribute__((vector_size(kPackBytes)));
};
template <>
struct Register<double> {
  typedef double Values __attribute__((vector_size(kPackBytes)));
};

// The values kIndices of a and b, counted through both.
template <typename T, int... kIndices>
typename Register<T>::Values shuffle(typename Register<T>::Values a, typename Register<T>::Values b) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, kIndices...);
#else
  typedef std::conditional_t<sizeof(T) == 4, int32_t, int64_t> Index;
  typedef Index Indices __attribute__((vector_size(kPackBytes)));
  return __builtin_shuffle(a, b, Indices{kIndices...});
#endif
}

template <typename T>
struct Pack {
  static constexpr int64_t kLanes = kPackBytes / sizeof(T);
  using Vector = typename Register<T>::Values;

  Vector v;

  Pack() = default;
  explicit Pack(Vector v) : v(v) {}
  Pack(T value) : v(value - Vector{}) {}

  static Pack load(const T* source) {
    Pack pack;
    std::memcpy(&pack.v, source, kPackBytes);
    return pack;
  }
  void store(T* target) const {
    std::memcpy(target, &v, kPackBytes);
  }

  // The first `count` lanes only; the others are read as 0.
  static Pack load_first(const T* source, int64_t count) {
#if defined(__AVX512F__)
    if constexpr (std::is_same_v<T, float>) {
      return Pack((Vector)_mm512_maskz_loadu_ps((1u << count) - 1, source));
    }
#endif
    Pack pack{T(0)};
    std::memcpy(&pack.v, source, count * sizeof(T));
    return pack;
  }
  void store_first(T* target, int64_t count) const {
#if defined(__AVX512F__)
    if constexpr (std::is_same_v<T, float>) {
      _mm512_mask_storeu_ps(target, (1u << count) - 1, (__m512)v);
      return;
    }
#endif
    std::memcpy(target, &v, count * sizeof(T));
  }

  friend Pack operator+(Pack a, Pack b) {
    return Pack(a.v + b.v);
  }
  friend Pack operator-(Pack a, Pack b) {
    return Pack(a.v - b.v);
  }
  friend Pack operator*(Pack a, Pack b) {
    return Pack(a.v * b.v);
  }
  friend Pack operator/(Pack a, Pack b) {
    return Pack(a.v / b.v);
  }
  Pack& operator+=(Pack other) {
    v += other.v;
    return *this;
  }

  // Lane by lane, where `condition` is above 0, a, else b.
  friend Pack select(Pack condition, Pack a, Pack b) {
    return Pack(condition.v > Vector{} ? a.v : b.v);
  }
  friend Pack larger(Pack a, Pack b) {
    return Pack(a.v > b.v ? a.v : b.v);
  }
  friend Pack sqrt(Pack a) {
#if defined(__AVX512F__)
    if constexpr (std::is_same_v<T, float>) {
      return Pack((Vector)_mm512_sqrt_ps((__m512)a.v));
    }
#elif defined(__AVX2__)
    if constexpr (std::is_same_v<T, float>) {
      return Pack((Vector)_mm256_sqrt_ps((__m256)a.v));
    }
#endif
    return each(a, [](T value) { return std::sqrt(value); });
  }
  // 1 / (1 + exp(-a)), to which plane.h's is equal but for rounding.
  friend Pack sigmoid(Pack a) {
    if constexpr (std::is_same_v<T, float>) {
      // A division is free beside so many other steps; the estimate of a reciprocal and a step of Newton are not.
      return Pack(1.0f) / (Pack(1.0f) + power_of_two(a * -1.44269504f));
    } else {
      return each(a, [](T value) { return T(1) / (T(1) + std::exp(-value)); });
    }
  }

 private:
  template <typename Function>
  static Pack each(Pack a, const Function& function) {
    T values[kLanes];
    a.store(values);
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      values[lane] = function(values[lane]);
    }
    return load(values);
  }

  // 2^a of floats without calls and branches, within 3 ulp, as 2^n * 2^r with n the nearest whole number. 2^r for
  // |r| <= 1/2 is the polynomial with the least relative error there, 9e-8.
  static Pack power_of_two(Pack a) {
#if defined(__AVX512F__)
    // What is too large becomes infinity, what is too small 0; NaN stays NaN.
    const Pack r((Vector)_mm512_reduce_ps((__m512)a.v, _MM_FROUND_TO_NEAREST_INT));  // 0 for infinity
    const Pack n = a - r;
    return Pack((Vector)_mm512_scalef_ps((__m512)two_to_the_fraction(r).v, (__m512)n.v));
#else
    typedef int32_t Bits __attribute__((vector_size(kPackBytes)));
    // 1.5 * 2^23: adding it leaves the nearest whole number in the low bits of the mantissa.
    constexpr float kRound = 12582912.0f;
    constexpr int32_t kOne = 0x3f800000;  // the bits of 1.0f
    a = clamp(a, -126.0f, 126.0f);  // to a normal number, which the sigmoid cannot tell from 0 or infinity
    const Pack shifted = a + kRound;
    const Pack r = a - (shifted - kRound);
    // Multiplied, where n more in the exponent field would make a number of NaN.
    return two_to_the_fraction(r) * Pack((Vector)(((Bits)shifted.v << 23) + kOne));
#endif
  }

  static Pack two_to_the_fraction(Pack r) {
    Pack polynomial = r * 1.32646528e-03f + 9.67151113e-03f;
    polynomial = polynomial * r + 5.55073395e-02f;
    polynomial = polynomial * r + 2.40222424e-01f;
    polynomial = polynomial * r + 6.93147004e-01f;
    return polynomial * r + 1.0f;
  }

#if !defined(__AVX512F__)
  // NaN stays NaN.
  static Pack clamp(Pack a, float least, float most) {
#if defined(__AVX2__)
    return Pack((Vector)_mm256_min_ps(_mm256_set1_ps(most), _mm256_max_ps(_mm256_set1_ps(least), (__m256)a.v)));
#else
    a.v = a.v < least ? Pack(least).v : a.v;
    a.v = a.v > most ? Pack(most).v : a.v;
    return a;
#endif
  }
#endif
};

}  // namespace toplight::cpu
