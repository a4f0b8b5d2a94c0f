/* What an epoll instance is told of a descriptor: known and wanted interest, and the one call that
 * leads from the first to the second. Any series of changes within a turn collapses to its last
 * wish, so the merge rules follow: ADD+MOD = ADD with the last mask, MOD+MOD = the last, ADD+DEL =
 * nothing, DEL+ADD = MOD. */
#ifndef LONGWIRE_INTEREST_H
#define LONGWIRE_INTEREST_H

#include <stdint.h>

enum interest { INTEREST_NONE = 0, INTEREST_IN = 1, INTEREST_OUT = 2, INTEREST_REGISTERED = 4 };

enum interest_call { CALL_NOTHING, CALL_ADD, CALL_MOD, CALL_DEL };

static inline enum interest_call interest_change(uint8_t known, uint8_t wanted) {
  if (known == wanted) return CALL_NOTHING;
  if (!(known & INTEREST_REGISTERED)) return CALL_ADD;
  if (!(wanted & INTEREST_REGISTERED)) return CALL_DEL;
  return CALL_MOD;
}

#endif
