#include "ranking.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>

#include "gaps.h"
#include "parallel.h"

namespace toplight {
namespace {

// Throws std::domain_error naming the first pair whose distance is not finite.
template <class T>
void check_finite(const T* distances, int64_t query, const int64_t* images, int64_t count) {
  // No early exit, so that the compiler can look at several at once.
  bool finite = true;
  for (int64_t i = 0; i < count; ++i) finite &= std::abs(distances[i]) <= std::numeric_limits<T>::max();
  if (finite) return;
  const T* bad = std::find_if(distances, distances + count, [](T distance) { return !std::isfinite(distance); });
  throw std::domain_error("the distance of query " + std::to_string(query) + " to gallery image " +
                          std::to_string(images[bad - distances]) + " is not finite");
}

// Gallery positions in increasing order, identity by identity.
class ByIdentity {
 public:
  explicit ByIdentity(const Labels& labels) : start_(labels.gallery + 1), image_(labels.gallery) {
    for (int64_t j = 0; j < labels.gallery; ++j) ++start_[labels.gallery_identity[j] + 1];
    std::partial_sum(start_.begin(), start_.end(), start_.begin());
    std::vector<int64_t> next(start_.begin(), start_.end());
    for (int64_t j = 0; j < labels.gallery; ++j) image_[next[labels.gallery_identity[j]]++] = j;
  }

  const int64_t* images(int32_t identity) const { return image_.data() + (identity < 0 ? 0 : start_[identity]); }
  int64_t count(int32_t identity) const { return identity < 0 ? 0 : start_[identity + 1] - start_[identity]; }

 private:
  std::vector<int64_t> start_, image_;
};

// One query while the gallery passes it tile by tile.
template <class T>
class QueryRanks {
 public:
  // Finds the positives. They and the images dropped for their identity are all that needs to be known of
  // the query's own identity; take() then need not look at identities or cameras.
  void begin(const Distances<T>& distances, const Labels& labels, const ByIdentity& by_identity, int64_t query,
             bool distinct_identities) {
    query_ = query;
    const int32_t identity = labels.query_identity[query];
    const int64_t* images = by_identity.images(identity);
    const int64_t count = by_identity.count(identity);
    own_.resize(count);
    distances.fill(&query, 1, images, count, own_.data());
    positives_.clear();
    check_finite(own_.data(), query, images, count);
    for (int64_t i = 0; i < count; ++i) {
      if (rule(labels, query, images[i]) == keep) positives_.emplace_back(own_[i], images[i]);
    }
    if (positives_.empty()) return;

    std::sort(positives_.begin(), positives_.end());
    gaps_.assign(positives_);
    before_.assign(positives_.size() + 1, 0);
    bucket_.resize(count);
    gaps_.find_buckets(own_.data(), count, bucket_.data());
    for (int64_t i = 0; i < count; ++i) {
      if (rule(labels, query, images[i]) == drop_same_identity) --before_[gaps_.find(own_[i], bucket_[i], images[i])];
    }
    seen_.assign(distinct_identities ? labels.gallery : 0, 0);
    if (distinct_identities) seen_[identity] = 1;
    identities_before_ = 0;
  }

  int64_t query() const { return query_; }
  bool has_positives() const { return !positives_.empty(); }

  void take(const Labels& labels, const int64_t* images, const T* distance, int64_t count) {
    check_finite(distance, query_, images, count);
    bucket_.resize(count);
    gaps_.find_buckets(distance, count, bucket_.data());
    const bool distinct = !seen_.empty();
    for (int64_t i = 0; i < count; ++i) {
      const size_t g = gaps_.find(distance[i], bucket_[i], images[i]);
      ++before_[g];
      if (distinct && g == 0) {
        uint8_t& seen = seen_[labels.gallery_identity[images[i]]];
        identities_before_ += !seen;
        seen = 1;
      }
    }
  }

  void finish(double* average_precision, double* inverse_negative_penalty, int64_t* first_rank) const {
    const int64_t count = positives_.size();
    int64_t images_before = 0;
    double precisions = 0;
    for (int64_t k = 0; k < count; ++k) {
      images_before += before_[k];
      precisions += double(k + 1) / double(images_before + 1);
    }
    *average_precision = precisions / double(count);
    *inverse_negative_penalty = double(count) / double(images_before + 1);
    *first_rank = 1 + (seen_.empty() ? before_[0] : identities_before_);
  }

 private:
  int64_t query_ = 0;
  std::vector<T> own_;                            // distances of the images of the query's identity
  std::vector<std::pair<T, int64_t>> positives_;  // distance and gallery position, in rank order
  Gaps<T> gaps_;
  std::vector<int32_t> bucket_;                   // of the distances at hand
  std::vector<int64_t> before_;                   // [k]: images after positive k - 1 (itself too) and before positive k
  std::vector<uint8_t> seen_;                     // identities before the first positive; empty: images are counted
  int64_t identities_before_ = 0;
};

// The nearest images of one query, and the distance of the farthest, while the gallery passes it tile by tile.
template <class T>
class QueryNearest {
 public:
  void begin(int64_t query) {
    query_ = query;
    farthest_ = std::numeric_limits<T>::quiet_NaN();
    heap_.clear();
  }

  int64_t query() const { return query_; }
  T farthest() const { return farthest_; }

  void take(const Labels& labels, const int64_t* images, const T* distance, int64_t count, size_t top) {
    check_finite(distance, query_, images, count);
    for (int64_t i = 0; i < count; ++i) {
      const std::pair<T, int64_t> image(distance[i], images[i]);
      const bool near = heap_.size() < top || image < heap_.front();
      const bool far = !(distance[i] <= farthest_);  // true at first, when it is NaN
      if ((!near && !far) || !kept(labels, query_, images[i])) continue;
      if (far) farthest_ = distance[i];
      if (!near) continue;
      if (heap_.size() == top) {
        std::pop_heap(heap_.begin(), heap_.end());
        heap_.pop_back();
      }
      heap_.push_back(image);
      std::push_heap(heap_.begin(), heap_.end());
    }
  }

  void finish(size_t top, int64_t* gallery, T* distance) {
    std::sort_heap(heap_.begin(), heap_.end());
    for (size_t i = 0; i < top; ++i) {
      const bool present = i < heap_.size();
      gallery[i] = present ? heap_[i].second : -1;
      distance[i] = present ? heap_[i].first : std::numeric_limits<T>::quiet_NaN();
    }
  }

 private:
  int64_t query_ = 0;
  T farthest_ = 0;
  std::vector<std::pair<T, int64_t>> heap_;  // the worst of the nearest in front
};

// Up to a tile of queries of one camera, which therefore see the same gallery images.
struct Block {
  int32_t camera;
  std::vector<int64_t> queries;
};

std::vector<Block> blocks(const Labels& labels, int64_t tile) {
  std::vector<Block> result;
  std::vector<int64_t> open(labels.cameras, -1);  // the block of each camera that is not full
  for (int64_t q = 0; q < labels.queries; ++q) {
    const int32_t camera = labels.query_camera[q];
    int64_t& block = open[camera];
    if (block < 0 || int64_t(result[block].queries.size()) == tile) {
      block = result.size();
      result.push_back({camera, {}});
    }
    result[block].queries.push_back(q);
  }
  return result;
}

// Gallery images that a query of this camera sees, its identity aside.
std::vector<int64_t> images_seen_by(const Labels& labels, int32_t camera) {
  std::vector<int64_t> images;
  const uint8_t* rules = labels.rules + camera * labels.cameras;
  for (int64_t j = 0; j < labels.gallery; ++j) {
    if (rules[labels.gallery_camera[j]] != drop_all) images.push_back(j);
  }
  return images;
}

// Begins every query of every block, passes the gallery tile by tile under those for which begin() is true,
// and finishes them.
template <class Query, class T, class Begin, class Take, class Finish>
void pass_gallery(const Distances<T>& distances, const Labels& labels, const Execution& execution,
                  const Begin& begin, const Take& take, const Finish& finish) {
  const std::vector<Block> all = blocks(labels, execution.query_tile);
  parallel_for(all.size(), execution.threads, [&] {
    return [&, states = std::vector<Query>(), buffer = std::vector<T>()](int64_t b) mutable {
      std::vector<int64_t> active;
      states.resize(std::max(states.size(), all[b].queries.size()));
      for (const int64_t q : all[b].queries) {
        if (begin(states[active.size()], q)) active.push_back(q);
      }
      const std::vector<int64_t> images = images_seen_by(labels, all[b].camera);
      const int64_t total = active.empty() ? 0 : images.size();
      for (int64_t first = 0; first < total; first += execution.gallery_tile) {
        const int64_t count = std::min(execution.gallery_tile, total - first);
        buffer.resize(active.size() * count);
        distances.fill(active.data(), active.size(), images.data() + first, count, buffer.data());
        for (size_t a = 0; a < active.size(); ++a) {
          take(states[a], images.data() + first, buffer.data() + a * count, count);
        }
      }
      for (size_t a = 0; a < active.size(); ++a) finish(states[a]);
    };
  });
}

}  // namespace

template <class T>
void rank(const Distances<T>& distances, const Labels& labels, bool distinct_identities, const Execution& execution,
          double* average_precision, double* inverse_negative_penalty, int64_t* first_rank) {
  using Query = QueryRanks<T>;
  const ByIdentity by_identity(labels);
  std::fill_n(average_precision, labels.queries, 0);
  std::fill_n(inverse_negative_penalty, labels.queries, 0);
  std::fill_n(first_rank, labels.queries, 0);
  pass_gallery<Query>(
      distances, labels, execution,
      [&](Query& query, int64_t q) {
        query.begin(distances, labels, by_identity, q, distinct_identities);
        return query.has_positives();
      },
      [&](Query& query, const int64_t* images, const T* distance, int64_t count) {
        query.take(labels, images, distance, count);
      },
      [&](const Query& query) {
        const int64_t q = query.query();
        query.finish(average_precision + q, inverse_negative_penalty + q, first_rank + q);
      });
}

template <class T>
void nearest(const Distances<T>& distances, const Labels& labels, int64_t top, const Execution& execution,
             int64_t* gallery, T* distance, T* farthest) {
  using Query = QueryNearest<T>;
  pass_gallery<Query>(
      distances, labels, execution,
      [&](Query& query, int64_t q) {
        query.begin(q);
        return true;
      },
      [&](Query& query, const int64_t* images, const T* row, int64_t count) {
        query.take(labels, images, row, count, top);
      },
      [&](Query& query) {
        const int64_t q = query.query();
        query.finish(top, gallery + q * top, distance + q * top);
        if (farthest) farthest[q] = query.farthest();
      });
}

#define TOPLIGHT_INSTANTIATE(T)                                                                              \
  template void rank<T>(const Distances<T>&, const Labels&, bool, const Execution&, double*, double*, int64_t*); \
  template void nearest<T>(const Distances<T>&, const Labels&, int64_t, const Execution&, int64_t*, T*, T*);
TOPLIGHT_INSTANTIATE(float)
TOPLIGHT_INSTANTIATE(double)

}  // namespace toplight
