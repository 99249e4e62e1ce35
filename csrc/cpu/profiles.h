// Between maps and profiles: sums of a map over either axis, and maps that are sums of two profiles. Both walk over a
// map some rows at a time, so that their tiles stay in the cache however large it is.
#pragma once

#include "axis.h"

namespace toplight::cpu {

// Which profiles of a bundle a walk is about: null leaves one out.
template <typename T>
struct Profile {
  T* rows;
  T* columns;
};

// Row and column profiles of each bundle of a block: (bundles, height, lanes) and (bundles, width, lanes).
template <typename T>
class Profiles {
 public:
  Profiles(int64_t bundles, int64_t height, int64_t width)
      : rows_(bundles * height * Pack<T>::kLanes),
        columns_(bundles * width * Pack<T>::kLanes),
        height_(height),
        width_(width) {}

  T* rows(int64_t bundle) const {
    return rows_ + bundle * height_ * Pack<T>::kLanes;
  }
  T* columns(int64_t bundle) const {
    return columns_ + bundle * width_ * Pack<T>::kLanes;
  }

  // Both of each bundle.
  std::span<const Profile<T>> both(int64_t bundles) {
    listed_.clear();
    for (int64_t j = 0; j < bundles; ++j) {
      listed_.push_back({rows(j), columns(j)});
    }
    return listed_;
  }
  // Those of bundles of row channels, then those of as many bundles of column channels.
  std::span<const Profile<T>> rows_then_columns(int64_t bundles) {
    listed_.clear();
    for (int64_t j = 0; j < bundles; ++j) {
      listed_.push_back({rows(j), nullptr});
    }
    for (int64_t j = 0; j < bundles; ++j) {
      listed_.push_back({nullptr, columns(j)});
    }
    return listed_;
  }

 private:
  Buffer<T> rows_, columns_;
  int64_t height_, width_;
  std::vector<Profile<T>> listed_;
};

// The tiles of a walk over maps of this size, for at most `bundles` bundles at once.
template <typename T>
class Walk {
 public:
  Walk(int64_t bundles, int64_t height, int64_t width)
      : height_(height),
        width_(width),
        step_(std::clamp<int64_t>(kTilePacks / (width * bundles), 1, height)),
        tiles_(bundles * step_ * width * Pack<T>::kLanes),
        padded_((width + Pack<T>::kLanes - 1) / Pack<T>::kLanes * Pack<T>::kLanes),
        turned_(width < kLongRow ? 0 : (height + padded_) * Pack<T>::kLanes) {}

  // Fills the profiles with the sums of the map over the other axis.
  template <typename scalar_t>
  void sum(
      const scalar_t* image,
      const Map& map,
      std::span<const Lanes> bundles,
      std::span<const Profile<T>> profiles) {
    for (const Profile<T>& profile : profiles) {
      if (profile.columns) {
        std::fill_n(profile.columns, width_ * Pack<T>::kLanes, T(0));
      }
    }
    for_rows([&](Rows rows) {
      read_tiles(image, map, bundles, rows, tiles_.get());
      for (size_t j = 0; j < bundles.size(); ++j) {
        add_axis_sums(tile(j, rows), rows, width_, profiles[j].rows, profiles[j].columns);
      }
    });
  }

  // Writes row profile [h] + column profile [w].
  template <typename scalar_t>
  void write(
      std::span<const Profile<T>> profiles,
      std::span<const Lanes> bundles,
      const Map& map,
      scalar_t* image) {
    if constexpr (std::is_same_v<T, scalar_t>) {
      if (width_ >= kLongRow && access_of<T>(map, bundles) == Access::kPositions) {
        for (size_t j = 0; j < bundles.size(); ++j) {
          write_planes(profiles[j], bundles[j], map.channel_stride, image);
        }
        return;
      }
    }
    for_rows([&](Rows rows) {
      for (size_t j = 0; j < bundles.size(); ++j) {
        fill(profiles[j], rows, tile(j, rows));
      }
      write_tiles(tiles_.get(), bundles, rows, map, image);
    });
  }

 private:
  static constexpr int64_t kTilePacks = (32 << 10) / kPackBytes;
  // From here on a plane is written row by row, and only its profiles are turned.
  static constexpr int64_t kLongRow = 16;

  template <typename Body>
  void for_rows(const Body& body) const {
    for (int64_t begin = 0; begin < height_; begin += step_) {
      body(Rows{begin, std::min(begin + step_, height_)});
    }
  }

  T* tile(int64_t bundle, Rows rows) const {
    return tiles_ + bundle * (rows.end - rows.begin) * width_ * Pack<T>::kLanes;
  }

  void fill(const Profile<T>& profile, Rows rows, T* tile) const {
    constexpr int64_t kLanes = Pack<T>::kLanes;
    for (int64_t h = rows.begin; h < rows.end; ++h, tile += width_ * kLanes) {
      const auto row = profile.rows ? Pack<T>::load(profile.rows + h * kLanes) : Pack<T>(T(0));
      for (int64_t w = 0; w < width_; ++w) {
        (profile.columns ? row + Pack<T>::load(profile.columns + w * kLanes) : row).store(tile + w * kLanes);
      }
    }
  }

  void write_planes(const Profile<T>& profile, const Lanes& lanes, int64_t channel_stride, T* image) const {
    T *all_rows = turned_.get(), *all_columns = turned_ + Pack<T>::kLanes * height_;
    if (profile.rows) {
      turn_out(profile.rows, height_, all_rows, height_);
    }
    if (profile.columns) {
      turn_out(profile.columns, width_, all_columns, padded_);
    }
    for (int64_t lane = 0; lane < Pack<T>::kLanes; ++lane) {
      const T *rows = all_rows + lane * height_, *columns = all_columns + lane * padded_;
      const auto row = [=](int64_t h) { return Pack<T>(profile.rows ? rows[h] : T(0)); };
      T* plane = image + lanes.channel(lane) * channel_stride;
      if (profile.columns) {
        write_plane(plane, [=](int64_t h, int64_t w) { return row(h) + Pack<T>::load(columns + w); });
      } else {
        write_plane(plane, [=](int64_t h, int64_t) { return row(h); });
      }
    }
  }

  // value(h, w) is the pack of values from there on; what it has beyond its row the next row overwrites.
  template <typename Value>
  void write_plane(T* plane, const Value& value) const {
    constexpr int64_t kLanes = Pack<T>::kLanes;
    static_assert(kLanes <= kLongRow);
    for (int64_t h = 0; h < height_; ++h, plane += width_) {
      const int64_t end = h + 1 < height_ ? padded_ : width_;
      int64_t w = 0;
      for (; w + kLanes <= end; w += kLanes) {
        value(h, w).store(plane + w);
      }
      if (w < end) {
        value(h, w).store_first(plane + w, end - w);
      }
    }
  }

  int64_t height_, width_, step_;
  Buffer<T> tiles_;
  int64_t padded_;  // width in whole packs
  Buffer<T> turned_;  // of one bundle: rows (lanes, height), columns (lanes, padded)
};

}  // namespace toplight::cpu
