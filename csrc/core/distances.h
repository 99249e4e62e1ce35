// Where distances come from: two sets of features, or a matrix that somebody else computed.
#pragma once

#include <cstdint>
#include <vector>

namespace toplight {

enum class Metric { cosine, euclidean };

// Distances between queries and gallery images, computed block by block when they are asked for.
template <class T>
class Distances {
 public:
  virtual ~Distances() = default;

  // out[a * gallery_count + b] = distance of query queries[a] to gallery image gallery[b].
  // A pair has the same distance, to the last bit, in whatever block it is asked for: two images tie or
  // do not tie, independently of tiles and threads.
  virtual void fill(const int64_t* queries, int64_t query_count,  // positions in the query set
                    const int64_t* gallery, int64_t gallery_count,  // positions in the gallery
                    T* out) const = 0;
};

// A matrix in memory, one row per query.
template <class T>
class MatrixDistances final : public Distances<T> {
 public:
  MatrixDistances(const T* matrix,        // (queries, columns), contiguous
                  int64_t columns)        // gallery size
      : matrix_(matrix), columns_(columns) {}

  void fill(const int64_t* queries, int64_t query_count, const int64_t* gallery, int64_t gallery_count,
            T* out) const override;

 private:
  const T* matrix_;
  int64_t columns_;
};

// From features. Euclidean: the root of the summed squared differences, never |x|^2 + |y|^2 - 2xy, which
// cancels for near neighbours. Cosine: *minus* the cosine, because 1 - cosine would round different small
// cosines to one number and so make ties that are none.
template <class T>
class FeatureDistances final : public Distances<T> {
 public:
  FeatureDistances(const T* query, int64_t query_count,      // (query_count, dim), contiguous
                   const T* gallery, int64_t gallery_count,  // (gallery_count, dim), contiguous
                   int64_t dim, Metric metric);

  void fill(const int64_t* queries, int64_t query_count, const int64_t* gallery, int64_t gallery_count,
            T* out) const override;

 private:
  const T* query_;
  const T* gallery_;
  int64_t dim_;
  Metric metric_;
  std::vector<T> query_scale_;    // 1 / |query|; empty unless cosine
  std::vector<T> gallery_scale_;  // 1 / |gallery image|; empty unless cosine
};

// The instruction set that FeatureDistances uses on this machine: "avx2+fma" or "baseline".
const char* instruction_set();

}  // namespace toplight
