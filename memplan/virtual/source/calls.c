/* Calls that the device does not play: counted by name, so that a report can list them. */
#define _GNU_SOURCE
#include "core.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define MAX_NAMES 512

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
  const char *name;
  unsigned long long count;
} calls[MAX_NAMES];
static int num_calls;

static int is_called(int i, const char *name)
{
  return calls[i].name == name || !strcmp(calls[i].name, name);
}

void vd_unsupported(const char *function)
{
  pthread_mutex_lock(&lock);
  int i = 0;
  while (i < num_calls && !is_called(i, function))
    i++;
  int is_new = i == num_calls && num_calls < MAX_NAMES;
  if (is_new) {
    calls[i].name = function;
    num_calls++;
  }
  if (i < num_calls)
    calls[i].count++;
  pthread_mutex_unlock(&lock);
  if (is_new)
    vd_log("not played: %s\n", function);
}

long vd_default(const char *function, int compute)
{
  if (!compute)
    vd_unsupported(function);
  return 0;
}

size_t vd_unsupported_calls(char *text, size_t room)
{
  size_t needed = 1;
  pthread_mutex_lock(&lock);
  if (room)
    text[0] = '\0';
  for (int i = 0; i < num_calls; i++) {
    char line[256];
    int length = snprintf(line, sizeof line, "%s %llu\n", calls[i].name, calls[i].count);
    if (needed + (size_t)length <= room)
      memcpy(text + needed - 1, line, (size_t)length + 1);
    needed += (size_t)length;
  }
  pthread_mutex_unlock(&lock);
  return needed;
}
