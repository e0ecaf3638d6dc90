/* The card that is played: MEMPLAN_DEVICE, read once, and the devices that
 * CUDA_VISIBLE_DEVICES leaves the program.
 *
 * Without MEMPLAN_DEVICE there is no device at all: a program that finds these libraries
 * preloaded by mistake behaves as on a machine without a GPU, and is told why. */
#define _GNU_SOURCE
#include "core.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static vd_card card;

/* ---- "key=value;..." ---- */

typedef struct {
  const char *key;
  enum { INT, SIZE } type;
  void *field;
  int required;
  int seen;
} card_key;

/* What every card has must be said; the rest has a default. */
static card_key keys[] = {
    {"count", INT, &card.count, 0, 0},
    {"total_bytes", SIZE, &card.total_bytes, 1, 0},
    {"context_bytes", SIZE, &card.context_bytes, 0, 0},
    {"nccl_bytes", SIZE, &card.nccl_bytes, 0, 0},
    {"num_sms", INT, &card.num_sms, 1, 0},
    {"threads_per_sm", INT, &card.threads_per_sm, 1, 0},
    {"blocks_per_sm", INT, &card.blocks_per_sm, 1, 0},
    {"shared_per_sm", INT, &card.shared_per_sm, 1, 0},
    {"shared_optin", INT, &card.shared_optin, 1, 0},
    {"shared_reserved", INT, &card.shared_reserved, 1, 0},
    {"l2_bytes", INT, &card.l2_bytes, 1, 0},
    {"clock_khz", INT, &card.clock_khz, 1, 0},
    {"memory_clock_khz", INT, &card.memory_clock_khz, 1, 0},
    {"bus_bits", INT, &card.bus_bits, 1, 0},
    {"copy_engines", INT, &card.copy_engines, 1, 0},
    {"driver_version", INT, &card.driver_version, 0, 0},
    {"copy_limit", SIZE, &card.copy_limit, 0, 0},
};
enum { NUM_KEYS = sizeof keys / sizeof *keys };

static void refuse(const char *what, const char *about)
{
  fprintf(stderr, "memplan: MEMPLAN_DEVICE %s '%s'; no device is offered\n", what, about);
  memset(&card, 0, sizeof card);
}

static int read_number(const char *text, long long *number)
{
  char *end;
  errno = 0;
  *number = strtoll(text, &end, 10);
  return *text && !*end && !errno && *number >= 0;
}

/* 0: neither a key of the card nor a value that it can have */
static int set_number(const char *key, long long number)
{
  if (!strcmp(key, "compute_capability")) { /* 90: 9.0, 120: 12.0 */
    card.major = (int)(number / 10);
    card.minor = (int)(number % 10);
    return number > 0;
  }
  for (int i = 0; i < NUM_KEYS; i++) {
    if (strcmp(key, keys[i].key))
      continue;
    keys[i].seen = 1;
    if (keys[i].type == SIZE)
      *(size_t *)keys[i].field = (size_t)number;
    else
      *(int *)keys[i].field = (int)number;
    return number <= INT32_MAX || keys[i].type == SIZE;
  }
  return 0;
}

static int set_field(const char *key, const char *value)
{
  long long number;
  if (!strcmp(key, "name")) {
    snprintf(card.name, sizeof card.name, "%s", value);
    return 1;
  }
  if (!strcmp(key, "addresses")) {
    card.addresses_rise = !strcmp(value, "up");
    return card.addresses_rise || !strcmp(value, "down");
  }
  return read_number(value, &number) && set_number(key, number);
}

static void read_description(char *text)
{
  char *rest = NULL;
  for (char *item = strtok_r(text, ";", &rest); item; item = strtok_r(NULL, ";", &rest)) {
    char *equals = strchr(item, '=');
    if (!equals) {
      refuse("has an item without '=':", item);
      return;
    }
    *equals = '\0';
    if (!set_field(item, equals + 1)) {
      refuse("has an unknown key, or a value that does not fit it:", item);
      return;
    }
  }
  for (int i = 0; i < NUM_KEYS; i++) {
    if (keys[i].required && !keys[i].seen) {
      refuse("does not say", keys[i].key);
      return;
    }
  }
  if (!card.major)
    refuse("does not say", "compute_capability");
  if (card.count > VD_MAX_DEVICES)
    refuse("asks for too many devices in", "count");
}

static void read_card(void)
{
  const char *description = getenv("MEMPLAN_DEVICE");
  if (!description) {
    fputs("memplan: the libraries of the virtual device are loaded, but MEMPLAN_DEVICE "
          "describes no card; no device is offered\n", stderr);
    return;
  }
  snprintf(card.name, sizeof card.name, "Virtual CUDA device");
  card.count = 1;
  card.driver_version = VD_RUNTIME_VERSION;
  card.copy_limit = (size_t)1 << 20;
  char *text = strdup(description);
  read_description(text);
  free(text);
}

const vd_card *vd_the_card(void)
{
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, read_card);
  return &card;
}

/* ---- visible devices ---- */

static struct {
  int count;
  int physical[VD_MAX_DEVICES];
} visible;

void vd_uuid(int physical, unsigned char uuid[16])
{
  memset(uuid, 0, 16);
  memcpy(uuid, "memplan", 7);
  uuid[15] = (unsigned char)physical;
}

int vd_pci_bus(int physical)
{
  return 0x10 + physical;
}

/* "GPU-" and the start of a UUID, as nvidia-smi prints it */
static int has_uuid(int physical, const char *prefix)
{
  unsigned char uuid[16];
  char text[64];
  int length = snprintf(text, sizeof text, "GPU-");
  vd_uuid(physical, uuid);
  for (int i = 0; i < 16; i++) {
    const char *dash = i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "";
    length += snprintf(text + length, sizeof text - (size_t)length, "%s%02x", dash, uuid[i]);
  }
  return !strncasecmp(text, prefix, strlen(prefix));
}

/* The device that an item of CUDA_VISIBLE_DEVICES names, -1: none */
static int named_device(const char *item)
{
  long long number;
  int count = vd_the_card()->count;
  if (read_number(item, &number))
    return number < count ? (int)number : -1;
  if (strncasecmp(item, "GPU-", 4))
    return -1;
  for (int physical = 0; physical < count; physical++)
    if (has_uuid(physical, item))
      return physical;
  return -1;
}

/* As CUDA does: the list ends at the first item that names no device, and one that names
 * a device twice leaves none. */
static void read_visible_list(char *text)
{
  char *rest = NULL;
  for (char *item = strtok_r(text, ", ", &rest); item; item = strtok_r(NULL, ", ", &rest)) {
    int physical = named_device(item);
    if (physical < 0)
      return;
    if (vd_device_of(physical) >= 0) {
      visible.count = 0;
      return;
    }
    visible.physical[visible.count++] = physical;
  }
}

static void read_visible(void)
{
  const char *list = getenv("CUDA_VISIBLE_DEVICES");
  if (!list) {
    visible.count = vd_the_card()->count;
    for (int i = 0; i < visible.count; i++)
      visible.physical[i] = i;
    return;
  }
  char *text = strdup(list);
  read_visible_list(text);
  free(text);
}

int vd_num_devices(void)
{
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, read_visible);
  return visible.count;
}

int vd_physical(int device)
{
  return device < vd_num_devices() ? visible.physical[device] : -1;
}

/* Asked by NVML too, which must not settle what is visible: until then all is hidden. */
int vd_device_of(int physical)
{
  for (int i = 0; i < visible.count; i++)
    if (visible.physical[i] == physical)
      return i;
  return -1;
}

/* ---- the log ---- */

static FILE *log_file;

static void open_log(void)
{
  const char *path = getenv("MEMPLAN_DEVICE_LOG");
  if (path && *path)
    log_file = fopen(path, "ae");
}

void vd_log(const char *format, ...)
{
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, open_log);
  if (!log_file)
    return;
  va_list arguments;
  va_start(arguments, format);
  vfprintf(log_file, format, arguments);
  va_end(arguments);
  fflush(log_file);
}
