/* Audiences of one I/O thread: audience number -> slots of the connections in it. A million
 * audiences of one member cost one table entry each; joining and leaving take constant time in an
 * audience of a million. */
#ifndef LONGWIRE_AUDIENCE_H
#define LONGWIRE_AUDIENCE_H

#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define AUDIENCE_FREE 0xffffffffu
#define AUDIENCE_INLINE 2u
/* From here on a member is found by index instead of by looking at all. */
#define AUDIENCE_INDEXED 64u

struct audience_list {
  uint32_t capacity;
  uint32_t index_size; /* power of two; 0 = no index */
  uint32_t *index;     /* position + 1 of the member that hashes here; 0 = empty */
  uint32_t slots[];
};

struct audience {
  uint32_t id; /* AUDIENCE_FREE = empty table entry */
  uint32_t count;
  union {
    uint32_t slots[AUDIENCE_INLINE];
    struct audience_list *list; /* when count exceeded AUDIENCE_INLINE once */
  } u;
  uint32_t is_list;
  uint32_t zero;
};

struct audience_table {
  struct audience *entries;
  uint32_t size; /* power of two; 0 = nothing yet */
  uint32_t count;
};

static inline uint32_t audience_hash(uint32_t value) { return value * 2654435769u; }

static inline uint32_t *audience_slots(struct audience *a) {
  return a->is_list ? a->u.list->slots : a->u.slots;
}

static inline struct audience *audience_find(const struct audience_table *t, uint32_t id) {
  if (t->size == 0) return NULL;
  uint32_t mask = t->size - 1;
  for (uint32_t at = audience_hash(id) & mask;; at = (at + 1) & mask) {
    struct audience *a = &t->entries[at];
    if (a->id == id) return a;
    if (a->id == AUDIENCE_FREE) return NULL;
  }
}

static inline int audience_table_resize(struct audience_table *t, uint32_t size) {
  struct audience *entries = malloc((size_t)size * sizeof *entries);
  if (entries == NULL) return -1;
  for (uint32_t i = 0; i < size; i++) entries[i].id = AUDIENCE_FREE;
  for (uint32_t i = 0; i < t->size; i++) {
    if (t->entries[i].id == AUDIENCE_FREE) continue;
    uint32_t at = audience_hash(t->entries[i].id) & (size - 1);
    while (entries[at].id != AUDIENCE_FREE) at = (at + 1) & (size - 1);
    entries[at] = t->entries[i];
  }
  free(t->entries);
  t->entries = entries;
  t->size = size;
  return 0;
}

static inline struct audience *audience_obtain(struct audience_table *t, uint32_t id) {
  struct audience *found = audience_find(t, id);
  if (found != NULL) return found;
  if ((uint64_t)(t->count + 1) * 4 > (uint64_t)t->size * 3 &&
      audience_table_resize(t, t->size == 0 ? 64 : t->size * 2) != 0) {
    return NULL;
  }
  uint32_t mask = t->size - 1;
  uint32_t at = audience_hash(id) & mask;
  while (t->entries[at].id != AUDIENCE_FREE) at = (at + 1) & mask;
  t->entries[at] = (struct audience){.id = id};
  t->count++;
  return &t->entries[at];
}

/* Takes an entry out of the table, moving back what had been pushed behind it. */
static inline void audience_table_remove(struct audience_table *t, struct audience *a) {
  uint32_t mask = t->size - 1;
  uint32_t hole = (uint32_t)(a - t->entries);
  for (uint32_t at = (hole + 1) & mask; t->entries[at].id != AUDIENCE_FREE; at = (at + 1) & mask) {
    uint32_t home = audience_hash(t->entries[at].id) & mask;
    if (((at - home) & mask) < ((at - hole) & mask)) continue;
    t->entries[hole] = t->entries[at];
    hole = at;
  }
  t->entries[hole].id = AUDIENCE_FREE;
  t->count--;
}

static inline void audience_index_put(struct audience_list *l, uint32_t position) {
  uint32_t mask = l->index_size - 1;
  uint32_t at = audience_hash(l->slots[position]) & mask;
  while (l->index[at] != 0) at = (at + 1) & mask;
  l->index[at] = position + 1;
}

/* Place in the index of a member that is there. */
static inline uint32_t audience_index_at(const struct audience_list *l, uint32_t position) {
  uint32_t mask = l->index_size - 1;
  uint32_t at = audience_hash(l->slots[position]) & mask;
  while (l->index[at] != position + 1) at = (at + 1) & mask;
  return at;
}

static inline void audience_index_remove(struct audience_list *l, uint32_t hole) {
  uint32_t mask = l->index_size - 1;
  for (uint32_t at = (hole + 1) & mask; l->index[at] != 0; at = (at + 1) & mask) {
    uint32_t home = audience_hash(l->slots[l->index[at] - 1]) & mask;
    if (((at - home) & mask) < ((at - hole) & mask)) continue;
    l->index[hole] = l->index[at];
    hole = at;
  }
  l->index[hole] = 0;
}

/* Position of a slot, or count when it is not a member. */
static inline uint32_t audience_position(struct audience *a, uint32_t slot) {
  uint32_t *slots = audience_slots(a);
  if (!a->is_list || a->u.list->index_size == 0) {
    uint32_t at = 0;
    while (at < a->count && slots[at] != slot) at++;
    return at;
  }
  struct audience_list *l = a->u.list;
  uint32_t mask = l->index_size - 1;
  for (uint32_t at = audience_hash(slot) & mask; l->index[at] != 0; at = (at + 1) & mask) {
    if (slots[l->index[at] - 1] == slot) return l->index[at] - 1;
  }
  return a->count;
}

static inline int audience_grow(struct audience *a) {
  uint32_t capacity = a->is_list ? a->u.list->capacity * 2 : 8;
  struct audience_list *l = malloc(sizeof *l + capacity * sizeof l->slots[0]);
  if (l == NULL) return -1;
  *l = (struct audience_list){.capacity = capacity};
  memcpy(l->slots, audience_slots(a), a->count * sizeof l->slots[0]);
  if (capacity > AUDIENCE_INDEXED) {
    l->index_size = capacity * 2;
    l->index = calloc(l->index_size, sizeof l->index[0]);
    if (l->index == NULL) {
      free(l);
      return -1;
    }
    for (uint32_t i = 0; i < a->count; i++) audience_index_put(l, i);
  }
  if (a->is_list) {
    free(a->u.list->index);
    free(a->u.list);
  }
  a->u.list = l;
  a->is_list = 1;
  return 0;
}

/* Returns 0, also for a slot that is a member already, or -1 (no memory). */
static inline int audience_join(struct audience_table *t, uint32_t id, uint32_t slot) {
  struct audience *a = audience_obtain(t, id);
  if (a == NULL) return -1;
  if (audience_position(a, slot) < a->count) return 0;
  uint32_t capacity = a->is_list ? a->u.list->capacity : AUDIENCE_INLINE;
  if (a->count == capacity && audience_grow(a) != 0) {
    if (a->count == 0) audience_table_remove(t, a);
    return -1;
  }
  audience_slots(a)[a->count] = slot;
  if (a->is_list && a->u.list->index_size != 0) audience_index_put(a->u.list, a->count);
  a->count++;
  return 0;
}

/* A slot that is no member is left alone. */
static inline void audience_leave(struct audience_table *t, uint32_t id, uint32_t slot) {
  struct audience *a = audience_find(t, id);
  if (a == NULL) return;
  uint32_t at = audience_position(a, slot);
  if (at == a->count) return;
  uint32_t *slots = audience_slots(a);
  uint32_t last = a->count - 1;
  if (a->is_list && a->u.list->index_size != 0) {
    struct audience_list *l = a->u.list;
    audience_index_remove(l, audience_index_at(l, at));
    if (at != last) l->index[audience_index_at(l, last)] = at + 1;
  }
  slots[at] = slots[last];
  a->count = last;
  if (last > 0) return;
  if (a->is_list) {
    free(a->u.list->index);
    free(a->u.list);
  }
  audience_table_remove(t, a);
}

static inline void audience_table_free(struct audience_table *t) {
  for (uint32_t i = 0; i < t->size; i++) {
    if (t->entries[i].id == AUDIENCE_FREE || !t->entries[i].is_list) continue;
    free(t->entries[i].u.list->index);
    free(t->entries[i].u.list);
  }
  free(t->entries);
  *t = (struct audience_table){0};
}

#endif
