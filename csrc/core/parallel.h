// Independent pieces of work over threads of our own: no OpenMP, which would clash with torch's.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace toplight {

// Calls make_worker() once per thread and worker(i) for every i in [0, count), each i on one thread.
// threads <= 0: one per core. The first exception of any thread ends all of them and is thrown here.
template <class MakeWorker>
void parallel_for(int64_t count, int threads, MakeWorker make_worker) {
  if (threads <= 0) threads = std::max(1u, std::thread::hardware_concurrency());
  std::atomic<int64_t> next{0};
  std::exception_ptr error;
  std::mutex error_mutex;
  const auto run = [&] {
    try {
      auto worker = make_worker();
      for (int64_t i = next++; i < count; i = next++) worker(i);
    } catch (...) {
      next = count;
      const std::lock_guard<std::mutex> lock(error_mutex);
      if (!error) error = std::current_exception();
    }
  };
  std::vector<std::thread> others;
  try {
    for (int64_t i = 1; i < std::min<int64_t>(threads, count); ++i) others.emplace_back(run);
  } catch (const std::system_error&) {
    // The system grants no more threads: those that run do all the work.
  }
  run();
  for (std::thread& thread : others) thread.join();
  if (error) std::rethrow_exception(error);
}

}  // namespace toplight
