/* What the kqueue backend uses of kqueue(2), with FreeBSD's values and layout: enough to compile it
 * where there is no kqueue, and, with emulation.c, to run it there. */
#ifndef LONGWIRE_TESTS_KQUEUE_EVENT_H
#define LONGWIRE_TESTS_KQUEUE_EVENT_H

#include <stdint.h>
#include <time.h>

#define EVFILT_READ (-1)
#define EVFILT_WRITE (-2)
#define EVFILT_USER (-11)

#define EV_ADD 0x0001
#define EV_DELETE 0x0002
#define EV_ENABLE 0x0004
#define EV_DISABLE 0x0008
#define EV_ONESHOT 0x0010
#define EV_CLEAR 0x0020
#define EV_DISPATCH 0x0080
#define EV_ERROR 0x4000
#define EV_EOF 0x8000

#define NOTE_TRIGGER 0x01000000

struct kevent {
  uintptr_t ident;
  short filter;
  unsigned short flags;
  unsigned int fflags;
  int64_t data;
  void *udata;
};

int kqueue(void);
int kevent(int kq, const struct kevent *changes, int changes_count, struct kevent *events,
           int events_count, const struct timespec *timeout);

#endif
