// Who is on the images, and which gallery images a query does not see.
#pragma once

#include <cstdint>

namespace toplight {

// What happens to a gallery image for a query, by the pair of their cameras.
enum Rule : uint8_t { keep = 0, drop_same_identity = 1, drop_all = 2 };

// Identities and cameras are codes counted from 0.
struct Labels {
  int64_t queries, gallery;         // how many images
  int64_t cameras;                  // all camera codes are below
  const int32_t* query_identity;    // (queries,): a gallery code, or -1: not in the gallery
  const int32_t* gallery_identity;  // (gallery,): below `gallery`
  const int32_t* query_camera;      // (queries,)
  const int32_t* gallery_camera;    // (gallery,)
  const uint8_t* rules;             // (cameras, cameras): Rule of query camera, gallery camera
};

// Throws std::invalid_argument unless every code and rule is in range.
void check(const Labels& labels);

inline Rule rule(const Labels& labels, int64_t query, int64_t image) {
  return Rule(labels.rules[labels.query_camera[query] * labels.cameras + labels.gallery_camera[image]]);
}

inline bool kept(const Labels& labels, int64_t query, int64_t image) {
  const Rule of_cameras = rule(labels, query, image);
  return of_cameras == keep || (of_cameras == drop_same_identity &&
                                labels.query_identity[query] != labels.gallery_identity[image]);
}

}  // namespace toplight
