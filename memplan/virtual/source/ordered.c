/* A set of nodes ordered by address (see ordered.h). */
#include "ordered.h"

#include <stddef.h>

static uint64_t priority(const vd_node *node)
{
  uint64_t mixed = ((uint64_t)node->key ^ (uint64_t)node->key >> 32) * 0x9E3779B97F4A7C15u;
  return mixed ^ mixed >> 29;
}

void vd_split(vd_node *tree, uintptr_t key, vd_node **below, vd_node **from)
{
  if (!tree) {
    *below = *from = NULL;
  } else if (tree->key < key) {
    vd_split(tree->right, key, &tree->right, from);
    *below = tree;
  } else {
    vd_split(tree->left, key, below, &tree->left);
    *from = tree;
  }
}

vd_node *vd_join(vd_node *low, vd_node *high)
{
  if (!low || !high)
    return low ? low : high;
  if (priority(low) > priority(high)) {
    low->right = vd_join(low->right, high);
    return low;
  }
  high->left = vd_join(low, high->left);
  return high;
}

void vd_insert(vd_node **tree, vd_node *node)
{
  while (*tree && priority(*tree) >= priority(node))
    tree = node->key < (*tree)->key ? &(*tree)->left : &(*tree)->right;
  vd_split(*tree, node->key, &node->left, &node->right);
  *tree = node;
}

vd_node *vd_remove(vd_node **tree, uintptr_t key)
{
  while (*tree && (*tree)->key != key)
    tree = key < (*tree)->key ? &(*tree)->left : &(*tree)->right;
  vd_node *found = *tree;
  if (found)
    *tree = vd_join(found->left, found->right);
  return found;
}

vd_node *vd_at_or_below(vd_node *tree, uintptr_t key)
{
  vd_node *best = NULL;
  while (tree) {
    if (tree->key <= key) {
      best = tree;
      tree = tree->right;
    } else {
      tree = tree->left;
    }
  }
  return best;
}

vd_node *vd_at_or_above(vd_node *tree, uintptr_t key)
{
  vd_node *best = NULL;
  while (tree) {
    if (tree->key >= key) {
      best = tree;
      tree = tree->left;
    } else {
      tree = tree->right;
    }
  }
  return best;
}
