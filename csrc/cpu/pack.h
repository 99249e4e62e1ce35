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
  friend Pack operator-(Pack a) {
    return Pack(-a.v);
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
  friend Pack reciprocal(Pack a) {
#if defined(__AVX512F__)
    if constexpr (std::is_same_v<T, float>) {
      // A quarter of the time of a division; one step of Newton doubles the 14 bits of the estimate.
      const Pack estimate((Vector)_mm512_rcp14_ps((__m512)a.v));
      return estimate * (Pack(T(2)) - a * estimate);
    }
#endif
    return Pack(T(1)) / a;
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
  friend Pack exp(Pack a) {
    if constexpr (std::is_same_v<T, float>) {
      return fast_exp(a);
    } else {
      return each(a, [](T value) { return std::exp(value); });
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

  // exp of floats without calls and branches, within 2 ulp. Arguments are clamped to where the result is a normal
  // number, which the sigmoid cannot tell from 0 or infinity.
  // exp(a) = 2^n * exp(r) with n = round(a / ln 2) and |r| <= ln(2) / 2; ln 2 is split into two so that n * ln 2 loses
  // no digits (Cody and Waite), and exp(r) is its Taylor polynomial, whose next term is below half an ulp.
  static Pack fast_exp(Pack a) {
    typedef int32_t Bits __attribute__((vector_size(kPackBytes)));
    constexpr float kLog2E = 1.44269504f, kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
    constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves the rounded integer in the low mantissa bits
    a = clamp(a, -87.0f, 88.0f);
    const Pack shifted = a * kLog2E + kRound;
    const Pack n = shifted - kRound;
    const Pack r = (a - n * kLn2High) - n * kLn2Low;
    Pack polynomial = r * (1.0f / 5040) + 1.0f / 720;
    polynomial = polynomial * r + 1.0f / 120;
    polynomial = polynomial * r + 1.0f / 24;
    polynomial = polynomial * r + 1.0f / 6;
    polynomial = polynomial * r + 0.5f;
    polynomial = polynomial * r + 1.0f;
    polynomial = polynomial * r + 1.0f;
    return Pack((Vector)((Bits)polynomial.v + ((Bits)shifted.v << 23)));  // times 2^n: n more in the exponent field
  }

  // NaN stays NaN.
  static Pack clamp(Pack a, float least, float most) {
#if defined(__AVX512F__)
    return Pack((Vector)_mm512_min_ps(_mm512_set1_ps(most), _mm512_max_ps(_mm512_set1_ps(least), (__m512)a.v)));
#elif defined(__AVX2__)
    return Pack((Vector)_mm256_min_ps(_mm256_set1_ps(most), _mm256_max_ps(_mm256_set1_ps(least), (__m256)a.v)));
#else
    a.v = a.v < least ? Pack(least).v : a.v;
    a.v = a.v > most ? Pack(most).v : a.v;
    return a;
#endif
  }
};

}  // namespace toplight::cpu
