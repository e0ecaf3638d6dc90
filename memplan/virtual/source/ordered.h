/* A set of nodes ordered by address, for everything that is looked up by "which one holds
 * this address": a treap whose priorities are hashes of the keys, so that the same keys
 * always make the same tree. The node is the first member of what it orders. */
#ifndef MEMPLAN_ORDERED_H
#define MEMPLAN_ORDERED_H

#include <stdint.h>

typedef struct vd_node {
  uintptr_t key;
  struct vd_node *left, *right;
} vd_node;

/* Two sets in place of `tree`: the keys below `key`, and those from it on. */
void vd_split(vd_node *tree, uintptr_t key, vd_node **below, vd_node **from);
/* One set in place of two; every key of `low` is below every key of `high`. */
vd_node *vd_join(vd_node *low, vd_node *high);

void vd_insert(vd_node **tree, vd_node *node);
vd_node *vd_remove(vd_node **tree, uintptr_t key);           /* NULL: there was none */
vd_node *vd_at_or_below(vd_node *tree, uintptr_t key);       /* the greatest such */
vd_node *vd_at_or_above(vd_node *tree, uintptr_t key);       /* the least such */

#endif
