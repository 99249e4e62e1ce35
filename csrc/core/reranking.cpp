#include "reranking.h"

#include <algorithm>
#include <cmath>

#include "parallel.h"

namespace toplight {
namespace {

// The same without numbers that would overflow: half of k1 is all images too.
Reranking within(const Reranking& reranking, int64_t images) {
  return {std::min(reranking.k1, 2 * images), std::min(reranking.k2, images + 1), reranking.lambda};
}

}  // namespace

template <class T>
RerankedDistances<T>::RerankedDistances(const T* images, int64_t queries, int64_t gallery, int64_t dim,
                                        const Reranking& reranking, const Execution& execution)
    : queries_(queries),
      images_(queries + gallery),
      reranking_(within(reranking, images_)),
      stride_(std::min(std::max(reranking_.k1 + 1, reranking_.k2), images_)),
      between_images_(images, images_, images, images_, dim, Metric::euclidean) {
  find_neighbours(execution);
  vectors_.resize(images_);
  parallel_for(images_, execution.threads, [&] { return [&](int64_t i) { vectors_[i] = encode(i); }; });
  if (reranking_.k2 == 1) return;
  std::vector<Vector> averaged(images_);
  parallel_for(images_, execution.threads, [&] {
    return [&, sums = std::vector<T>(images_)](int64_t i) mutable {
      averaged[i] = average_over_neighbours(i, vectors_, sums);
    };
  });
  vectors_.swap(averaged);
}

// The nearest of every image among all, which nearest() finds where nobody is filtered.
template <class T>
void RerankedDistances<T>::find_neighbours(const Execution& execution) {
  const std::vector<int32_t> one_for_all(images_, 0);
  const uint8_t keep_all = keep;
  const Labels labels{images_,           images_,           1, one_for_all.data(), one_for_all.data(),
                      one_for_all.data(), one_for_all.data(), &keep_all};
  neighbours_.resize(images_ * stride_);
  inverse_greatest_.resize(images_);
  std::vector<T> distances(images_ * stride_);
  nearest(between_images_, labels, stride_, execution, neighbours_.data(), distances.data(), inverse_greatest_.data());
  for (T& greatest : inverse_greatest_) greatest = greatest > 0 ? 1 / (greatest * greatest) : 0;
}

// Of the k + 1 nearest of an image those that have it among their k + 1 nearest, nearest first.
template <class T>
std::vector<int64_t> RerankedDistances<T>::reciprocal(int64_t image, int64_t k) const {
  const int64_t count = std::min(k + 1, stride_);
  std::vector<int64_t> result;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t other = neighbours_[image * stride_ + i];
    const int64_t* back = &neighbours_[other * stride_];
    if (std::find(back, back + count, image) != back + count) result.push_back(other);
  }
  return result;
}

// The k1-reciprocal neighbours, and the k1/2-reciprocal ones of each of them that has more than two thirds
// of its own in common with them; increasing.
template <class T>
std::vector<int64_t> RerankedDistances<T>::expanded_neighbours(int64_t image) const {
  const int64_t half = std::nearbyint(reranking_.k1 / 2.);  // halves to even, as the published code
  std::vector<int64_t> own = reciprocal(image, reranking_.k1), expanded = own;
  std::sort(own.begin(), own.end());
  for (const int64_t neighbour : own) {
    const std::vector<int64_t> theirs = reciprocal(neighbour, half);
    const auto common = std::count_if(theirs.begin(), theirs.end(), [&](int64_t other) {
      return std::binary_search(own.begin(), own.end(), other);
    });
    if (3 * common > 2 * int64_t(theirs.size())) expanded.insert(expanded.end(), theirs.begin(), theirs.end());
  }
  std::sort(expanded.begin(), expanded.end());
  expanded.erase(std::unique(expanded.begin(), expanded.end()), expanded.end());
  return expanded;
}

template <class T>
typename RerankedDistances<T>::Vector RerankedDistances<T>::encode(int64_t image) const {
  const std::vector<int64_t> others = expanded_neighbours(image);
  std::vector<T> distance(others.size());
  between_images_.fill(&image, 1, others.data(), others.size(), distance.data());
  Vector vector;
  double total = 0;
  for (size_t i = 0; i < others.size(); ++i) {
    vector.emplace_back(others[i], std::exp(-squared(distance[i], image)));
    total += vector.back().second;
  }
  for (Entry& entry : vector) entry.second = T(entry.second / total);
  return vector;
}

template <class T>
typename RerankedDistances<T>::Vector RerankedDistances<T>::average_over_neighbours(
    int64_t image, const std::vector<Vector>& vectors, std::vector<T>& sums) const {
  const int64_t count = std::min(reranking_.k2, stride_);
  std::vector<int64_t> present;
  for (int64_t i = 0; i < count; ++i) {
    for (const auto& [other, weight] : vectors[neighbours_[image * stride_ + i]]) {
      if (sums[other] == 0) present.push_back(other);
      sums[other] += weight;
    }
  }
  std::sort(present.begin(), present.end());
  Vector mean;
  for (const int64_t other : present) {
    mean.emplace_back(other, sums[other] / T(count));
    sums[other] = 0;
  }
  return mean;
}

template <class T>
void RerankedDistances<T>::fill(const int64_t* queries, int64_t query_count, const int64_t* gallery,
                                int64_t gallery_count, T* out) const {
  std::vector<int64_t> images(gallery, gallery + gallery_count);
  for (int64_t& image : images) image += queries_;
  between_images_.fill(queries, query_count, images.data(), gallery_count, out);
  std::vector<T> weights(images_);  // of the query's vector
  const T lambda = T(reranking_.lambda);
  for (int64_t a = 0; a < query_count; ++a) {
    for (const auto& [other, weight] : vectors_[queries[a]]) weights[other] = weight;
    for (const int64_t image : images) {
      T overlap = 0;
      for (const auto& [other, weight] : vectors_[image]) overlap += std::min(weights[other], weight);
      const T jaccard = 1 - overlap / (2 - overlap);
      *out = (1 - lambda) * jaccard + lambda * squared(*out, queries[a]);
      ++out;
    }
    for (const auto& [other, weight] : vectors_[queries[a]]) weights[other] = 0;
  }
}

template class RerankedDistances<float>;
template class RerankedDistances<double>;

}  // namespace toplight
