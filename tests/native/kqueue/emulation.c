/* kqueue(2) on top of epoll(7), as far as the backend uses it: so that the same hammer runs over
 * the kqueue backend where there is no kqueue. Invariant: one thread waits on a queue; from others
 * comes NOTE_TRIGGER only. */
#define _GNU_SOURCE
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/event.h>
#include <unistd.h>

#define DESCRIPTORS_MAX 65536
#define EPOLL_EVENTS 512

enum side { READING, WRITING };

/* A filter on a descriptor. */
struct note {
  void *udata;
  unsigned short flags; /* EV_CLEAR, EV_DISPATCH */
  uint8_t is_there;
  uint8_t is_enabled;
  uint8_t is_active; /* something happened that has not been told */
};

struct queue {
  int epoll_fd;
  void *user_data;
  struct note notes[DESCRIPTORS_MAX][2];
  uint8_t is_listed[DESCRIPTORS_MAX];
  int list[DESCRIPTORS_MAX]; /* descriptors with a note that may be active */
  int list_count;
};

static struct queue *queues[DESCRIPTORS_MAX];

/* Always readable. A queue listens to it for one event once NOTE_TRIGGER came. It is there from the
 * start, because nobody says when a queue is closed. */
static int trigger_fd;

static __attribute__((constructor)) void open_trigger(void) {
  trigger_fd = eventfd(1, EFD_NONBLOCK | EFD_CLOEXEC);
}

int kqueue(void) {
  int fd = epoll_create1(EPOLL_CLOEXEC);
  if (fd < 0) return -1;
  assert(fd < DESCRIPTORS_MAX);
  free(queues[fd]); /* one that has been closed */
  struct queue *q = queues[fd] = calloc(1, sizeof *q);
  q->epoll_fd = fd;
  struct epoll_event event = {.events = EPOLLONESHOT, .data.fd = trigger_fd};
  epoll_ctl(fd, EPOLL_CTL_ADD, trigger_fd, &event);
  return fd;
}

static short poll_now(int fd) {
  struct pollfd p = {.fd = fd, .events = POLLIN | POLLOUT | POLLRDHUP};
  return poll(&p, 1, 0) < 0 ? 0 : p.revents;
}

static int is_ready(short mask, enum side side) {
  const short ends = POLLHUP | POLLERR;
  return (mask & (side == READING ? POLLIN | POLLRDHUP | ends : POLLOUT | ends)) != 0;
}

static void list_add(struct queue *q, int fd) {
  if (q->is_listed[fd]) return;
  q->is_listed[fd] = 1;
  q->list[q->list_count++] = fd;
}

/* ---------------------------------------------------------------- changes */

/* Returns 0 or an errno. */
static int change_note(struct queue *q, const struct kevent *change, enum side side) {
  int fd = (int)change->ident;
  assert(fd >= 0 && fd < DESCRIPTORS_MAX);
  struct note *note = &q->notes[fd][side];
  if (change->flags & EV_ADD) {
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.fd = fd};
    if (epoll_ctl(q->epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0) {
      memset(q->notes[fd], 0, sizeof q->notes[fd]); /* those of a descriptor that was closed */
    } else if (errno != EEXIST) {
      return errno;
    }
    if (!note->is_there) *note = (struct note){.is_there = 1, .is_enabled = 1};
    note->flags = change->flags & (EV_CLEAR | EV_DISPATCH);
  }
  if (!note->is_there) return ENOENT;
  note->udata = change->udata;
  if (change->flags & EV_ENABLE) note->is_enabled = 1;
  if (change->flags & EV_DISABLE) note->is_enabled = 0;
  if (change->flags & EV_DELETE) note->is_there = 0;
  note->is_active |= (uint8_t)is_ready(poll_now(fd), side);
  list_add(q, fd);
  return 0;
}

static int change_one(struct queue *q, const struct kevent *change) {
  struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT, .data.fd = trigger_fd};
  switch (change->filter) {
  case EVFILT_READ:
    return change_note(q, change, READING);
  case EVFILT_WRITE:
    return change_note(q, change, WRITING);
  case EVFILT_USER:
    if (change->flags & EV_ADD) q->user_data = change->udata;
    if (!(change->fflags & NOTE_TRIGGER)) return 0;
    return epoll_ctl(q->epoll_fd, EPOLL_CTL_MOD, trigger_fd, &event) == 0 ? 0 : errno;
  default:
    return EINVAL;
  }
}

/* ---------------------------------------------------------------- events */

/* Tells of one note, if there is something to tell. */
static int tell(struct queue *q, int fd, enum side side, struct kevent *out) {
  struct note *note = &q->notes[fd][side];
  if (!note->is_there || !note->is_enabled || !note->is_active) return 0;
  short mask = poll_now(fd);
  if (mask & POLLNVAL) note->is_there = 0; /* closed: it goes with its notes */
  if (mask & POLLNVAL || !is_ready(mask, side)) {
    note->is_active = 0;
    return 0;
  }
  *out = (struct kevent){.ident = (uintptr_t)fd, .udata = note->udata, .flags = note->flags};
  out->filter = side == READING ? EVFILT_READ : EVFILT_WRITE;
  if (mask & (POLLHUP | POLLERR)) out->flags |= EV_EOF;
  if (side == READING && mask & POLLRDHUP) out->flags |= EV_EOF;
  if (mask & POLLERR) out->fflags = ECONNRESET; /* asking for the error would take it away */
  if (note->flags & (EV_CLEAR | EV_DISPATCH)) note->is_active = 0;
  if (note->flags & EV_DISPATCH) note->is_enabled = 0;
  return 1;
}

static int tell_all(struct queue *q, struct kevent *events, int room) {
  int told = 0;
  int kept = 0;
  for (int i = 0; i < q->list_count; i++) {
    int fd = q->list[i];
    for (int side = READING; side <= WRITING; side++) {
      if (told < room) told += tell(q, fd, (enum side)side, &events[told]);
    }
    /* Without EV_CLEAR it is told again and again, as long as it is so. */
    q->is_listed[fd] = q->notes[fd][READING].is_active || q->notes[fd][WRITING].is_active;
    if (q->is_listed[fd]) q->list[kept++] = fd;
  }
  q->list_count = kept;
  return told;
}

/* Waits for what happens; returns 1 when that was NOTE_TRIGGER. */
static int take_edges(struct queue *q, int timeout_ms) {
  struct epoll_event events[EPOLL_EVENTS];
  int is_triggered = 0;
  int count = epoll_wait(q->epoll_fd, events, EPOLL_EVENTS, timeout_ms);
  for (int i = 0; i < count; i++) {
    int fd = events[i].data.fd;
    uint32_t what = events[i].events;
    if (fd == trigger_fd) {
      is_triggered = 1;
      continue;
    }
    if (what & ~(uint32_t)EPOLLOUT) q->notes[fd][READING].is_active = 1;
    if (what & (EPOLLOUT | EPOLLHUP | EPOLLERR)) q->notes[fd][WRITING].is_active = 1;
    list_add(q, fd);
  }
  return is_triggered;
}

int kevent(int kq, const struct kevent *changes, int changes_count, struct kevent *events,
           int events_count, const struct timespec *timeout) {
  struct queue *q = queues[kq];
  int found = 0;
  for (int i = 0; i < changes_count; i++) {
    int error = change_one(q, &changes[i]);
    if (error == 0) continue;
    if (found == events_count) {
      errno = error;
      return -1;
    }
    events[found] = changes[i];
    events[found].flags = EV_ERROR;
    events[found++].data = error;
  }
  if (found > 0 || events_count == 0) return found;
  int timeout_ms =
      timeout == NULL ? -1 : (int)(timeout->tv_sec * 1000 + (timeout->tv_nsec + 999999) / 1000000);
  for (;;) {
    int is_triggered = take_edges(q, 0);
    found = tell_all(q, events, events_count - 1);
    if (found == 0 && !is_triggered && timeout_ms != 0) {
      is_triggered = take_edges(q, timeout_ms);
      found = tell_all(q, events, events_count - 1);
    }
    if (is_triggered) {
      events[found++] = (struct kevent){.filter = EVFILT_USER, .flags = EV_CLEAR,
                                        .udata = q->user_data};
    }
    /* An edge may have been about something that nobody asked for. */
    if (found > 0 || timeout_ms >= 0) return found;
  }
}
