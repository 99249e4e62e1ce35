#include "labels.h"

#include <stdexcept>
#include <string>

namespace toplight {
namespace {

template <class Code>
void check_range(const char* what, const Code* codes, int64_t count, int64_t low, int64_t high) {
  for (int64_t i = 0; i < count; ++i) {
    if (codes[i] < low || codes[i] >= high) {
      throw std::invalid_argument(std::string(what) + " code " + std::to_string(codes[i]) + " at position " +
                                  std::to_string(i) + ": expected " + std::to_string(low) + " to " +
                                  std::to_string(high - 1));
    }
  }
}

}  // namespace

void check(const Labels& labels) {
  check_range("query identity", labels.query_identity, labels.queries, -1, labels.gallery);
  check_range("gallery identity", labels.gallery_identity, labels.gallery, 0, labels.gallery);
  check_range("query camera", labels.query_camera, labels.queries, 0, labels.cameras);
  check_range("gallery camera", labels.gallery_camera, labels.gallery, 0, labels.cameras);
  check_range("rule", labels.rules, labels.cameras * labels.cameras, keep, drop_all + 1);
}

}  // namespace toplight
