/* cuBLAS's copies of vectors and matrices between host and device (cublas_api.h), which
 * keep the values they carry as any other copy does. */
#include <stddef.h>
#include <stdint.h>

#include "device.h"

/* cublasStatus_t */
enum { CUBLAS_STATUS_SUCCESS = 0 };

static void *element(const void *start, size_t index, size_t element_bytes)
{
  return (char *)(uintptr_t)start + index * element_bytes;
}

/* `count` pieces of `bytes` each, whose starts are `step` elements apart. */
static int copy(size_t count, size_t bytes, size_t element_bytes, const void *from,
                size_t from_step, void *to, size_t to_step)
{
  if (from_step * element_bytes == bytes && to_step * element_bytes == bytes) {
    vd_copy(to, from, count * bytes);
    return CUBLAS_STATUS_SUCCESS;
  }
  for (size_t i = 0; i < count; i++)
    vd_copy(element(to, i * to_step, element_bytes),
            element(from, i * from_step, element_bytes), bytes);
  return CUBLAS_STATUS_SUCCESS;
}

#define COPIES_VECTOR(function)                                                       \
  VD_EXPORT int function(int count, int bytes, const void *from, int from_step,       \
                         void *to, int to_step)                                       \
  {                                                                                   \
    return copy((size_t)count, (size_t)bytes, (size_t)bytes, from, (size_t)from_step, \
                to, (size_t)to_step);                                                 \
  }

#define COPIES_MATRIX(function)                                                     \
  VD_EXPORT int function(int rows, int columns, int bytes, const void *from,        \
                         int from_step, void *to, int to_step)                      \
  {                                                                                 \
    return copy((size_t)columns, (size_t)rows * (size_t)bytes, (size_t)bytes, from, \
                (size_t)from_step, to, (size_t)to_step);                            \
  }

/* The stream that the asynchronous ones have beside does not matter here. */
COPIES_VECTOR(cublasSetVector)
COPIES_VECTOR(cublasGetVector)
COPIES_VECTOR(cublasSetVectorAsync)
COPIES_VECTOR(cublasGetVectorAsync)
COPIES_MATRIX(cublasSetMatrix)
COPIES_MATRIX(cublasGetMatrix)
COPIES_MATRIX(cublasSetMatrixAsync)
COPIES_MATRIX(cublasGetMatrixAsync)
