/* cuSPARSE's versions, messages and sparse matrices (cusparse.h), whose sizes are read
 * back. Its routines compute and do nothing; the sizes of their buffers are not public,
 * and are generated as unsupported. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "device.h"
#include "versions.h"

#ifndef VD_CUSPARSE_VERSION
#define VD_CUSPARSE_VERSION 0
#endif

/* cusparseStatus_t */
enum {
  CUSPARSE_STATUS_SUCCESS = 0,
  CUSPARSE_STATUS_NOT_INITIALIZED = 1,
  CUSPARSE_STATUS_ALLOC_FAILED = 2,
  CUSPARSE_STATUS_INVALID_VALUE = 3,
  CUSPARSE_STATUS_NOT_SUPPORTED = 10
};

typedef struct {
  int64_t rows;
  int64_t columns;
  int64_t nonzeros;
} sparse_matrix;

/* ---- matrices: what follows the three sizes is where they lie and of which types ----
 */

static int create(sparse_matrix **made, int64_t rows, int64_t columns, int64_t nonzeros)
{
  *made = malloc(sizeof **made);
  if (*made == NULL)
    return CUSPARSE_STATUS_ALLOC_FAILED;
  **made = (sparse_matrix){rows, columns, nonzeros};
  return CUSPARSE_STATUS_SUCCESS;
}

VD_EXPORT int cusparseCreateCsr(sparse_matrix **made, int64_t rows, int64_t columns,
                                int64_t nonzeros)
{
  return create(made, rows, columns, nonzeros);
}

VD_EXPORT int cusparseCreateConstCsr(sparse_matrix **made, int64_t rows,
                                     int64_t columns, int64_t nonzeros)
{
  return create(made, rows, columns, nonzeros);
}

VD_EXPORT int cusparseCreateCsc(sparse_matrix **made, int64_t rows, int64_t columns,
                                int64_t nonzeros)
{
  return create(made, rows, columns, nonzeros);
}

VD_EXPORT int cusparseCreateCoo(sparse_matrix **made, int64_t rows, int64_t columns,
                                int64_t nonzeros)
{
  return create(made, rows, columns, nonzeros);
}

VD_EXPORT int cusparseCreateConstCoo(sparse_matrix **made, int64_t rows,
                                     int64_t columns, int64_t nonzeros)
{
  return create(made, rows, columns, nonzeros);
}

/* After a product of sparse matrices the number of nonzeros depends on their values. */
VD_EXPORT int cusparseSpMatGetSize(const sparse_matrix *asked, int64_t *rows,
                                   int64_t *columns, int64_t *nonzeros)
{
  vd_unsupported("cusparseSpMatGetSize (nonzeros of a product)");
  *rows = asked->rows;
  *columns = asked->columns;
  *nonzeros = asked->nonzeros;
  return CUSPARSE_STATUS_SUCCESS;
}

/* ---- versions and messages ---- */

VD_EXPORT int cusparseGetVersion(void *handle, int *version)
{
  (void)handle;
  *version = VD_CUSPARSE_VERSION;
  return CUSPARSE_STATUS_SUCCESS;
}

VD_EXPORT int cusparseGetProperty(int property, int *value)
{
  int known = version_part(VD_CUSPARSE_VERSION, 1000, property, value);
  return known ? CUSPARSE_STATUS_SUCCESS : CUSPARSE_STATUS_INVALID_VALUE;
}

VD_EXPORT const char *cusparseGetErrorName(int status)
{
  switch (status) {
  case CUSPARSE_STATUS_SUCCESS:
    return "CUSPARSE_STATUS_SUCCESS";
  case CUSPARSE_STATUS_NOT_INITIALIZED:
    return "CUSPARSE_STATUS_NOT_INITIALIZED";
  case CUSPARSE_STATUS_ALLOC_FAILED:
    return "CUSPARSE_STATUS_ALLOC_FAILED";
  case CUSPARSE_STATUS_INVALID_VALUE:
    return "CUSPARSE_STATUS_INVALID_VALUE";
  case CUSPARSE_STATUS_NOT_SUPPORTED:
    return "CUSPARSE_STATUS_NOT_SUPPORTED";
  default:
    return "unrecognized error code";
  }
}

VD_EXPORT const char *cusparseGetErrorString(int status)
{
  return cusparseGetErrorName(status);
}
