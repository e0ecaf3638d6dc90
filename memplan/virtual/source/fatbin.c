/* Which code of a fat binary a driver takes for the card. Libraries such as CUB size their
 * temporary memory by the architecture of the code that runs, not by that of the card: on
 * a card of compute capability 8.9, a PyTorch built for 8.6 and 9.0 runs code for 8.6.
 *
 * The layout is not published; it is what fat binaries made by nvcc 11 to 13 have. Only
 * the headers are read, so that the code itself is never paged in. */
#include "core.h"

#define WRAPPER_MAGIC 0x466243b1u
#define FATBIN_MAGIC 0xba55ed50u

typedef struct {
  uint32_t magic, version;
  const void *fatbin;
} wrapper;

typedef struct {
  uint32_t magic;
  uint16_t version, header_bytes;
  uint64_t bytes; /* of the images that follow the header */
} fatbin;

enum { PTX = 1, MACHINE_CODE = 2 };

typedef struct {
  uint16_t kind, version;
  uint32_t header_bytes;
  uint64_t bytes; /* of what follows the header */
  uint32_t compressed_bytes, options;
  uint16_t minor, major;
  uint32_t architecture; /* 90 for sm_90 */
} image;

/* The best of the architectures that were seen, 0: none of this sort */
typedef struct {
  int native; /* machine code that runs: of the same major version, and not newer */
  int ptx;    /* PTX that the driver can compile: not newer */
  int lowest; /* machine code of any sort */
} choice;

static void consider(choice *best, const image *candidate, int card)
{
  int architecture = (int)candidate->architecture;
  int runs = architecture <= card;
  if (candidate->kind == PTX) {
    if (runs && architecture > best->ptx)
      best->ptx = architecture;
    return;
  }
  if (runs && architecture / 10 == card / 10 && architecture > best->native)
    best->native = architecture;
  if (!best->lowest || architecture < best->lowest)
    best->lowest = architecture;
}

/* Up to code made for this very card, so that as few pages as possible are read */
static choice consider_all(const fatbin *whole, int card)
{
  choice best = {0, 0, 0};
  const char *next = (const char *)whole + whole->header_bytes;
  const char *end = next + whole->bytes;
  while (next < end && best.native != card) {
    const image *candidate = (const image *)next;
    if (candidate->kind == PTX || candidate->kind == MACHINE_CODE)
      consider(&best, candidate, card);
    next += candidate->header_bytes + candidate->bytes;
  }
  return best;
}

vd_code vd_code_for_card(const void *fat_binary_wrapper)
{
  int card = 10 * vd_the_card()->major + vd_the_card()->minor;
  const wrapper *outer = fat_binary_wrapper;
  const fatbin *whole = outer && outer->magic == WRAPPER_MAGIC ? outer->fatbin : NULL;
  if (!whole || whole->magic != FATBIN_MAGIC)
    return (vd_code){card, card, 1};
  choice best = consider_all(whole, card);
  if (best.native)
    return (vd_code){best.native, best.native, 1};
  if (best.ptx)
    return (vd_code){best.ptx, card, 1};
  return (vd_code){best.lowest, best.lowest, 0};
}
