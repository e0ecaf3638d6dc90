/* The other sizes that PyTorch asks of cuDNN's older interface: of dropout states and
 * of the CTC loss (cudnn_ops.h, cudnn_adv.h). */
#include "cudnn.h"

#define THREADS_OF_A_STATE_BLOCK 512
#define BYTES_OF_A_STATE_BLOCK 12288

/* One block of states for every 512 threads the card can hold: fitted to what
 * cuDNN 9.24 itself answers. */
VD_EXPORT int cudnnDropoutGetStatesSize(void *handle, size_t *bytes)
{
  (void)handle;
  const vd_card *card = vd_the_card();
  size_t threads = (size_t)card->num_sms * (size_t)card->threads_per_sm;
  size_t blocks = (threads + THREADS_OF_A_STATE_BLOCK - 1) / THREADS_OF_A_STATE_BLOCK;
  *bytes = blocks * BYTES_OF_A_STATE_BLOCK;
  return CUDNN_STATUS_SUCCESS;
}

VD_EXPORT int cudnnDropoutGetReserveSpaceSize(void *tensor, size_t *bytes)
{
  (void)tensor;
  vd_unsupported(__func__);
  *bytes = 0;
  return CUDNN_STATUS_SUCCESS;
}

VD_EXPORT int cudnnGetCTCLossWorkspaceSize(void *handle, void *probabilities,
                                           void *gradients, const int *labels,
                                           const int *label_lengths,
                                           const int *input_lengths, int algorithm,
                                           void *loss, size_t *bytes)
{
  (void)handle, (void)probabilities, (void)gradients, (void)labels;
  (void)label_lengths, (void)input_lengths, (void)algorithm, (void)loss;
  vd_unsupported(__func__);
  *bytes = 0;
  return CUDNN_STATUS_SUCCESS;
}

VD_EXPORT int cudnnGetCTCLossWorkspaceSize_v8(void *handle, int algorithm, void *loss,
                                              void *probabilities, void *gradients,
                                              size_t *bytes)
{
  (void)handle, (void)algorithm, (void)loss, (void)probabilities, (void)gradients;
  vd_unsupported(__func__);
  *bytes = 0;
  return CUDNN_STATUS_SUCCESS;
}
