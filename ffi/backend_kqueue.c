/* The kqueue backend, for FreeBSD, macOS, NetBSD and OpenBSD: every operation is tried first and
 * waits for its event when the kernel says EAGAIN. Reading is edge-triggered (EV_CLEAR), waiting to
 * write fires once (EV_DISPATCH), what changes in a turn goes down with the kevent(2) that waits.
 * Invariant: a descriptor is closed only between two waits, so that no change and no event that is
 * still to be looked at means another connection. */
#include <sys/types.h>

#include <sys/event.h>
#include <sys/uio.h>

#include "interest.h"

#define KQUEUE_EVENTS 512
#define SEND_VECTORS 64
#define ACCEPTS_PER_TURN 256
/* udata of what is no connection. */
#define DATA_WAKEUP UINT64_MAX
#define DATA_LISTENER (UINT64_MAX - 1 - LISTENERS_MAX)

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* macOS: SO_NOSIGPIPE does it */
#endif

_Static_assert(sizeof(((struct kevent *)0)->udata) == 8, "udata holds slot and generation");

enum backend_flags {
  IN_CHANGES = 1, /* in b->changing */
  PEER_ENDED = 2, /* EV_EOF came: read on to the end of the stream */
};

struct backend {
  int kqueue_fd;
  int reserve_fd; /* given up to accept, and refuse, when no descriptor is left */
  struct slot_list changing;
  struct slot_list closing;
  struct kevent *changes;
  uint32_t changes_capacity;
  struct kevent events[KQUEUE_EVENTS];
  uint8_t buffer[READ_BYTES];
};

static const char *backend_name(void) { return "kqueue"; }

/* Every kernel that this builds for has it. */
int lw_probe(char *why, int size) {
  if (size > 0) why[0] = 0;
  return 0;
}

/* udata is a pointer, or an integer in older NetBSD. */
static struct kevent kevent_of(int ident, int filter, unsigned flags, uint64_t data) {
  struct kevent e;
  memset(&e, 0, sizeof e);
  e.ident = (__typeof__(e.ident))ident;
  e.filter = (__typeof__(e.filter))filter;
  e.flags = (__typeof__(e.flags))flags;
  e.udata = (__typeof__(e.udata))(uintptr_t)data;
  return e;
}

static int kqueue_change(int kqueue_fd, struct kevent change) {
  return kevent(kqueue_fd, &change, 1, NULL, 0, NULL) == 0 ? 0 : -errno;
}

static int backend_open(struct io_thread *t) {
  struct backend *b = calloc(1, sizeof *b);
  if (b == NULL) return -ENOMEM;
  t->backend = b;
  b->reserve_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
  b->kqueue_fd = kqueue();
  int error = b->kqueue_fd < 0 ? -errno : 0;
  if (error == 0) {
    fcntl(b->kqueue_fd, F_SETFD, FD_CLOEXEC);
    error = kqueue_change(b->kqueue_fd, kevent_of(0, EVFILT_USER, EV_ADD | EV_CLEAR, DATA_WAKEUP));
  }
  if (error != 0) backend_shut(t);
  return error;
}

static void backend_shut(struct io_thread *t) {
  struct backend *b = t->backend;
  for (uint32_t slot = 0; slot < t->slot_count; slot++) {
    struct connection *c = connection_at(t, slot);
    if (c->fd >= 0) close(c->fd);
  }
  for (uint32_t i = 0; i < LISTENERS_MAX; i++) {
    if (t->listen_fds[i] >= 0) close(t->listen_fds[i]);
  }
  if (b->kqueue_fd >= 0) close(b->kqueue_fd);
  if (b->reserve_fd >= 0) close(b->reserve_fd);
  free(b->changing.slots);
  free(b->closing.slots);
  free(b->changes);
  free(b);
}

static uint32_t backend_fds(const struct io_thread *t, int *fds) {
  const struct backend *b = t->backend;
  fds[0] = b->kqueue_fd;
  fds[1] = __atomic_load_n(&b->reserve_fd, __ATOMIC_RELAXED);
  return 2;
}

static void backend_wake(struct io_thread *t) {
  struct kevent trigger = kevent_of(0, EVFILT_USER, 0, DATA_WAKEUP);
  trigger.fflags = NOTE_TRIGGER;
  kqueue_change(t->backend->kqueue_fd, trigger);
}

static int backend_listen(struct io_thread *t, uint32_t index) {
  return kqueue_change(t->backend->kqueue_fd,
                       kevent_of(t->listen_fds[index], EVFILT_READ, EV_ADD, DATA_LISTENER + index));
}

static void backend_unlisten(struct io_thread *t, uint32_t index) { close(t->listen_fds[index]); }

/* ---------------------------------------------------------------- operations */

static void want(struct io_thread *t, struct connection *c, uint8_t on, uint8_t off) {
  uint8_t wanted = (uint8_t)((c->interest_wanted | on) & ~off);
  if (wanted == c->interest_wanted) return;
  c->interest_wanted = wanted;
  if (c->backend_flags & IN_CHANGES) return;
  if (slot_list_push(&t->backend->changing, c->slot) != 0) return end(t, c, LW_CODE_NO_MEMORY);
  c->backend_flags |= IN_CHANGES;
}

static int backend_adopt(struct io_thread *t, struct connection *c) {
  want(t, c, INTEREST_REGISTERED | INTEREST_IN, 0);
  return 0;
}

static void backend_read_stop(struct io_thread *t, struct connection *c) {
  want(t, c, 0, INTEREST_IN);
}

static void backend_read(struct io_thread *t, struct connection *c) {
  struct backend *b = t->backend;
  want(t, c, INTEREST_IN, 0);
  uint32_t budget = READ_TURN_BYTES;
  while (takes_bytes(c)) {
    ssize_t size = recv(c->fd, b->buffer, READ_BYTES, MSG_DONTWAIT);
    if (size < 0) {
      if (errno == EINTR) continue;
      if (errno != EAGAIN && errno != EWOULDBLOCK) failed(t, c);
      return;
    }
    received(t, c, b->buffer, (uint32_t)size);
    if (size == 0) return;
    if (size < READ_BYTES && !(c->backend_flags & PEER_ENDED)) return; /* drained */
    if (budget <= (uint32_t)size) {
      if (takes_bytes(c)) mark_ready(t, c);
      return;
    }
    budget -= (uint32_t)size;
  }
}

/* The transport takes no more: the next event goes on. */
static void block_writing(struct io_thread *t, struct connection *c) {
  c->out->blocked = 1;
  out_detach(c->out);
  want(t, c, INTEREST_OUT, 0);
}

static void backend_flush(struct io_thread *t, struct connection *c) {
  while (c->out != NULL && c->out->bytes > 0 && !c->out->blocked) {
    uint32_t ready = sendable(t, c);
    if (ready == 0) return;
    struct out_queue *q = c->out;
    struct iovec vectors[SEND_VECTORS];
    uint32_t count = 0;
    size_t asked = 0;
    for (; count < ready && count < SEND_VECTORS; count++) {
      const struct out_entry *e = out_at(q, count);
      uint32_t skip = count == 0 ? q->sent : 0;
      vectors[count] = (struct iovec){e->block->bytes + e->offset + skip, e->size - skip};
      asked += e->size - skip;
    }
    struct msghdr message;
    memset(&message, 0, sizeof message);
    message.msg_iov = vectors;
    message.msg_iovlen = (__typeof__(message.msg_iovlen))count;
    ssize_t size = sendmsg(c->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    COUNT(t, sends, 1);
    if (size < 0) {
      if (errno == EINTR) continue;
      if (errno == EAGAIN || errno == EWOULDBLOCK) block_writing(t, c);
      else failed(t, c);
      return;
    }
    sent(t, c, (uint32_t)size);
    if ((size_t)size < asked) return block_writing(t, c);
  }
}

static void backend_end_write(struct io_thread *t, struct connection *c) {
  (void)t;
  shutdown(c->fd, SHUT_WR);
}

static void backend_close(struct io_thread *t, struct connection *c) {
  /* Deferred: the events of this wait may still name the descriptor. */
  if (slot_list_push(&t->backend->closing, c->slot) == 0) return;
  close(c->fd);
  c->fd = -1;
  c->flags |= DESCRIPTOR_GONE;
}

static void backend_address(struct io_thread *t, struct connection *c) {
  struct sockaddr_storage address;
  socklen_t size = sizeof address;
  if (getpeername(c->fd, (struct sockaddr *)&address, &size) != 0) return addressed(t, c);
  if (address.ss_family == AF_INET) {
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)&address;
    c->peer_family = 4;
    c->peer_port = ntohs(v4->sin_port);
    memcpy(c->peer_address, &v4->sin_addr, 4);
  } else {
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&address;
    c->peer_family = 6;
    c->peer_port = ntohs(v6->sin6_port);
    memcpy(c->peer_address, &v6->sin6_addr, 16);
  }
  addressed(t, c);
}

/* ---------------------------------------------------------------- accepting */

/* accept4(2) is not everywhere, and what is inherited from the listener differs. */
static int accept_socket(int listen_fd) {
  int fd = accept(listen_fd, NULL, NULL);
  if (fd < 0) return -1;
  fcntl(fd, F_SETFD, FD_CLOEXEC);
  fcntl(fd, F_SETFL, O_NONBLOCK);
#ifdef SO_NOSIGPIPE
  set_option(fd, SOL_SOCKET, SO_NOSIGPIPE, 1);
#endif
  return fd;
}

static void turn_away(const struct listener *l, int fd) {
  send(fd, l->busy, l->busy_size, MSG_NOSIGNAL | MSG_DONTWAIT);
  close(fd);
}

/* No descriptor is left: one is freed to take the connection, and to end it, so that it does not
 * rot. */
static int accept_without_descriptors(struct io_thread *t, uint32_t index) {
  struct backend *b = t->backend;
  if (b->reserve_fd >= 0) close(b->reserve_fd); /* else another thread was faster the last time */
  int fd = accept_socket(t->listen_fds[index]);
  if (fd >= 0) {
    turn_away(&t->reactor->listeners[index], fd);
    COUNT(t, closed[LW_CODE_NO_MEMORY], 1);
  }
  b->reserve_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
  return fd;
}

static void accept_some(struct io_thread *t, uint32_t index) {
  for (int i = 0; i < ACCEPTS_PER_TURN && t->listen_fds[index] >= 0; i++) {
    int fd = accept_socket(t->listen_fds[index]);
    if (fd < 0) {
      if (errno == EINTR || errno == ECONNABORTED) continue;
      if (errno != EMFILE && errno != ENFILE) return;
      if (accept_without_descriptors(t, index) < 0) return;
      continue;
    }
    if (accepted(t, index, fd) == NULL) turn_away(&t->reactor->listeners[index], fd);
  }
}

/* ---------------------------------------------------------------- the wait */

static void apply_closes(struct io_thread *t) {
  struct backend *b = t->backend;
  for (uint32_t i = 0; i < b->closing.count; i++) {
    struct connection *c = connection_at(t, b->closing.slots[i]);
    close(c->fd); /* takes its events out of the queue (kqueue(2)) */
    closed(t, c);
  }
  b->closing.count = 0;
}

/* What leads from the known interest of one connection to the wanted one: at most two changes. */
static uint32_t change_interest(struct connection *c, struct kevent *out) {
  uint64_t data = (uint64_t)c->generation << 32 | c->slot;
  uint8_t known = c->interest;
  uint8_t wanted = c->interest_wanted;
  uint32_t count = 0;
  unsigned switched = wanted & INTEREST_IN ? EV_ENABLE : EV_DISABLE;
  if (!(known & INTEREST_REGISTERED)) {
    out[count++] = kevent_of(c->fd, EVFILT_READ, EV_ADD | EV_CLEAR | switched, data);
  } else if ((known ^ wanted) & INTEREST_IN) {
    out[count++] = kevent_of(c->fd, EVFILT_READ, switched, data);
  }
  if (wanted & INTEREST_OUT && !(known & INTEREST_OUT)) {
    out[count++] = kevent_of(c->fd, EVFILT_WRITE, EV_ADD | EV_ENABLE | EV_DISPATCH, data);
  }
  c->interest = wanted;
  return count;
}

static int reserve_changes(struct backend *b) {
  uint32_t needed = b->changing.count * 2;
  if (needed <= b->changes_capacity) return 0;
  uint32_t capacity = b->changes_capacity == 0 ? 64 : b->changes_capacity;
  while (capacity < needed) capacity *= 2;
  struct kevent *changes = realloc(b->changes, capacity * sizeof *changes);
  if (changes == NULL) return -1;
  b->changes = changes;
  b->changes_capacity = capacity;
  return 0;
}

/* Fills in the changes of the turn, each connection's once; returns how many there are. */
static uint32_t gather_changes(struct io_thread *t) {
  struct backend *b = t->backend;
  uint32_t count = 0;
  if (reserve_changes(b) != 0) return 0; /* no memory: they wait for the next turn */
  for (uint32_t i = 0; i < b->changing.count; i++) {
    struct connection *c = connection_at(t, b->changing.slots[i]);
    c->backend_flags &= (uint8_t)~IN_CHANGES;
    if (c->state == CLOSED || c->state == FREE) continue;
    count += change_interest(c, b->changes + count);
  }
  b->changing.count = 0;
  return count;
}

static void writable(struct io_thread *t, struct connection *c) {
  c->interest &= (uint8_t)~INTEREST_OUT; /* EV_DISPATCH: it is disabled now */
  c->interest_wanted &= (uint8_t)~INTEREST_OUT;
  if (c->out == NULL || !c->out->blocked) return;
  c->out->blocked = 0;
  mark_dirty(t, c); /* an error shows when it sends */
}

static void readable(struct io_thread *t, struct connection *c, const struct kevent *e) {
  if (e->flags & EV_EOF) c->backend_flags |= PEER_ENDED;
  if (takes_bytes(c)) return backend_read(t, c);
  /* Nobody reads. After an error no more will come: what is kept is still passed on. */
  if (!(e->flags & EV_EOF) || e->fflags == 0) return;
  if (c->kept != NULL) c->flags |= END_PENDING;
  else failed(t, c);
}

static void dispatch(struct io_thread *t, const struct kevent *e) {
  uint64_t data = (uint64_t)(uintptr_t)e->udata;
  if (data == DATA_WAKEUP) return;
  if (data >= DATA_LISTENER) return accept_some(t, (uint32_t)(data - DATA_LISTENER));
  struct connection *c = connection_at(t, (uint32_t)data);
  if (c->generation != (uint32_t)(data >> 32) || c->state == CLOSED || c->state == FREE) return;
  if (e->flags & EV_ERROR) { /* a change that the kernel did not take */
    if (e->data != 0) end(t, c, LW_CODE_NO_MEMORY);
  } else if (e->filter == EVFILT_WRITE) {
    writable(t, c);
  } else {
    readable(t, c, e);
  }
}

/* As many changes as there is room for their errors among the events. */
static uint32_t wait_once(struct io_thread *t, uint32_t from, uint32_t to, int timeout_ms) {
  struct backend *b = t->backend;
  struct timespec timeout = {.tv_sec = timeout_ms / 1000,
                             .tv_nsec = (long)(timeout_ms % 1000) * 1000000};
  uint32_t count = to - from < KQUEUE_EVENTS ? to - from : KQUEUE_EVENTS;
  int is_last = from + count == to;
  if (!is_last) timeout = (struct timespec){0};
  int found = kevent(b->kqueue_fd, b->changes + from, (int)count, b->events, KQUEUE_EVENTS,
                     is_last && timeout_ms < 0 ? NULL : &timeout);
  read_clock(t);
  for (int i = 0; i < found; i++) dispatch(t, &b->events[i]);
  return count;
}

static void backend_wait(struct io_thread *t, int timeout_ms) {
  apply_closes(t);
  uint32_t to = gather_changes(t);
  uint32_t from = 0;
  /* What is dispatched on the way only adds to `changing`: the gathered ones stay as they are. */
  do from += wait_once(t, from, to, timeout_ms);
  while (from < to);
}
