/* Sizes for the batch norm of cuDNN's older interface (cudnn_ops.h), which PyTorch asks
 * in fp32 and fp16.
 *
 * The formulas were fitted to what cuDNN 9.10 and 9.24 themselves answer, over 45
 * shapes, and agree to the byte. Only channels-last inputs in the persistent mode need
 * a workspace: tiles of rows by groups of channels, four bytes a channel for each of
 * two sums. Nothing is kept from forward to backward unless an activation is fused,
 * which PyTorch never asks. */
#include "cudnn.h"

/* cudnnBatchNormMode_t and cudnnBatchNormOps_t */
enum { CUDNN_BATCHNORM_SPATIAL_PERSISTENT = 2, CUDNN_BATCHNORM_OPS_BN = 0 };

#define ROWS_BACKWARD 96
#define CONSTANT_FORWARD 1072
#define CONSTANT_BACKWARD 1056

static size_t divide_up(size_t bytes, size_t by)
{
  return (bytes + by - 1) / by;
}

/* Elements of one channel: N x H x W. */
static size_t rows_of(const cudnn_tensor *tensor)
{
  size_t rows = 1;
  for (int i = 0; i < tensor->rank; i++)
    rows *= i == 1 ? 1 : (size_t)tensor->sizes[i];
  return rows;
}

static int needs_workspace(int mode, const cudnn_tensor *tensor)
{
  return mode == CUDNN_BATCHNORM_SPATIAL_PERSISTENT && tensor->rank > 1 &&
         (tensor->strides[1] == 1 || rows_of(tensor) == (size_t)tensor->sizes[0]);
}

/* Channels are taken 64 at a time, 16 where they do not divide into vectors of four. */
static size_t group_width(size_t channels)
{
  if (channels % 4 == 0)
    return 64;
  return channels < 4 ? 4 : 16;
}

static size_t workspace(const cudnn_tensor *tensor, size_t rows_of_a_tile,
                        size_t flag_bytes, size_t constant)
{
  size_t channels = (size_t)tensor->sizes[1];
  size_t width = group_width(channels);
  size_t rows = rows_of_a_tile * (width == 4 ? 4 : 1);
  size_t tiles = divide_up(rows_of(tensor), rows);
  return divide_up(channels, width) * (tiles * (8 * width + flag_bytes) + 4) + constant;
}

static void fused_unsupported(int operations, const char *function)
{
  if (operations != CUDNN_BATCHNORM_OPS_BN)
    vd_unsupported(function);
}

VD_EXPORT int cudnnGetBatchNormalizationForwardTrainingExWorkspaceSize(
    void *handle, int mode, int operations, const cudnn_tensor *input,
    const cudnn_tensor *added, const cudnn_tensor *output, const cudnn_tensor *weight,
    void *activation, size_t *bytes)
{
  (void)handle, (void)added, (void)output, (void)weight, (void)activation;
  fused_unsupported(operations, __func__);
  size_t rows = input->data_type == CUDNN_DATA_FLOAT ? 64 : 160;
  int needed = needs_workspace(mode, input);
  *bytes = needed ? workspace(input, rows, 4, CONSTANT_FORWARD) : 0;
  return CUDNN_STATUS_SUCCESS;
}

VD_EXPORT int cudnnGetBatchNormalizationBackwardExWorkspaceSize(
    void *handle, int mode, int operations, const cudnn_tensor *input,
    const cudnn_tensor *output, const cudnn_tensor *output_gradient,
    const cudnn_tensor *added_gradient, const cudnn_tensor *input_gradient,
    const cudnn_tensor *weight, void *activation, size_t *bytes)
{
  (void)handle, (void)output, (void)output_gradient, (void)added_gradient;
  (void)input_gradient, (void)weight, (void)activation;
  fused_unsupported(operations, __func__);
  int needed = needs_workspace(mode, input);
  *bytes = needed ? workspace(input, ROWS_BACKWARD, 0, CONSTANT_BACKWARD) : 0;
  return CUDNN_STATUS_SUCCESS;
}

VD_EXPORT int cudnnGetBatchNormalizationTrainingExReserveSpaceSize(
    void *handle, int mode, int operations, void *activation, const cudnn_tensor *input,
    size_t *bytes)
{
  (void)handle, (void)mode, (void)activation, (void)input;
  fused_unsupported(operations, __func__);
  *bytes = 0;
  return CUDNN_STATUS_SUCCESS;
}
