// Python module toplight_ext._core: the ranking core, and what the build knows about itself.
// Everything here is checking and unpacking; the work happens in ranking.cpp with the GIL released.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>
#include <utility>

#include "ranking.h"
#include "reranking.h"

namespace py = pybind11;

namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style>;
using Codes = py::array_t<int32_t, py::array::c_style>;

// Labels beside the arrays that they point into.
struct OwnedLabels {
  Codes query_identity, gallery_identity, query_camera, gallery_camera;
  Array<uint8_t> rules;

  toplight::Labels view(int64_t queries, int64_t gallery) const {
    expect_length("query_identity", query_identity, queries);
    expect_length("query_camera", query_camera, queries);
    expect_length("gallery_identity", gallery_identity, gallery);
    expect_length("gallery_camera", gallery_camera, gallery);
    if (rules.ndim() != 2 || rules.shape(0) != rules.shape(1)) throw std::invalid_argument("rules must be square");
    const toplight::Labels labels{queries,
                                  gallery,
                                  rules.shape(0),
                                  query_identity.data(),
                                  gallery_identity.data(),
                                  query_camera.data(),
                                  gallery_camera.data(),
                                  rules.data()};
    toplight::check(labels);
    return labels;
  }

 private:
  static void expect_length(const char* name, const Codes& codes, int64_t length) {
    if (codes.ndim() != 1 || codes.shape(0) != length) {
      throw std::invalid_argument(std::string(name) + " must have shape (" + std::to_string(length) + ",)");
    }
  }
};

toplight::Execution execution(int threads, std::pair<int64_t, int64_t> tile) {
  if (tile.first < 1 || tile.second < 1) throw std::invalid_argument("tile: both sizes must be at least 1");
  return {threads, tile.first, tile.second};
}

toplight::Metric metric(const std::string& name) {
  if (name == "cosine") return toplight::Metric::cosine;
  if (name == "euclidean") return toplight::Metric::euclidean;
  throw std::invalid_argument("metric '" + name + "': expected cosine or euclidean");
}

template <class T>
void check_features(const Array<T>& query, const Array<T>& gallery) {
  if (query.ndim() != 2 || gallery.ndim() != 2 || query.shape(1) != gallery.shape(1)) {
    throw std::invalid_argument("query and gallery features must be (queries, D) and (images, D)");
  }
}

template <class T>
py::tuple rank(const toplight::Distances<T>& distances, const toplight::Labels& labels, bool distinct_identities,
               const toplight::Execution& run) {
  py::array_t<double> average_precision(labels.queries), inverse_negative_penalty(labels.queries);
  py::array_t<int64_t> first_rank(labels.queries);
  double *ap = average_precision.mutable_data(), *inp = inverse_negative_penalty.mutable_data();
  int64_t* first = first_rank.mutable_data();
  {
    py::gil_scoped_release release;
    toplight::rank(distances, labels, distinct_identities, run, ap, inp, first);
  }
  return py::make_tuple(average_precision, inverse_negative_penalty, first_rank);
}

template <class T>
py::tuple rank_features(Array<T> query, Array<T> gallery, const std::string& metric_name, const OwnedLabels& labels,
                        bool distinct_identities, int threads, std::pair<int64_t, int64_t> tile) {
  check_features(query, gallery);
  const toplight::Labels view = labels.view(query.shape(0), gallery.shape(0));
  const toplight::FeatureDistances<T> distances(query.data(), query.shape(0), gallery.data(), gallery.shape(0),
                                                query.shape(1), metric(metric_name));
  return rank<T>(distances, view, distinct_identities, execution(threads, tile));
}

template <class T>
py::tuple rank_distances(Array<T> matrix, const OwnedLabels& labels, bool distinct_identities, int threads,
                         std::pair<int64_t, int64_t> tile) {
  if (matrix.ndim() != 2) throw std::invalid_argument("distances must be (queries, gallery)");
  const toplight::Labels view = labels.view(matrix.shape(0), matrix.shape(1));
  const toplight::MatrixDistances<T> distances(matrix.data(), matrix.shape(1));
  return rank<T>(distances, view, distinct_identities, execution(threads, tile));
}

template <class T>
py::tuple nearest(const toplight::Distances<T>& distances, const toplight::Labels& labels, int64_t top,
                  const toplight::Execution& run) {
  if (top < 1) throw std::invalid_argument("top " + std::to_string(top) + ": expected at least 1");
  py::array_t<int64_t> positions({labels.queries, top});
  py::array_t<T> found({labels.queries, top});
  int64_t* position = positions.mutable_data();
  T* distance = found.mutable_data();
  {
    py::gil_scoped_release release;
    toplight::nearest(distances, labels, top, run, position, distance);
  }
  return py::make_tuple(positions, found);
}

template <class T>
py::tuple nearest_features(Array<T> query, Array<T> gallery, const std::string& metric_name,
                           const OwnedLabels& labels, int64_t top, int threads, std::pair<int64_t, int64_t> tile) {
  check_features(query, gallery);
  const toplight::Labels view = labels.view(query.shape(0), gallery.shape(0));
  const toplight::FeatureDistances<T> distances(query.data(), query.shape(0), gallery.data(), gallery.shape(0),
                                                query.shape(1), metric(metric_name));
  return nearest<T>(distances, view, top, execution(threads, tile));
}

template <class T>
toplight::RerankedDistances<T> reranked(const Array<T>& images, int64_t queries, const toplight::Reranking& reranking,
                                        const toplight::Execution& run) {
  if (images.ndim() != 2 || queries < 0 || queries > images.shape(0)) {
    throw std::invalid_argument("images must be (queries + gallery, D)");
  }
  if (reranking.k1 < 1 || reranking.k2 < 1) throw std::invalid_argument("k1 and k2: expected at least 1");
  const int64_t count = images.shape(0), dim = images.shape(1);
  const T* data = images.data();
  py::gil_scoped_release release;
  return {data, queries, count - queries, dim, reranking, run};
}

template <class T>
py::tuple rank_reranked(Array<T> images, int64_t queries, int64_t k1, int64_t k2, double lambda,
                        const OwnedLabels& labels, bool distinct_identities, int threads,
                        std::pair<int64_t, int64_t> tile) {
  const toplight::Execution run = execution(threads, tile);
  const auto distances = reranked<T>(images, queries, {k1, k2, lambda}, run);
  return rank<T>(distances, labels.view(queries, images.shape(0) - queries), distinct_identities, run);
}

template <class T>
py::tuple nearest_reranked(Array<T> images, int64_t queries, int64_t k1, int64_t k2, double lambda,
                           const OwnedLabels& labels, int64_t top, int threads, std::pair<int64_t, int64_t> tile) {
  const toplight::Execution run = execution(threads, tile);
  const auto distances = reranked<T>(images, queries, {k1, k2, lambda}, run);
  return nearest<T>(distances, labels.view(queries, images.shape(0) - queries), top, run);
}

// The default tile: 64 queries of 2048 float32 numbers are half a megabyte, about a second-level cache.
constexpr std::pair<int64_t, int64_t> default_tile(64, 512);

template <class T>
void define_ranking(py::module_& module) {
  module.def("rank_features", &rank_features<T>, py::arg("query").noconvert(), py::arg("gallery").noconvert(),
             py::arg("metric"), py::arg("labels"), py::kw_only(), py::arg("distinct_identities"),
             py::arg("threads") = 0, py::arg("tile") = default_tile,
             "Rank gallery features (images, D) for query features (queries, D).\n\n"
             "Returns average precision, INP and first rank, each (queries,); all 0 where nothing matches.");
  module.def("rank_distances", &rank_distances<T>, py::arg("distances").noconvert(), py::arg("labels"),
             py::kw_only(), py::arg("distinct_identities"), py::arg("threads") = 0, py::arg("tile") = default_tile,
             "As rank_features, from a matrix of distances (queries, images).");
  module.def("nearest_features", &nearest_features<T>, py::arg("query").noconvert(),
             py::arg("gallery").noconvert(), py::arg("metric"), py::arg("labels"), py::kw_only(), py::arg("top"),
             py::arg("threads") = 0, py::arg("tile") = default_tile,
             "Positions (queries, top) of the nearest gallery images, -1 past the last, and their distances.");
  module.def("rank_reranked", &rank_reranked<T>, py::arg("images").noconvert(), py::arg("queries"), py::arg("k1"),
             py::arg("k2"), py::arg("lambda_"), py::arg("labels"), py::kw_only(), py::arg("distinct_identities"),
             py::arg("threads") = 0, py::arg("tile") = default_tile,
             "As rank_features by k-reciprocal distances; images (queries + gallery, D), the queries first.");
  module.def("nearest_reranked", &nearest_reranked<T>, py::arg("images").noconvert(), py::arg("queries"),
             py::arg("k1"), py::arg("k2"), py::arg("lambda_"), py::arg("labels"), py::kw_only(), py::arg("top"),
             py::arg("threads") = 0, py::arg("tile") = default_tile,
             "As nearest_features by k-reciprocal distances; images (queries + gallery, D), the queries first.");
}

#ifndef TOPLIGHT_VERSION
#define TOPLIGHT_VERSION ""
#endif
#ifndef TOPLIGHT_TORCH_VERSION
#define TOPLIGHT_TORCH_VERSION ""
#endif
#ifndef TOPLIGHT_CUDA_ARCHITECTURES
#define TOPLIGHT_CUDA_ARCHITECTURES ""
#endif

std::string torch_target() {
#ifdef TORCH_TARGET_VERSION  // major version in the highest byte, minor in the next
  constexpr unsigned long long target = TORCH_TARGET_VERSION;
  return std::to_string(target >> 56) + "." + std::to_string((target >> 48) & 0xff);
#else
  return "";
#endif
}

py::dict build_info() {
  py::dict info;
  info["version"] = TOPLIGHT_VERSION;
#ifdef __clang__
  info["compiler"] = __VERSION__;  // names clang itself
#else
  info["compiler"] = "GCC " __VERSION__;
#endif
  info["ranking_instructions"] = toplight::instruction_set();
  info["torch_version"] = TOPLIGHT_TORCH_VERSION;
  info["torch_target"] = torch_target();
  info["cuda_architectures"] = TOPLIGHT_CUDA_ARCHITECTURES;
  return info;
}

}  // namespace

PYBIND11_MODULE(_core, module) {
  module.doc() = "Ranking core of toplight_ext.evaluation (numpy only, no torch), and build information.";
  py::class_<OwnedLabels>(module, "Labels", "Identity and camera codes of queries and gallery, and the filter rules.")
      .def(py::init<Codes, Codes, Codes, Codes, Array<uint8_t>>(), py::arg("query_identity"),
           py::arg("gallery_identity"), py::arg("query_camera"), py::arg("gallery_camera"), py::arg("rules"));
  define_ranking<float>(module);
  define_ranking<double>(module);
  module.def("build_info", &build_info,
             "What this was built with: compiler, instruction set chosen here, torch and CUDA architectures.");
}
