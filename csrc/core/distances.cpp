#include "distances.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace toplight {
namespace {

// Pairs that are summed at once: the 12 sums, 3 query and 1 gallery vectors fill the 16 registers of AVX2,
// and 7 loads serve 12 multiplications.
constexpr int block_queries = 3;
constexpr int block_gallery = 4;

namespace baseline {
#include "distance_block.inl"
}

#if defined(__x86_64__) && defined(__GNUC__)
#define TOPLIGHT_HAS_AVX2 1
// The compiler vectorises for the instruction set of the function that it compiles, so the block is
// compiled a second time rather than called through a wrapper.
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
namespace avx2 {
#include "distance_block.inl"
}
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

bool has_avx2() {
#ifdef TOPLIGHT_HAS_AVX2
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return false;
#endif
}

template <class T>
using BlockSums = void (*)(const T* const*, const T* const*, int64_t, T*);

template <class T>
BlockSums<T> block_sums(Metric metric) {
  const bool euclidean = metric == Metric::euclidean;
#ifdef TOPLIGHT_HAS_AVX2
  if (has_avx2()) return euclidean ? avx2::block_sums<true, T> : avx2::block_sums<false, T>;
#endif
  return euclidean ? baseline::block_sums<true, T> : baseline::block_sums<false, T>;
}

template <class T>
std::vector<T> inverse_lengths(const T* rows, int64_t count, int64_t dim) {
  std::vector<T> scale(count);
  for (int64_t i = 0; i < count; ++i) {
    double square = 0;
    for (int64_t k = 0; k < dim; ++k) square += double(rows[i * dim + k]) * double(rows[i * dim + k]);
    scale[i] = T(1 / std::sqrt(square));
  }
  return scale;
}

// Rows of the images at `positions`; past the last one it is repeated, so that every block is full.
template <class T, int size>
void gather(const T* rows, int64_t dim, const int64_t* positions, int64_t count, const T* (&out)[size]) {
  for (int64_t i = 0; i < size; ++i) out[i] = rows + positions[std::min(i, count - 1)] * dim;
}

}  // namespace

const char* instruction_set() { return has_avx2() ? "avx2+fma" : "baseline"; }

template <class T>
void MatrixDistances<T>::fill(const int64_t* queries, int64_t query_count, const int64_t* gallery,
                              int64_t gallery_count, T* out) const {
  for (int64_t a = 0; a < query_count; ++a) {
    const T* row = matrix_ + queries[a] * columns_;
    for (int64_t b = 0; b < gallery_count; ++b) *out++ = row[gallery[b]];
  }
}

template <class T>
FeatureDistances<T>::FeatureDistances(const T* query, int64_t query_count, const T* gallery, int64_t gallery_count,
                                      int64_t dim, Metric metric)
    : query_(query), gallery_(gallery), dim_(dim), metric_(metric) {
  if (metric == Metric::cosine) {
    query_scale_ = inverse_lengths(query, query_count, dim);
    gallery_scale_ = inverse_lengths(gallery, gallery_count, dim);
  }
}

template <class T>
void FeatureDistances<T>::fill(const int64_t* queries, int64_t query_count, const int64_t* gallery,
                               int64_t gallery_count, T* out) const {
  const BlockSums<T> sums = block_sums<T>(metric_);
  const T *query_rows[block_queries], *gallery_rows[block_gallery];
  T sum[block_queries * block_gallery];
  // Gallery rows outside: four of them stay in the first-level cache while all queries of the tile pass.
  for (int64_t b = 0; b < gallery_count; b += block_gallery) {
    gather(gallery_, dim_, gallery + b, gallery_count - b, gallery_rows);
    for (int64_t a = 0; a < query_count; a += block_queries) {
      gather(query_, dim_, queries + a, query_count - a, query_rows);
      sums(query_rows, gallery_rows, dim_, sum);
      for (int64_t i = 0; i < std::min<int64_t>(block_queries, query_count - a); ++i) {
        for (int64_t j = 0; j < std::min<int64_t>(block_gallery, gallery_count - b); ++j) {
          const T s = sum[i * block_gallery + j];
          out[(a + i) * gallery_count + b + j] = metric_ == Metric::euclidean
              ? std::sqrt(s)
              : -(s * query_scale_[queries[a + i]] * gallery_scale_[gallery[b + j]]);
        }
      }
    }
  }
}

template class MatrixDistances<float>;
template class MatrixDistances<double>;
template class FeatureDistances<float>;
template class FeatureDistances<double>;

}  // namespace toplight
