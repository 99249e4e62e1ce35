// torch's parallel loop on threads that ThreadSanitizer sees, in place of the one in libtorch: only in a build with
// TOPLIGHT_SANITIZE=thread. A piece of work each, as at::parallel_for divides it.
#include <torch/csrc/stable/c/shim.h>

#include <pthread.h>

#include <algorithm>
#include <array>

namespace {

// Whatever the machine has, and for the smallest loop too: a race shows between more threads than there are cores.
constexpr int64_t kThreads = 4;

struct Piece {
  ParallelFunc func;
  int64_t begin, end;
  void* ctx;
};

void* work(void* argument) {
  const auto& piece = *static_cast<Piece*>(argument);
  piece.func(piece.begin, piece.end, piece.ctx);
  return nullptr;
}

}  // namespace

extern "C" AOTITorchError torch_get_num_threads(uint32_t* out_num_threads) {
  *out_num_threads = kThreads;
  return AOTI_TORCH_SUCCESS;
}

extern "C" AOTITorchError torch_parallel_for(
    int64_t begin,
    int64_t end,
    int64_t /* grain_size */,
    ParallelFunc func,
    void* ctx) {
  // Not std::thread: what is called from a library without the sanitizer, as libstdc++ is, goes unseen.
  const int64_t size = (end - begin + kThreads - 1) / kThreads;
  std::array<pthread_t, kThreads> threads;
  std::array<Piece, kThreads> pieces;
  int64_t count = 0;
  for (int64_t first = begin; first < end; first += size, ++count) {
    pieces[count] = {func, first, std::min(first + size, end), ctx};
    if (pthread_create(&threads[count], nullptr, work, &pieces[count]) != 0) {
      return AOTI_TORCH_FAILURE;
    }
  }
  for (int64_t i = 0; i < count; ++i) {
    pthread_join(threads[i], nullptr);
  }
  return AOTI_TORCH_SUCCESS;
}
