/* The epoll backend: edge-triggered (epoll(7)); every operation is tried first and waits for its
 * edge when the kernel says EAGAIN. Changes of interest and closes are gathered and applied once,
 * before the next wait. */
#include <sys/epoll.h>
#include <sys/uio.h>

#include "interest.h"

#define EPOLL_EVENTS 512
#define SEND_VECTORS 64
#define ACCEPTS_PER_TURN 256
#define BACKEND_HAS_SOCKETS 1 /* c->fd is a descriptor of Linux: kernel TLS is possible */
/* epoll_event.data of what is no connection. */
#define DATA_WAKEUP UINT64_MAX
#define DATA_LISTENER (UINT64_MAX - 1 - LISTENERS_MAX)

enum backend_flags {
  IN_CHANGES = 1, /* in b->changes */
  PEER_ENDED = 2, /* EPOLLRDHUP came: read on to the end of the stream */
};

struct backend {
  int epoll_fd;
  int reserve_fd; /* given up to accept, and refuse, when no descriptor is left */
  struct wakeup wakeup;
  struct slot_list changes;
  struct slot_list closing;
  uint8_t buffer[READ_BYTES];
};

static const char *backend_name(void) { return "epoll"; }

/* Every kernel that this builds for has it. */
int lw_probe(char *why, int size) {
  if (size > 0) why[0] = 0;
  return 0;
}

static int epoll_add(int epoll_fd, int fd, uint32_t events, uint64_t data) {
  struct epoll_event event = {.events = events, .data.u64 = data};
  return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0 ? 0 : -errno;
}

static int backend_open(struct io_thread *t) {
  struct backend *b = calloc(1, sizeof *b);
  if (b == NULL) return -ENOMEM;
  int error = wakeup_open(&b->wakeup);
  b->epoll_fd = error == 0 ? epoll_create1(EPOLL_CLOEXEC) : -1;
  if (error == 0 && b->epoll_fd < 0) error = -errno;
  if (error == 0) error = epoll_add(b->epoll_fd, b->wakeup.read_fd, EPOLLIN, DATA_WAKEUP);
  b->reserve_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
  t->backend = b;
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
  if (b->epoll_fd >= 0) close(b->epoll_fd);
  if (b->reserve_fd >= 0) close(b->reserve_fd);
  wakeup_close(&b->wakeup);
  free(b->changes.slots);
  free(b->closing.slots);
  free(b);
}

static uint32_t backend_fds(const struct io_thread *t, int *fds) {
  const struct backend *b = t->backend;
  fds[0] = b->epoll_fd;
  fds[1] = b->wakeup.read_fd;
  fds[2] = __atomic_load_n(&b->reserve_fd, __ATOMIC_RELAXED);
  return 3;
}

static void backend_wake(struct io_thread *t) { wakeup_ring(&t->backend->wakeup); }

static int backend_listen(struct io_thread *t, uint32_t index) {
  return epoll_add(t->backend->epoll_fd, t->listen_fds[index], EPOLLIN, DATA_LISTENER + index);
}

static void backend_unlisten(struct io_thread *t, uint32_t index) { close(t->listen_fds[index]); }

static void want(struct io_thread *t, struct connection *c, uint8_t on, uint8_t off) {
  uint8_t wanted = (uint8_t)((c->interest_wanted | on) & ~off);
  if (wanted == c->interest_wanted) return;
  c->interest_wanted = wanted;
  if (c->backend_flags & IN_CHANGES) return;
  if (slot_list_push(&t->backend->changes, c->slot) != 0) return end(t, c, LW_CODE_NO_MEMORY);
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
    if (size < READ_BYTES && !(c->backend_flags & PEER_ENDED)) return; /* drained (epoll(7)) */
    if (budget <= (uint32_t)size) {
      if (takes_bytes(c)) mark_ready(t, c);
      return;
    }
    budget -= (uint32_t)size;
  }
}

/* The transport takes no more: the next edge goes on. */
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
    struct msghdr message = {.msg_iov = vectors, .msg_iovlen = count};
    union {
      struct cmsghdr head;
      uint8_t bytes[CMSG_SPACE(sizeof(uint8_t))];
    } control;
    const int by_kernel = tls_kernel_sends(c);
    if (by_kernel) tls_message(c, &message, &control);
    ssize_t size = sendmsg(c->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    COUNT(t, sends, 1);
    if (size < 0) {
      if (errno == EINTR) continue;
      if (errno == EAGAIN || errno == EWOULDBLOCK) block_writing(t, c);
      else failed(t, c);
      return;
    }
    sent(t, c, (uint32_t)size);
    /* Kernel TLS takes less for other reasons, too: only EAGAIN promises an edge. */
    if ((size_t)size < asked && !by_kernel) return block_writing(t, c);
  }
  if (c->state != CLOSED && (c->out == NULL || !c->out->blocked)) want(t, c, 0, INTEREST_OUT);
}

static void backend_end_write(struct io_thread *t, struct connection *c) {
  (void)t;
  /* Kernel TLS holds records back when TCP is full, and FIN would overtake them: close_notify has
   * said the end, and the peer closes. */
  if (!tls_kernel_sends(c)) shutdown(c->fd, SHUT_WR);
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

/* ---------------------------------------------------------------- the wait */

/* Returns 0, or -1 when a connection ended by it: its events are still to be told. */
static int apply_changes(struct io_thread *t) {
  struct backend *b = t->backend;
  int result = 0;
  for (uint32_t i = 0; i < b->changes.count; i++) {
    struct connection *c = connection_at(t, b->changes.slots[i]);
    c->backend_flags &= (uint8_t)~IN_CHANGES;
    if (c->fd < 0 || c->state == CLOSED || c->state == FREE) continue;
    enum interest_call call = interest_change(c->interest, c->interest_wanted);
    if (call == CALL_NOTHING) continue;
    uint32_t events = EPOLLET | EPOLLRDHUP;
    if (c->interest_wanted & INTEREST_IN) events |= EPOLLIN;
    if (c->interest_wanted & INTEREST_OUT) events |= EPOLLOUT;
    struct epoll_event event = {.events = events,
                                .data.u64 = (uint64_t)c->generation << 32 | c->slot};
    int operation = call == CALL_ADD   ? EPOLL_CTL_ADD
                    : call == CALL_MOD ? EPOLL_CTL_MOD
                                       : EPOLL_CTL_DEL;
    if (epoll_ctl(b->epoll_fd, operation, c->fd, &event) != 0) {
      end(t, c, LW_CODE_NO_MEMORY);
      result = -1;
      continue;
    }
    c->interest = c->interest_wanted;
  }
  b->changes.count = 0;
  return result;
}

static void apply_closes(struct io_thread *t) {
  struct backend *b = t->backend;
  for (uint32_t i = 0; i < b->closing.count; i++) {
    struct connection *c = connection_at(t, b->closing.slots[i]);
    /* the last reference to its description: the kernel takes it out of the epoll set */
    close(c->fd);
    closed(t, c);
  }
  b->closing.count = 0;
}

/* No descriptor is left: one is freed to take the connection, and to end it, so that it does not
 * rot. */
static int accept_without_descriptors(struct io_thread *t, uint32_t index) {
  struct backend *b = t->backend;
  const struct listener *l = &t->reactor->listeners[index];
  if (b->reserve_fd >= 0) close(b->reserve_fd); /* else another thread was faster the last time */
  int fd = accept4(t->listen_fds[index], NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd >= 0) {
    send(fd, l->busy, l->busy_size, MSG_NOSIGNAL | MSG_DONTWAIT);
    close(fd);
    COUNT(t, closed[LW_CODE_NO_MEMORY], 1);
  }
  b->reserve_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
  return fd;
}

static void accept_some(struct io_thread *t, uint32_t index) {
  for (int i = 0; i < ACCEPTS_PER_TURN && t->listen_fds[index] >= 0; i++) {
    int fd = accept4(t->listen_fds[index], NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
      if (errno == EINTR || errno == ECONNABORTED) continue;
      if (errno != EMFILE && errno != ENFILE) return;
      if (accept_without_descriptors(t, index) < 0) return;
      continue;
    }
    if (accepted(t, index, fd) == NULL) {
      const struct listener *l = &t->reactor->listeners[index];
      send(fd, l->busy, l->busy_size, MSG_NOSIGNAL | MSG_DONTWAIT);
      close(fd);
    }
  }
}

static void dispatch(struct io_thread *t, const struct epoll_event *event) {
  uint64_t data = event->data.u64;
  if (data == DATA_WAKEUP) {
    wakeup_clear(&t->backend->wakeup);
    return;
  }
  if (data >= DATA_LISTENER) {
    accept_some(t, (uint32_t)(data - DATA_LISTENER));
    return;
  }
  struct connection *c = connection_at(t, (uint32_t)data);
  if (c->generation != (uint32_t)(data >> 32) || c->state == CLOSED || c->state == FREE) return;
  if (event->events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) c->backend_flags |= PEER_ENDED;
  if (event->events & EPOLLOUT && c->out != NULL && c->out->blocked) {
    c->out->blocked = 0;
    mark_dirty(t, c);
  }
  if (event->events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR) && takes_bytes(c)) {
    backend_read(t, c);
  } else if (event->events & (EPOLLHUP | EPOLLERR)) {
    /* Nobody reads and no more will come: what is kept is still passed on. */
    if (c->kept != NULL) c->flags |= END_PENDING;
    else failed(t, c);
  }
}

static void backend_wait(struct io_thread *t, int timeout_ms) {
  struct backend *b = t->backend;
  struct epoll_event events[EPOLL_EVENTS];
  if (apply_changes(t) != 0) timeout_ms = 0;
  apply_closes(t);
  int count = epoll_wait(b->epoll_fd, events, EPOLL_EVENTS, timeout_ms);
  read_clock(t);
  for (int i = 0; i < count; i++) dispatch(t, &events[i]);
}
