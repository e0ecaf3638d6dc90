/* Weights and sizes of recurrent networks (cudnn_adv.h), which torch.nn.LSTM, GRU and
 * RNN use in fp32 and fp16.
 *
 * The layout of the weights and the reserve, which lives from forward to backward, are
 * those that cuDNN 9.10 and 9.24 answer for their standard algorithm, over 60 shapes:
 * to the byte for the weights, within the 32 bytes of an alignment for the reserve. How
 * large the workspace of one call is depends on the card in a way that is not public,
 * so it is answered as none and counted as unsupported. */
#include "cudnn.h"

#include <stdlib.h>

/* cudnnRNNMode_t */
enum { CUDNN_RNN_RELU = 0, CUDNN_RNN_TANH = 1, CUDNN_LSTM = 2, CUDNN_GRU = 3 };

/* cudnnRNNBiasMode_t */
enum { CUDNN_RNN_NO_BIAS = 0, CUDNN_RNN_DOUBLE_BIAS = 2 };
/* cudnnDirectionMode_t */
enum { CUDNN_BIDIRECTIONAL = 1 };
/* cudnnForwardMode_t */
enum { CUDNN_FWD_MODE_TRAINING = 1 };

#define RESERVE_CONSTANT 256

typedef struct {
  int mode;
  int bias_mode;
  int directions;
  int data_type;
  size_t input_size;
  size_t hidden_size;
  size_t projected_size;
  int num_layers;
} network;

typedef struct {
  size_t length;
  size_t batch;
} sequences;

/* ---- descriptors ---- */

VD_EXPORT int cudnnCreateRNNDescriptor(network **made)
{
  *made = calloc(1, sizeof **made);
  return *made != NULL ? CUDNN_STATUS_SUCCESS
                       : CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED;
}

VD_EXPORT int cudnnDestroyRNNDescriptor(network *rnn)
{
  free(rnn);
  return CUDNN_STATUS_SUCCESS;
}

VD_EXPORT int cudnnSetRNNDescriptor_v8(network *rnn, int algorithm, int mode,
                                       int bias_mode, int direction, int input_mode,
                                       int data_type, int math_precision, int math_type,
                                       int32_t input_size, int32_t hidden_size,
                                       int32_t projected_size, int32_t num_layers,
                                       void *dropout, uint32_t flags)
{
  (void)algorithm, (void)input_mode, (void)math_precision, (void)math_type;
  (void)dropout, (void)flags;
  *rnn = (network){
      .mode = mode,
      .bias_mode = bias_mode,
      .directions = direction == CUDNN_BIDIRECTIONAL ? 2 : 1,
      .data_type = data_type,
      .input_size = (size_t)input_size,
      .hidden_size = (size_t)hidden_size,
      .projected_size = (size_t)projected_size,
      .num_layers = num_layers,
  };
  return CUDNN_STATUS_SUCCESS;
}

VD_EXPORT int cudnnCreateRNNDataDescriptor(sequences **made)
{
  *made = calloc(1, sizeof **made);
  return *made != NULL ? CUDNN_STATUS_SUCCESS
                       : CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED;
}

VD_EXPORT int cudnnDestroyRNNDataDescriptor(sequences *data)
{
  free(data);
  return CUDNN_STATUS_SUCCESS;
}

VD_EXPORT int cudnnSetRNNDataDescriptor(sequences *data, int data_type, int layout,
                                        int length, int batch, int vector_size,
                                        const int *lengths, void *padding)
{
  (void)data_type, (void)layout, (void)vector_size, (void)lengths, (void)padding;
  data->length = (size_t)length;
  data->batch = (size_t)batch;
  return CUDNN_STATUS_SUCCESS;
}

/* ---- weights: the matrices of every layer and direction, then all biases ---- */

static int gates_of(const network *rnn)
{
  switch (rnn->mode) {
  case CUDNN_LSTM:
    return 4;
  case CUDNN_GRU:
    return 3;
  default:
    return 1;
  }
}

static int is_projected(const network *rnn)
{
  return rnn->projected_size != rnn->hidden_size;
}

static size_t input_of(const network *rnn, int pseudo_layer)
{
  if (pseudo_layer < rnn->directions)
    return rnn->input_size;
  return (size_t)rnn->directions * rnn->projected_size;
}

/* A pseudo layer is one direction of one layer. */
static size_t matrix_elements(const network *rnn, int pseudo_layer)
{
  size_t rows = (size_t)gates_of(rnn) * rnn->hidden_size;
  size_t elements = rows * (input_of(rnn, pseudo_layer) + rnn->projected_size);
  if (is_projected(rnn))
    elements += rnn->projected_size * rnn->hidden_size;
  return elements;
}

static size_t biases_of_a_layer(const network *rnn)
{
  if (rnn->bias_mode == CUDNN_RNN_NO_BIAS)
    return 0;
  int vectors = rnn->bias_mode == CUDNN_RNN_DOUBLE_BIAS ? 2 : 1;
  return (size_t)(vectors * gates_of(rnn)) * rnn->hidden_size;
}

static size_t matrices_before(const network *rnn, int pseudo_layer)
{
  size_t elements = 0;
  for (int i = 0; i < pseudo_layer; i++)
    elements += matrix_elements(rnn, i);
  return elements;
}

static int num_pseudo_layers(const network *rnn)
{
  return rnn->num_layers * rnn->directions;
}

VD_EXPORT int cudnnGetRNNWeightSpaceSize(void *handle, const network *rnn,
                                         size_t *bytes)
{
  (void)handle;
  int layers = num_pseudo_layers(rnn);
  size_t elements =
      matrices_before(rnn, layers) + (size_t)layers * biases_of_a_layer(rnn);
  *bytes = elements * cudnn_element_bytes(rnn->data_type);
  return CUDNN_STATUS_SUCCESS;
}

static void describe_matrix(cudnn_tensor *tensor, int data_type, size_t rows,
                            size_t columns)
{
  *tensor = (cudnn_tensor){
      .data_type = data_type,
      .rank = 3,
      .sizes = {1, (int)rows, (int)columns},
      .strides = {(int)(rows * columns), (int)columns, 1},
  };
}

/* Elements from the start of the pseudo layer: the gates of the input, then those of
 * the state, then the projection, which has a number of its own. */
static size_t matrix_at(const network *rnn, int pseudo_layer, int linear,
                        cudnn_tensor *matrix)
{
  int gates = gates_of(rnn);
  size_t rows = rnn->hidden_size;
  size_t input = rows * input_of(rnn, pseudo_layer);
  size_t state = rows * rnn->projected_size;
  if (linear < gates) {
    describe_matrix(matrix, rnn->data_type, rows, input / rows);
    return (size_t)linear * input;
  }
  size_t inputs = (size_t)gates * input;
  if (linear < 2 * gates) {
    describe_matrix(matrix, rnn->data_type, rows, state / rows);
    return inputs + (size_t)(linear - gates) * state;
  }
  describe_matrix(matrix, rnn->data_type, rnn->projected_size, rows);
  return inputs + (size_t)gates * state;
}

static size_t bias_at(const network *rnn, int pseudo_layer, int linear)
{
  return matrices_before(rnn, num_pseudo_layers(rnn)) +
         (size_t)pseudo_layer * biases_of_a_layer(rnn) +
         (size_t)linear * rnn->hidden_size;
}

static int has_bias(const network *rnn, int linear)
{
  return (size_t)linear * rnn->hidden_size < biases_of_a_layer(rnn);
}

/* Either descriptor may be NULL: what it stands for is then not asked. */
VD_EXPORT int cudnnGetRNNWeightParams(void *handle, const network *rnn,
                                      int32_t pseudo_layer, size_t bytes,
                                      const void *weights, int32_t linear,
                                      cudnn_tensor *matrix, void **matrix_start,
                                      cudnn_tensor *bias, void **bias_start)
{
  (void)handle, (void)bytes;
  size_t element = cudnn_element_bytes(rnn->data_type);
  uintptr_t start = (uintptr_t)weights;
  if (linear < 0 || linear >= 2 * gates_of(rnn) + is_projected(rnn))
    return CUDNN_STATUS_BAD_PARAM;
  if (matrix != NULL) {
    size_t at = matrices_before(rnn, pseudo_layer) +
                matrix_at(rnn, pseudo_layer, linear, matrix);
    *matrix_start = (void *)(start + at * element);
  }
  if (bias != NULL && has_bias(rnn, linear)) {
    describe_matrix(bias, rnn->data_type, rnn->hidden_size, 1);
    *bias_start = (void *)(start + bias_at(rnn, pseudo_layer, linear) * element);
  } else if (bias != NULL) {
    *bias = (cudnn_tensor){0};
    *bias_start = NULL;
  }
  return CUDNN_STATUS_SUCCESS;
}

/* ---- what a pass keeps and needs ---- */

/* Vectors of the hidden size kept for each element of the batch and step: the gates and
 * the cell of an LSTM, six of a GRU, the state of a plain network. */
static size_t vectors_kept(const network *rnn)
{
  switch (rnn->mode) {
  case CUDNN_LSTM:
    return 5;
  case CUDNN_GRU:
    return 6;
  default:
    return 1;
  }
}

/* A layer but the last also keeps its output, the input of the next. */
static size_t reserve_bytes(const network *rnn, const sequences *data)
{
  size_t layers = (size_t)rnn->num_layers;
  size_t directions = (size_t)rnn->directions;
  size_t of_a_layer = vectors_kept(rnn) * rnn->hidden_size;
  if (is_projected(rnn))
    of_a_layer += rnn->hidden_size + rnn->projected_size;
  size_t between = (layers - 1) * directions * rnn->hidden_size;
  size_t elements = layers * directions * of_a_layer + between;
  return data->length * data->batch * elements * cudnn_element_bytes(rnn->data_type) +
         RESERVE_CONSTANT;
}

VD_EXPORT int cudnnGetRNNTempSpaceSizes(void *handle, const network *rnn, int mode,
                                        const sequences *data, size_t *workspace,
                                        size_t *reserve)
{
  (void)handle;
  vd_unsupported("cudnnGetRNNTempSpaceSizes (its workspace)");
  if (workspace != NULL)
    *workspace = 0;
  if (reserve != NULL)
    *reserve = mode == CUDNN_FWD_MODE_TRAINING ? reserve_bytes(rnn, data) : 0;
  return CUDNN_STATUS_SUCCESS;
}
