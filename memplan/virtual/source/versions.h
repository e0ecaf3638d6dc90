/* The parts of a library's version number, which every CUDA library answers alike
 * (libraryPropertyType in library_types.h). */
#ifndef MEMPLAN_VERSIONS_H
#define MEMPLAN_VERSIONS_H

enum { MAJOR_VERSION = 0, MINOR_VERSION = 1, PATCH_LEVEL = 2 };

/* 12603 is 12.6.3 where a major version weighs 1000, as 130101 is 13.1.1 where it
 * weighs 10000. Returns 0 where `property` is none of the three. */
static inline int version_part(int version, int major_weight, int property, int *value)
{
  switch (property) {
  case MAJOR_VERSION:
    *value = version / major_weight;
    return 1;
  case MINOR_VERSION:
    *value = version % major_weight / 100;
    return 1;
  case PATCH_LEVEL:
    *value = version % 100;
    return 1;
  default:
    return 0;
  }
}

#endif
