// k-reciprocal re-ranking: Zhong, Zheng, Cao, Li, "Re-ranking Person Re-identification with k-reciprocal
// Encoding", CVPR 2017, with the constants of the code published beside it.
//
// All images, queries and gallery together, are compared with each other. Every image becomes a sparse vector
// over all images: exp(-d) on its k1-reciprocal neighbours and on those of neighbours that share more than two
// thirds of theirs, scaled to sum 1 and averaged over its k2 nearest images. Two images are as far apart as
// these vectors overlap little (Jaccard), mixed with d. Here d is the squared Euclidean distance divided by
// the greatest one of the query's row.
//
// Memory beside the features: for every image k1 + 1 neighbours and its sparse vector, a few hundred numbers.
// Never images x images.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "distances.h"
#include "ranking.h"

namespace toplight {

struct Reranking {
  int64_t k1;     // size of the reciprocal neighbourhood
  int64_t k2;     // images over which a vector is averaged; 1: not averaged
  double lambda;  // weight of d; 1 - lambda is that of the Jaccard distance
};

template <class T>
class RerankedDistances final : public Distances<T> {
 public:
  // Throws std::domain_error naming the pair if a distance is not finite.
  RerankedDistances(const T* images,  // (queries + gallery, dim), contiguous, the queries first
                    int64_t queries, int64_t gallery, int64_t dim, const Reranking& reranking,
                    const Execution& execution);

  void fill(const int64_t* queries, int64_t query_count, const int64_t* gallery, int64_t gallery_count,
            T* out) const override;

 private:
  // One image and the weight it has in the vector of another.
  using Entry = std::pair<int64_t, T>;
  using Vector = std::vector<Entry>;  // by increasing image

  void find_neighbours(const Execution& execution);
  std::vector<int64_t> reciprocal(int64_t image, int64_t k) const;
  std::vector<int64_t> expanded_neighbours(int64_t image) const;
  Vector encode(int64_t image) const;
  Vector average_over_neighbours(int64_t image, const std::vector<Vector>& vectors, std::vector<T>& sums) const;
  T squared(T distance, int64_t image) const { return distance * distance * inverse_greatest_[image]; }

  int64_t queries_, images_;
  Reranking reranking_;
  int64_t stride_;  // neighbours kept of every image
  FeatureDistances<T> between_images_;
  std::vector<int64_t> neighbours_;    // (images_, stride_): nearest first, the image itself among them
  std::vector<T> inverse_greatest_;    // (images_,): 1 / greatest squared distance of the image to any
  std::vector<Vector> vectors_;        // (images_,)
};

}  // namespace toplight
