/* Tensor and filter descriptors of cuDNN's older interface (cudnn_ops.h): PyTorch sets
 * them, and reads the sizes of RNN weights back from them. */
#include "cudnn.h"

#include <stdlib.h>

size_t cudnn_element_bytes(int data_type)
{
  switch (data_type) {
  case CUDNN_DATA_DOUBLE:
    return 8;
  case CUDNN_DATA_HALF:
  case CUDNN_DATA_BFLOAT16:
    return 2;
  default:
    return 4;
  }
}

static int create(cudnn_tensor **made)
{
  *made = calloc(1, sizeof **made);
  return *made != NULL ? CUDNN_STATUS_SUCCESS
                       : CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED;
}

static int copy_integers(int *to, const int *from, int count)
{
  if (count < 1 || count > CUDNN_DIM_MAX)
    return CUDNN_STATUS_BAD_PARAM;
  for (int i = 0; i < count; i++)
    to[i] = from[i];
  return CUDNN_STATUS_SUCCESS;
}

static int fewer(int wanted, int there)
{
  return wanted < there ? wanted : there;
}

/* ---- tensors ---- */

VD_EXPORT int cudnnCreateTensorDescriptor(cudnn_tensor **made)
{
  return create(made);
}

VD_EXPORT int cudnnDestroyTensorDescriptor(cudnn_tensor *tensor)
{
  free(tensor);
  return CUDNN_STATUS_SUCCESS;
}

VD_EXPORT int cudnnSetTensorNdDescriptor(cudnn_tensor *tensor, int data_type, int rank,
                                         const int *sizes, const int *strides)
{
  tensor->data_type = data_type;
  tensor->rank = rank;
  if (copy_integers(tensor->sizes, sizes, rank) != CUDNN_STATUS_SUCCESS)
    return CUDNN_STATUS_BAD_PARAM;
  return copy_integers(tensor->strides, strides, rank);
}

VD_EXPORT int cudnnGetTensorNdDescriptor(const cudnn_tensor *tensor, int wanted,
                                         int *data_type, int *rank, int *sizes,
                                         int *strides)
{
  *data_type = tensor->data_type;
  *rank = tensor->rank;
  for (int i = 0; i < fewer(wanted, tensor->rank); i++) {
    sizes[i] = tensor->sizes[i];
    strides[i] = tensor->strides[i];
  }
  return CUDNN_STATUS_SUCCESS;
}

/* ---- filters ---- */

VD_EXPORT int cudnnCreateFilterDescriptor(cudnn_tensor **made)
{
  return create(made);
}

VD_EXPORT int cudnnDestroyFilterDescriptor(cudnn_tensor *filter)
{
  free(filter);
  return CUDNN_STATUS_SUCCESS;
}

VD_EXPORT int cudnnSetFilterNdDescriptor(cudnn_tensor *filter, int data_type,
                                         int format, int rank, const int *sizes)
{
  filter->data_type = data_type;
  filter->format = format;
  filter->rank = rank;
  return copy_integers(filter->sizes, sizes, rank);
}

VD_EXPORT int cudnnGetFilterNdDescriptor(const cudnn_tensor *filter, int wanted,
                                         int *data_type, int *format, int *rank,
                                         int *sizes)
{
  *data_type = filter->data_type;
  *format = filter->format;
  *rank = filter->rank;
  for (int i = 0; i < fewer(wanted, filter->rank); i++)
    sizes[i] = filter->sizes[i];
  return CUDNN_STATUS_SUCCESS;
}
