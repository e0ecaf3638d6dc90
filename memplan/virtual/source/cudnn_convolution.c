/* Convolutions of cuDNN's older interface (cudnn_cnn.h), which PyTorch uses only where
 * TORCH_CUDNN_V8_API_DISABLED is set. How it picks an algorithm and how much workspace
 * that needs is not public: one algorithm without workspace is answered, and counted as
 * unsupported. */
#include "cudnn.h"

/* cudnnConvolutionFwdAlgoPerf_t and its two sisters, which have the same fields */
typedef struct {
  int algorithm;
  int status;
  float time;
  size_t memory;
  int determinism;
  int math_type;
  int reserved[3];
} performance;

static int one_algorithm(const char *function, int wanted, int *count,
                         performance *results)
{
  vd_unsupported(function);
  *count = wanted > 0 ? 1 : 0;
  if (wanted > 0)
    results[0] = (performance){0};
  return CUDNN_STATUS_SUCCESS;
}

static int no_workspace(const char *function, size_t *bytes)
{
  vd_unsupported(function);
  *bytes = 0;
  return CUDNN_STATUS_SUCCESS;
}

/* The three directions take their descriptors in the same places. */
#define PICKS_ALGORITHM(direction)                                                  \
  VD_EXPORT int cudnnGetConvolution##direction##Algorithm_v7(                       \
      void *handle, void *first, void *second, void *convolution, void *third,      \
      int wanted, int *count, performance *results)                                 \
  {                                                                                 \
    (void)handle, (void)first, (void)second, (void)convolution, (void)third;        \
    return one_algorithm(__func__, wanted, count, results);                         \
  }                                                                                 \
  VD_EXPORT int cudnnFindConvolution##direction##AlgorithmEx(                       \
      void *handle, void *first, void *first_data, void *second, void *second_data, \
      void *convolution, void *third, void *third_data, int wanted, int *count,     \
      performance *results, void *workspace, size_t bytes)                          \
  {                                                                                 \
    (void)handle, (void)first, (void)first_data, (void)second, (void)second_data;   \
    (void)convolution, (void)third, (void)third_data, (void)workspace, (void)bytes; \
    return one_algorithm(__func__, wanted, count, results);                         \
  }                                                                                 \
  VD_EXPORT int cudnnGetConvolution##direction##WorkspaceSize(                      \
      void *handle, void *first, void *second, void *convolution, void *third,      \
      int algorithm, size_t *bytes)                                                 \
  {                                                                                 \
    (void)handle, (void)first, (void)second, (void)convolution, (void)third;        \
    (void)algorithm;                                                                \
    return no_workspace(__func__, bytes);                                           \
  }

PICKS_ALGORITHM(Forward)
PICKS_ALGORITHM(BackwardData)
PICKS_ALGORITHM(BackwardFilter)
