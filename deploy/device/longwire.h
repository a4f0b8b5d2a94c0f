/* Longwire client for small devices: one file, no allocation, no thread, one connection.
 *
 * The application owns every byte: the client lives in a struct longwire and works in two buffers
 * that it is given. It calls longwire_poll() often; callbacks happen within it. A stored message
 * is acknowledged when the callback returns 0, and comes once: what is sent again after a
 * reconnect is recognised by its offset. Nothing here blocks but what the transport blocks. */
#ifndef LONGWIRE_DEVICE_H
#define LONGWIRE_DEVICE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Compile-time settings of the backoff: doubling from the base to the cap, and what is added to it
 * at random. With LONGWIRE_FULL_JITTER it is anything from 0 to that. LONGWIRE_NO_TCP leaves out
 * the transport for POSIX. */
#ifndef LONGWIRE_BACKOFF_BASE_MS
#define LONGWIRE_BACKOFF_BASE_MS 500u
#endif
#ifndef LONGWIRE_BACKOFF_CAP_MS
#define LONGWIRE_BACKOFF_CAP_MS 30000u
#endif
#ifndef LONGWIRE_JITTER_PERCENT
#define LONGWIRE_JITTER_PERCENT 30u
#endif

/* How bytes move: TCP by default (longwire_tcp), or what the device has. All are called with the
 * context of the options; none may block for long. */
struct longwire_transport {
  /* Begins or goes on connecting; called until it does not return 0. 1 = connected, -1 = failed. */
  int (*open)(void *context, const char *host, uint16_t port);
  /* Bytes moved, 0 = none can be moved now, -1 = the connection is over. */
  long (*send)(void *context, const uint8_t *bytes, size_t size);
  long (*receive)(void *context, uint8_t *bytes, size_t size);
  void (*close)(void *context);
};

/* Non-blocking TCP of POSIX; the context is a struct longwire_tcp that begins as {-1}. */
struct longwire_tcp {
  int fd;
};
extern const struct longwire_transport longwire_tcp_transport;

enum longwire_state {
  LONGWIRE_WAITING = 0, /* for the time of the next attempt */
  LONGWIRE_CONNECTING,
  LONGWIRE_GREETING, /* Hello is sent */
  LONGWIRE_READY,
  LONGWIRE_STOPPED, /* refused for good, or by longwire_stop() */
};

/* A message; pointers are good until the callback returns, strings are not terminated. */
struct longwire_message {
  const char *topic;
  size_t topic_size;
  const uint8_t *payload;
  size_t payload_size;
  uint64_t offset; /* 0 = not stored */
  uint64_t time_ms;
  uint8_t qos;
  uint8_t retained;
};

struct longwire_options {
  const char *host; /* a numeric IPv4 address for longwire_tcp_transport */
  uint16_t port;
  uint16_t keepalive_s; /* 0 = the service chooses */
  const char *session_id;
  const char *token;  /* NULL = none */
  const char *filter; /* subscribed to with QoS 1 as often as needed; NULL = none */
  const struct longwire_transport *transport;
  void *transport_context;
  uint8_t *in; /* holds one whole frame; messages that are larger are passed over, and counted */
  size_t in_size;
  uint8_t *out; /* holds what the transport has not taken: at least 512 bytes */
  size_t out_size;
  uint32_t seed; /* of jitter: something that differs between devices */
  /* Unix milliseconds of a clock that may be wrong, and milliseconds that only ever rise. */
  uint64_t (*wall_ms)(void);
  uint64_t (*monotonic_ms)(void);
  /* 0 = taken over; else the message is not acknowledged and the connection begins anew. */
  int (*on_message)(void *user, const struct longwire_message *message);
  /* A publish of QoS 1 was answered: code 0 = stored. NULL = nobody wants to know. */
  void (*on_published)(void *user, uint32_t request_id, uint32_t code);
  /* Messages from `from` to `to` are gone. NULL = nobody wants to know. */
  void (*on_gap)(void *user, uint64_t from, uint64_t to);
  void *user;
};

#define LONGWIRE_EPOCH_MAX 64
#define LONGWIRE_SECRET_MAX 80
#define LONGWIRE_HOST_MAX 64

/* Survives a restart of the device when the application keeps it: where it stands in the log. */
struct longwire_cursor {
  uint64_t offset;
  char epoch[LONGWIRE_EPOCH_MAX]; /* "" = it has never been connected */
};

struct longwire {
  struct longwire_options options;
  struct longwire_cursor cursor;
  enum longwire_state state;
  char secret[LONGWIRE_SECRET_MAX];
  char host[LONGWIRE_HOST_MAX]; /* where a redirect leads; "" = options.host */
  uint16_t port;
  size_t in_used, out_used;
  uint64_t next_ms;   /* of the attempt, or the end of the time that connecting may take */
  uint64_t heard_ms;  /* last bytes of the service */
  uint64_t beat_ms;   /* next heartbeat */
  uint64_t stable_ms; /* from when on a failure counts as the first */
  int64_t clock_ms;   /* the service's clock minus ours */
  uint32_t keepalive_ms;
  uint32_t attempt;
  uint32_t random;
  uint32_t code; /* why the last connection ended, as in core/codes.ts; 0 = no reason was given */
  uint32_t subscribed;  /* the service said so: until then each connection asks again */
  uint32_t requests;    /* counts request ids */
  uint32_t passed_over; /* frames that did not fit into `in` */
  uint32_t skip;        /* bytes of such a frame that are still to come */
  uint64_t acked;       /* offset that was acknowledged last */
};

/* 0 = done, -1 = the options lack something. Nothing is connected yet. */
int longwire_init(struct longwire *client, const struct longwire_options *options);

/* Moves what can be moved; returns the state. Call it at least every second, and when the transport
 * has something. */
enum longwire_state longwire_poll(struct longwire *client);

/* Publishes. QoS 0: 0 = sent. QoS 1: the request id (above 0), which on_published names; who has no
 * answer when the connection ends publishes again. -1 = not connected, or there is no room. */
long longwire_publish(struct longwire *client, const char *topic, const void *payload, size_t size,
                      int qos);

/* Reports the state of this device or another. 0 = sent, -1 as above. */
int longwire_report(struct longwire *client, uint32_t node_id, int32_t load_percent);

/* Unix milliseconds of the service's clock, as far as it is known. */
uint64_t longwire_time_ms(const struct longwire *client);

/* Says goodbye and ends for good. */
void longwire_stop(struct longwire *client);

#ifdef __cplusplus
}
#endif
#endif
