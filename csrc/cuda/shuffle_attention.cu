// shuffle_attention: y = x * gate(x), channels shuffled; see plane.h for the gate.
//
// Forward reads x once and writes y, backward reads the gradient and x once and writes dx, measuring x again. A block
// holds the same channels of both halves of C in shared memory: the shuffle interleaves the halves, so that what it
// writes lies together too. Planes that do not fit go through strip by strip, read again in every pass.
// A plane leaves two sums for the gradients of the parameters, which a second kernel adds up.
#include "halves.cuh"
#include "parameter_gradients.cuh"

namespace toplight::cuda {
namespace {

template <typename T>
struct Problem {
  Attention<T> attention;
  Cut cut;  // of the channels of one half
  Halves x, grad, out;  // out is y, or dx
  int group_width;  // threads that measure a plane
};

// What a block knows of its planes, by slot.
template <typename T>
struct Planes {
  T* sums;  // of x
  Pair<T>* deviations;  // deviation_at()
  PlaneGate<T>* gates;
  Pair<T>* gradient_sums;  // sums_at(); this and the next for backward only
  InputGradient<T>* gradients;
  T* scratch;  // (kMostWarps)

  __host__ __device__ Planes(int planes, bool backward, Arena& arena)
      : sums(arena.take<T>(kHalves * planes)),
        deviations(arena.take<Pair<T>>(kHalves * planes)),
        gates(arena.take<PlaneGate<T>>(kHalves * planes)),
        gradient_sums(arena.take<Pair<T>>(backward ? kHalves * planes : 0)),
        gradients(arena.take<InputGradient<T>>(backward ? kHalves * planes : 0)),
        scratch(arena.take<T>(kMostWarps)) {}
};

// The passes, in this order; forward has no kGradientSums.
constexpr int kSums = 0, kDeviations = 1, kGradientSums = 2;

// Passes kSums and kDeviations over a strip of x(slot, position).
template <typename T, typename Value>
__device__ void measure(
    const Problem<T>& problem,
    const Block& block,
    const Planes<T>& planes,
    int pass,
    const Strip& strip,
    const Value& x) {
  if (pass == kSums) {
    add_up(
        block, strip, problem.group_width, planes.scratch, planes.sums, [](int) { return true; },
        [&](int slot) { return [&, slot](int i) { return x(slot, i); }; });
  } else if (pass == kDeviations) {
    add_up(
        block, strip, problem.group_width, planes.scratch, planes.deviations,
        [&](int slot) { return problem.attention.role(block.channel(slot)).spatial; },
        [&](int slot) {
          const T mean = planes.sums[slot] / static_cast<T>(problem.cut.positions());
          return [&, slot, mean](int i) { return deviation_at(x(slot, i), mean); };
        });
  }
}

// The gates of all planes, when they are measured.
template <typename T>
__device__ void find_gates(const Problem<T>& problem, const Block& block, const Planes<T>& planes) {
  const T count = static_cast<T>(problem.cut.positions());
  for (int slot = threadIdx.x; slot < block.slots(); slot += kThreads) {
    const auto [deviations, squares] = planes.deviations[slot];
    const auto moments = refined_moments(planes.sums[slot] / count, deviations, squares, count);
    planes.gates[slot] = gate_of(problem.attention, problem.attention.role(block.channel(slot)), moments);
  }
}

template <typename scalar_t, bool kVector>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor<scalar_t>) attend(
    const scalar_t* x,  // (B, C, H, W)
    scalar_t* y,  // (B, C, H, W)
    const __grid_constant__ Problem<accumulate_t<scalar_t>> problem) {
  using T = accumulate_t<scalar_t>;
  extern __shared__ __align__(kVectorBytes) unsigned char memory[];
  Arena arena{memory};
  const Planes<T> planes(problem.cut.planes, false, arena);
  scalar_t* const tile = arena.take<scalar_t>(problem.x.values());
  const Block block(problem.cut);
  const auto read = [&](const Strip& strip) { block.read<kVector>(x, problem.x, strip, tile); };
  const auto value = [&](int slot, int position) {
    return static_cast<T>(tile[block.place(problem.x, slot, position)]);
  };
  const auto gated = [&](int slot, int position) {
    const T v = value(slot, position);
    return v * planes.gates[slot].at(v);
  };
  const auto body = [&](int pass, const Strip& strip) {
    if (pass <= kDeviations) {
      measure(problem, block, planes, pass, strip, value);
    } else {
      block.write<kVector>(y, problem.out, strip, gated);
    }
  };
  in_passes(problem.cut, kDeviations + 2, read, body, [&](int pass) {
    if (pass == kDeviations) {
      find_gates(problem, block, planes);
    }
  });
}

// One block less than elsewhere: two tiles, two layouts and the vector that is written do not fit into 64 registers.
template <typename scalar_t, bool kVector>
__global__ void __launch_bounds__(kThreads, kHasVectors<scalar_t> ? 3 : 2) attend_backward(
    const scalar_t* grad,  // (B, C, H, W), channels as the output has them
    const scalar_t* x,  // (B, C, H, W)
    scalar_t* dx,  // (B, C, H, W)
    PlaneSums<accumulate_t<scalar_t>>* sums,  // (B, C)
    const __grid_constant__ Problem<accumulate_t<scalar_t>> problem) {
  using T = accumulate_t<scalar_t>;
  extern __shared__ __align__(kVectorBytes) unsigned char memory[];
  Arena arena{memory};
  const Planes<T> planes(problem.cut.planes, true, arena);
  scalar_t* const tile = arena.take<scalar_t>(problem.x.values());
  scalar_t* const grad_tile = arena.take<scalar_t>(problem.grad.values());
  const Block block(problem.cut);
  const auto read = [&](const Strip& strip) {
    block.read<kVector>(x, problem.x, strip, tile);
    block.read<kVector>(grad, problem.grad, strip, grad_tile);
  };
  const auto value = [&](int slot, int position) {
    return static_cast<T>(tile[block.place(problem.x, slot, position)]);
  };
  const auto upstream = [&](int slot, int position) {
    return static_cast<T>(grad_tile[block.place(problem.grad, slot, position)]);
  };
  const auto role = [&](int slot) { return problem.attention.role(block.channel(slot)); };
  const auto input_gradient = [&](int slot, int position) {
    const T v = value(slot, position);
    const PlaneGate<T>& gate = planes.gates[slot];
    return input_gradient_at(planes.gradients[slot], v, gate.gate.mean, upstream(slot, position), gate.at(v));
  };
  const auto body = [&](int pass, const Strip& strip) {
    if (pass <= kDeviations) {
      measure(problem, block, planes, pass, strip, value);
    } else if (pass == kGradientSums) {
      add_up(
          block, strip, problem.group_width, planes.scratch, planes.gradient_sums, [](int) { return true; },
          [&](int slot) {
            return [&, slot, role = role(slot), gate = planes.gates[slot]](int i) {
              return sums_at(role, gate, value(slot, i), upstream(slot, i));
            };
          });
    } else {
      block.write<kVector>(dx, problem.out, strip, input_gradient);
    }
  };
  in_passes(problem.cut, kGradientSums + 2, read, body, [&](int pass) {
    if (pass == kDeviations) {
      find_gates(problem, block, planes);
    } else if (pass == kGradientSums) {
      const T count = static_cast<T>(problem.cut.positions());
      for (int slot = threadIdx.x; slot < block.slots(); slot += kThreads) {
        const auto gradient =
            plane_gradient(problem.attention, role(slot), planes.gates[slot], planes.gradient_sums[slot], count);
        planes.gradients[slot] = gradient.input;
        write_sums(sums + block.run.b * problem.attention.channels + block.channel(slot), gradient.sums);
      }
    }
  });
}

// A few threads measure a small plane, so that a warp takes several; a block measures a large one if it has few.
int group_width(int positions, int slots) {
  constexpr int kFew = 8, kFewUpTo = 8 * kFew, kWarpUpTo = 32 * kWarp;
  if (positions <= kFewUpTo) {
    return kFew;
  }
  return positions <= kWarpUpTo || slots >= kThreads / kWarp ? kWarp : kThreads;
}

// `grad` is nullptr forward; `out` is y, or dx.
template <typename scalar_t>
Problem<accumulate_t<scalar_t>> problem_of(
    const Tensor& x,
    const Tensor* grad,
    const Tensor& out,
    const AttentionArguments& arguments,
    const Device& device) {
  using T = accumulate_t<scalar_t>;
  const View view = view_of(x), out_view = view_of(out), grad_view = grad != nullptr ? view_of(*grad) : view;
  Demand demand{x.size(0), x.size(1) / kHalves, grad != nullptr ? 2 * kHalves : kHalves};
  demand.paired = grad != nullptr && arguments.shuffle;
  demand.one_pass = false;
  Arena none = nowhere(), some = nowhere();
  constexpr int kSome = 64;
  Planes<T>(0, grad != nullptr, none);
  Planes<T>(kSome, grad != nullptr, some);
  demand.plane_bytes = (some.used - none.used) / kSome;
  demand.add<scalar_t>(x, view);
  demand.add<scalar_t>(out, out_view);
  if (grad != nullptr) {
    demand.add<scalar_t>(*grad, grad_view);
  }
  const Cut cut = cut_maps<scalar_t>(demand, x.size(2), x.size(3), device);
  const bool shuffle = arguments.shuffle;
  return {
      Attention<T>(arguments, x.size(1)),
      cut,
      halves_of<scalar_t>(view, cut, false),
      halves_of<scalar_t>(grad_view, cut, shuffle),
      halves_of<scalar_t>(out_view, cut, shuffle && grad == nullptr),
      group_width(cut.positions(), kHalves * cut.planes)};
}

template <typename scalar_t>
void run_forward(const Tensor& x, const AttentionArguments& arguments, Tensor& y) {
  using T = accumulate_t<scalar_t>;
  const Device device(x.get_device_index());
  const auto problem = problem_of<scalar_t>(x, nullptr, y, arguments, device);
  Arena arena = nowhere();
  Planes<T>(problem.cut.planes, false, arena);
  arena.take<scalar_t>(problem.x.values());
  with_vectors<scalar_t>(problem.cut, [&](auto vector) {
    device.launch(
        attend<scalar_t, vector.value>,
        x.size(0) * problem.cut.blocks,
        arena.used,
        x.const_data_ptr<scalar_t>(),
        y.mutable_data_ptr<scalar_t>(),
        problem);
  });
}

template <typename scalar_t>
void run_backward(
    const Tensor& grad,
    const Tensor& x,
    const AttentionArguments& arguments,
    Tensor& dx,
    ParameterTensors& d_parameters) {
  using T = accumulate_t<scalar_t>;
  const Device device(x.get_device_index());
  const PlaneSumsBuffer<T> sums(arguments, x.size(0), x.size(1));
  const auto problem = problem_of<scalar_t>(x, &grad, dx, arguments, device);
  Arena arena = nowhere();
  Planes<T>(problem.cut.planes, true, arena);
  arena.take<scalar_t>(problem.x.values());
  arena.take<scalar_t>(problem.grad.values());
  with_vectors<scalar_t>(problem.cut, [&](auto vector) {
    device.launch(
        attend_backward<scalar_t, vector.value>,
        x.size(0) * problem.cut.blocks,
        arena.used,
        grad.const_data_ptr<scalar_t>(),
        x.const_data_ptr<scalar_t>(),
        dx.mutable_data_ptr<scalar_t>(),
        sums.data(),
        problem);
  });
  sums.reduce(device, d_parameters);
}

}  // namespace

void shuffle_attention(const Tensor& x, const AttentionArguments& arguments, Tensor& y) {
  dispatch_floating(x.scalar_type(), "shuffle_attention", [&](auto tag) {
    run_forward<typename decltype(tag)::type>(x, arguments, y);
  });
}

void shuffle_attention_backward(
    const Tensor& grad,
    const Tensor& x,
    const AttentionArguments& arguments,
    Tensor& dx,
    ParameterTensors& d_parameters) {
  dispatch_floating(x.scalar_type(), "shuffle_attention_backward", [&](auto tag) {
    run_backward<typename decltype(tag)::type>(grad, x, arguments, dx, d_parameters);
  });
}

}  // namespace toplight::cuda
