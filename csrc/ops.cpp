// Schemas of all ops. Kernels: csrc/cpu, csrc/cuda, kernels; fakes, autograd and public functions: toplight_ext/ops.
//
// x, grad: (B, C, H, W) maps of any strides. rows, columns: (B, C_r, n_h) and (B, C_c, n_v) vectors.
// A map that is returned is channels_last exactly if the map given first of its shape is channels_last-contiguous
// and not contiguous as well; where no map is given, `channels_last` says it.
// The six parameters of shuffle attention are (1, C / (2 * groups), 1, 1) in the accumulation type of the map:
// float64 for float64, float32 for everything else.
#include <torch/csrc/stable/library.h>

#define SHUFFLE_ATTENTION_PARAMETERS                                                               \
  "Tensor channel_weight, Tensor channel_bias, Tensor spatial_weight, Tensor spatial_bias, "        \
  "Tensor norm_weight, Tensor norm_bias, int groups, float eps, bool shuffle"

STABLE_TORCH_LIBRARY(toplight_ext, m) {
  m.def("slice_pool(Tensor x, int n_h, int n_v) -> (Tensor, Tensor)");
  m.def(
      "slice_pool_backward(Tensor grad_rows, Tensor grad_columns, SymInt height, SymInt width, "
      "bool channels_last) -> Tensor");
  m.def("slice_pool_upsample(Tensor x, int n_h, int n_v) -> Tensor");
  m.def("slice_pool_upsample_backward(Tensor grad, int n_h, int n_v) -> Tensor");
  m.def("shuffle_attention(Tensor x, " SHUFFLE_ATTENTION_PARAMETERS ") -> Tensor");
  m.def(
      "shuffle_attention_backward(Tensor grad, Tensor x, " SHUFFLE_ATTENTION_PARAMETERS
      ") -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "upsample_shuffle_attention(Tensor rows, Tensor columns, SymInt height, SymInt width, "
      SHUFFLE_ATTENTION_PARAMETERS ", bool channels_last) -> Tensor");
  m.def(
      "upsample_shuffle_attention_backward(Tensor grad, Tensor rows, Tensor columns, " SHUFFLE_ATTENTION_PARAMETERS
      ") -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "upsample_shuffle_attention_pooled(Tensor rows, Tensor columns, SymInt height, SymInt width, "
      SHUFFLE_ATTENTION_PARAMETERS ") -> Tensor");
  m.def(
      "upsample_shuffle_attention_pooled_backward(Tensor grad, Tensor rows, Tensor columns, SymInt height, "
      "SymInt width, " SHUFFLE_ATTENTION_PARAMETERS
      ") -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def("gradient_reversal_backward(Tensor grad, Tensor lambd) -> Tensor");
}
