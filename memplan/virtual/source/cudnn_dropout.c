/* Sizes for dropout in cuDNN's older interface (cudnn_ops.h). PyTorch keeps the states
 * of its random numbers on the device for as long as a recurrent network lives. */
#include "cudnn.h"

#define THREADS_OF_A_STATE_BLOCK 512
#define BYTES_OF_A_STATE_BLOCK 12288

/* One block of states for every 512 threads the card can hold: fitted to what
 * cuDNN 9.10 and 9.24 answer. */
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
