// The planes of a block of shuffle_attention: the same channels of both halves of C, how they lie in a map whose
// channels are in the order of the input, or shuffled, and the passes over them.
//
// slot = half * planes + plane. Shuffled, the two halves alternate, so that they are one run of twice the channels;
// only strips of two planes are not one stretch of memory, and then they are two runs of one plane each.
#pragma once

#include "plane.h"
#include "reduce.cuh"
#include "tile.cuh"

namespace toplight::cuda {

constexpr int kHalves = 2;

struct Halves {
  View view;
  TileShape tile;
  bool shuffled;
  bool paired;  // the halves are one run

  // Of shared memory.
  __host__ __device__ int values() const {
    return paired ? tile.run_pitch : kHalves * tile.run_pitch;
  }
};

template <typename scalar_t>
Halves halves_of(const View& view, const Cut& cut, bool shuffled) {
  const bool paired = shuffled && (cut.strips == 1 || view.channels_inner);
  return {view, tile_shape<scalar_t>(view, cut, paired ? kHalves * cut.planes : cut.planes), shuffled, paired};
}

struct Block {
  const Cut& cut;
  Run run;

  __device__ explicit Block(const Cut& cut) : cut(cut), run(cut) {}

  __device__ int slots() const {
    return kHalves * run.planes;
  }
  // Of the input.
  __device__ int channel(int slot) const {
    const int half = slot >= run.planes;
    return half * cut.channels + run.first + slot - half * run.planes;
  }
  // Where a value stands in a tile.
  __device__ int place(const Halves& halves, int slot, int position) const {
    const int half = slot >= run.planes, plane = slot - half * run.planes;
    return halves.paired ? halves.tile.at(0, kHalves * plane + half, position) : halves.tile.at(half, plane, position);
  }

  // The first value of a run in a map: of the one run if paired, else of that of `half`.
  template <typename scalar_t>
  __device__ scalar_t* start(scalar_t* map, const Halves& halves, int half) const {
    const int channel = half * cut.channels + run.first;
    return map + halves.view.offset(run.b, shuffled_channel(channel, kHalves * cut.channels, halves.shuffled));
  }

  // Copies a strip of both halves to `tile`.
  template <bool kVector, typename scalar_t>
  __device__ void read(const scalar_t* map, const Halves& halves, const Strip& strip, scalar_t* tile) const {
    const int runs = halves.paired ? 1 : kHalves, planes = halves.paired ? slots() : run.planes;
    for (int half = 0; half < runs; ++half) {
      read_run<kVector>(
          start(map, halves, half), halves.view, cut, strip, planes, halves.tile, tile + half * halves.tile.run_pitch);
    }
  }

  // Writes value(slot, position) of a strip of both halves.
  template <bool kVector, typename scalar_t, typename Value>
  __device__ void write(scalar_t* map, const Halves& halves, const Strip& strip, const Value& value) const {
    const bool uniform = cut.positions() % kLanes<scalar_t> == 0;
    const auto write_halves = [&](int half, int planes, const auto& slot) {
      write_run<kVector>(
          start(map, halves, half), halves.view, cut, strip, planes, uniform,
          [&](const Place& place) { return value(slot(place.plane), place.position); });
    };
    if (halves.paired) {
      write_halves(0, slots(), [&](int plane) { return plane % kHalves * run.planes + plane / kHalves; });
    } else {
      write_halves(0, run.planes, [&](int plane) { return plane; });
      write_halves(1, run.planes, [&](int plane) { return run.planes + plane; });
    }
  }
};

// Adds term(slot)(position) over the positions of a strip to totals[slot], which the first strip sets; of slots that
// are not needed(slot) the total is 0. A slot is taken by `threads` threads; `scratch` is as in Group::sum().
template <typename T, typename V, typename Needed, typename Term>
__device__ void add_up(
    const Block& block,
    const Strip& strip,
    int threads,
    T* scratch,
    V* totals,
    const Needed& needed,
    const Term& term) {
  for_slots(block.slots(), threads, [&](int slot, const Group& group, bool active) {
    const int positions = active && needed(slot) ? strip.rows * block.cut.width : 0;
    const auto term_at = term(slot);
    V total{};
    for (int i = group.lane; i < positions; i += group.width) {
      total += term_at(i);
    }
    total = group.sum(total, scratch);
    if (active && group.lane == 0) {
      if (strip.first_row > 0) {
        total += totals[slot];
      }
      totals[slot] = total;
    }
  });
}

// Calls body(pass, strip) for all strips of a block in every pass, after read(strip), and after(pass) when all threads
// are through with the pass. One strip stays in shared memory from pass to pass. Not unrolled, so that the code of
// read() is there once.
template <typename Read, typename Body, typename After>
__device__ void in_passes(const Cut& cut, int passes, const Read& read, const Body& body, const After& after) {
#pragma unroll 1
  for (int pass = 0; pass < passes; ++pass) {
    for (int index = 0; index < cut.strips; ++index) {
      const Strip strip = cut.strip(index);
      if (pass == 0 || cut.strips > 1) {
        __syncthreads();  // what was there before is no longer read
        read(strip);
        wait_for_copies();
      }
      body(pass, strip);
    }
    __syncthreads();
    after(pass);
    __syncthreads();
  }
}

}  // namespace toplight::cuda
