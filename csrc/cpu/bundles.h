// How a kernel divides its work: images and blocks of channels among threads, a block into bundles of as many channels
// as a pack has lanes. The number of channels need not divide by the lanes: the last bundle begins early enough to be
// full, and what it shares with the one before is computed twice, with the same result, by the same thread.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <memory>
#include <new>
#include <vector>

#include "pack.h"
#include "tensors.h"

namespace toplight::cpu {

// Below this many values a task is not worth a thread of its own.
constexpr int64_t kValuesPerThread = 16384;

// body(begin, end) over the tasks, each of about `values` values.
template <typename Body>
void parallel_tasks(int64_t tasks, int64_t values, const Body& body) {
  const int64_t grain = std::max<int64_t>(1, kValuesPerThread / std::max<int64_t>(1, values));
  torch::stable::parallel_for(0, tasks, grain, body);
}

// Uninitialised memory for `count` values, aligned for packs.
template <typename T>
class Buffer {
 public:
  explicit Buffer(int64_t count)
      : data_(static_cast<T*>(::operator new(std::max<int64_t>(1, count) * sizeof(T), std::align_val_t(64)))) {}

  T* get() const {
    return data_.get();
  }
  T* operator+(int64_t offset) const {
    return data_.get() + offset;
  }

 private:
  struct Free {
    void operator()(T* data) const {
      ::operator delete(data, std::align_val_t(64));
    }
  };
  std::unique_ptr<T, Free> data_;
};

// The channels of one bundle: lane k in [begin, end) is channel first + k * step. What the other lanes compute is
// never written; they read what the nearest of these reads.
struct Lanes {
  int64_t first, step, begin, end;

  int64_t channel(int64_t lane) const {
    return first + std::clamp(lane, begin, end - 1) * step;
  }
  int64_t count() const {
    return end - begin;
  }
};

// Divides `channels` neighbouring channels of each image into blocks, the tasks of a kernel, and these into bundles.
class Blocks {
 public:
  // `packs`: what a kernel keeps of one bundle in the cache.
  Blocks(const Map& map, int64_t channels, int64_t lanes, int64_t packs)
      : channels_(channels), lanes_(lanes), size_(lanes) {
    if (map.channel_stride == 1) {
      // Long runs of channels, since the next position lies far away, while they fit the second cache, but no fewer
      // tasks than keep the threads busy; short ones, for a large map, before no cache can hold a tile.
      constexpr int64_t kCachePacks = (400 << 10) / kPackBytes, kMost = 4096 / kPackBytes;
      const int64_t fewest = packs > 4 * kCachePacks ? 1 : 256 / kPackBytes;
      const int64_t tasks = 2 * torch::stable::get_num_threads();
      const int64_t shared = map.batch * channels / (tasks * lanes);
      size_ *= std::clamp(std::min(kCachePacks / packs, shared), fewest, kMost);
    }
    count_ = std::max<int64_t>(1, channels / size_);
  }

  int64_t count() const {
    return count_;
  }
  // The image and the block after these: the next task of a thread.
  std::pair<int64_t, int64_t> after(int64_t b, int64_t block) const {
    return block + 1 < count_ ? std::pair(b, block + 1) : std::pair(b + 1, int64_t(0));
  }
  // Most bundles of a block: the last one takes the remaining channels too.
  int64_t bundles() const {
    return (channels_ - (count_ - 1) * size_ + lanes_ - 1) / lanes_;
  }
  // The bundles of a block, once for each of the `firsts`, where the channels that are divided begin.
  void lanes(int64_t block, std::initializer_list<int64_t> firsts, std::vector<Lanes>& all) const {
    const int64_t bundles = block < count_ - 1 ? size_ / lanes_ : this->bundles();
    all.clear();
    for (const int64_t first : firsts) {
      for (int64_t j = 0; j < bundles; ++j) {
        const int64_t start = std::max<int64_t>(0, std::min(block * size_ + j * lanes_, channels_ - lanes_));
        all.push_back({first + start, 1, 0, std::min(lanes_, channels_)});
      }
    }
  }

 private:
  int64_t channels_, lanes_, size_, count_;
};

// make() gives a thread its worker, which is called with the image and the block of each of its tasks.
template <typename MakeWorker>
void for_blocks(int64_t batch, const Blocks& blocks, int64_t values, const MakeWorker& make) {
  parallel_tasks(batch * blocks.count(), values, [&](int64_t begin, int64_t end) {
    auto worker = make();
    for (int64_t task = begin; task < end; ++task) {
      worker(task / blocks.count(), task % blocks.count());
    }
  });
}

}  // namespace toplight::cpu
