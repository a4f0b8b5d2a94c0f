/* The load generator: devices and publishers of one push service, and a check of every message that
 * arrives: topic, sequence, length, content. One process drives thousands of connections; only the
 * modes with many devices fork. It prints one line of JSON and exits 0 when nothing was wrong, 1
 * when something was, 2 when it could not run.
 *
 *   load fanout subscribers=1000 window=256 server=127.0.0.1:1883
 *   load pairs pairs=500 window=1 qos=1
 *   load hold devices=1000000 ping_s=60 hold_ms=60000
 *   load steady devices=100000 rate_per_s=20000
 *   load publish publishers=64 qos=1 protocol=http
 *   load resume devices=15000 messages=1000 prefix=device topic=fleet/news qos=1
 *
 * Run without arguments, it lists every key.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <dirent.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <sys/wait.h>

#include "client.h"
#include "framing_http.h"
#include "histogram.h"
#include "syscalls.h"

#ifndef LOAD_TRANSPORT
#define LOAD_TRANSPORT transport_plain
#endif
#define PUBLISH_BUFFER_BYTES (256u << 10)
#define PROCESSES_MAX 256u
#define SERVER_PIDS_MAX 64u
#define SERVERS_MAX 16u
/* A payload begins with u64 sequence and u64 time of sending; a fixed pattern fills the rest. */
#define PAYLOAD_BYTES_MIN 16u
/* Descriptors of a process that are not devices: streams, epoll, timer, some room. */
#define FILES_RESERVED 64u

/* ------------------------------------------------------------------ settings */

struct options {
  struct sockaddr_in servers[SERVERS_MAX];
  uint32_t servers_count;
  const struct framing *framing;
  const char *prefix, *topic;
  int server_pids[SERVER_PIDS_MAX];
  uint32_t server_pids_count;
  struct syscall_counters server_syscalls;
  uint64_t subscribers, pairs, publishers, devices, processes;
  uint64_t id_first, id_step, present, quiet_ms;
  uint64_t payload_bytes, qos, window, batch, messages;
  uint64_t warmup_ms, measure_ms, hold_ms, stall_ms, connect_ms;
  uint64_t rate_per_s, ping_s, connecting_max, seed, nice, count_syscalls;
};

struct option_number {
  const char *name;
  size_t at;
  uint64_t initial, min, max;
  const char *meaning;
};

#define AT(field) #field, offsetof(struct options, field)
static const struct option_number option_numbers[] = {
    {AT(subscribers), 1000, 1, 100000, "fanout: subscribers of the one topic"},
    {AT(pairs), 500, 1, 50000, "pairs: publishers, each with one subscriber"},
    {AT(publishers), 1, 1, 100000, "publish: publishers, each with its own topic"},
    {AT(devices), 10000, 1, 4000000, "hold, steady, resume: devices"},
    {AT(processes), 0, 0, PROCESSES_MAX, "of those; 0 = as few as descriptors allow"},
    {AT(id_first), 0, 0, UINT32_MAX, "resume: number in the first client id"},
    {AT(id_step), 1, 1, UINT32_MAX, "resume: from one client id to the next"},
    {AT(present), 1, 0, 1, "resume: the server knows the devices; 0 = they subscribe"},
    {AT(quiet_ms), 300, 0, 600000, "resume: nothing may come for so long, at the end"},
    {AT(payload_bytes), 100, PAYLOAD_BYTES_MIN, PAYLOAD_BYTES_MAX, "payload of a message"},
    {AT(qos), 0, 0, 1, "of publishes and subscriptions"},
    {AT(window), 1, 1, 32768, "messages in flight for each publisher"},
    {AT(batch), 0, 0, 32768, "free places before more is sent; 0 = a quarter of the window"},
    {AT(messages), 0, 0, 1000000000, "of each publisher; resume: for each device; 0 = by time"},
    {AT(warmup_ms), 300, 0, 600000, "published before measuring"},
    {AT(measure_ms), 2000, 1, 3600000, "measured; hold, steady: published"},
    {AT(hold_ms), 0, 0, 86400000, "idle time between connecting and publishing"},
    {AT(stall_ms), 5000, 100, 600000, "without any progress = given up"},
    {AT(connect_ms), 0, 0, 3600000, "for connecting; 0 = by the number of devices"},
    {AT(rate_per_s), 1000, 1, 10000000, "hold, steady: messages published a second"},
    {AT(ping_s), 0, 0, 65535, "hold, steady: keepalive, one ping in each; 0 = none"},
    {AT(connecting_max), 64, 1, 65536, "connections being opened at one time"},
    {AT(seed), 1, 1, UINT64_MAX, "of the random choice of devices"},
    {AT(nice), 0, 0, 19, "how far the server goes before this, where both want a core"},
    {AT(count_syscalls), 0, 0, 1,
     "of the processes named by pids behind it; it costs them a little"},
};
#define OPTION_NUMBERS_COUNT (sizeof option_numbers / sizeof option_numbers[0])

static void usage(const char *what, const char *argument) {
  fprintf(stderr, "%s \"%s\"\n", what, argument);
  fprintf(stderr, "Usage: load fanout|pairs|publish|hold|steady|resume key=value ...\n");
  fprintf(stderr,
          "  server=127.0.0.1:1883 numeric address and port; several, separated by\n  commas, take "
          "connections in turn\n");
  fprintf(stderr, "  protocol=mqtt or, to publish, http, http-json, http-ndjson\n");
  fprintf(stderr, "  pids= of the server; their children count too\n");
  fprintf(stderr, "  prefix=device resume: client ids are prefix-number\n");
  fprintf(stderr, "  topic=fleet/news resume: of every message\n");
  for (size_t i = 0; i < OPTION_NUMBERS_COUNT; i++) {
    const struct option_number *o = &option_numbers[i];
    fprintf(stderr, "  %s=%llu %s\n", o->name, (unsigned long long)o->initial, o->meaning);
  }
  exit(2);
}

static void parse_servers(struct options *o, const char *text) {
  o->servers_count = 0;
  for (const char *rest = text; rest; rest = strchr(rest, ',')) {
    char host[64];
    unsigned port;
    struct sockaddr_in *server = &o->servers[o->servers_count];
    if (*rest == ',') rest++;
    if (o->servers_count++ == SERVERS_MAX) usage("Cannot use server: too many, got", text);
    if (sscanf(rest, "%63[0-9.]:%u", host, &port) != 2 || port > 65535 ||
        inet_pton(AF_INET, host, &server->sin_addr) != 1) {
      usage("Cannot use server: expected address:port,..., got", text);
    }
    server->sin_family = AF_INET;
    server->sin_port = htons((uint16_t)port);
  }
}

static void add_pid(struct options *o, long pid) {
  for (uint32_t i = 0; i < o->server_pids_count; i++) {
    if (o->server_pids[i] == pid) return;
  }
  if (o->server_pids_count < SERVER_PIDS_MAX) o->server_pids[o->server_pids_count++] = (int)pid;
}

/* Adds what a thread of a process has started: a command may wrap the server. */
static void add_children(struct options *o, int pid, const char *thread) {
  char path[64];
  int child;
  snprintf(path, sizeof path, "/proc/%d/task/%.16s/children", pid, thread);
  FILE *file = fopen(path, "re");
  if (!file) return;
  while (fscanf(file, "%d", &child) == 1) add_pid(o, child);
  fclose(file);
}

static void parse_pids(struct options *o, const char *text) {
  while (*text) {
    char *end;
    long pid = strtol(text, &end, 10);
    if (end == text || pid <= 0) {
      usage("Cannot use pids: expected numbers separated by commas, got", text);
    }
    add_pid(o, pid);
    text = *end == ',' ? end + 1 : end;
  }
  for (uint32_t i = 0; i < o->server_pids_count; i++) { /* grows while it runs */
    char path[32];
    struct dirent *thread;
    snprintf(path, sizeof path, "/proc/%d/task", o->server_pids[i]);
    DIR *threads = opendir(path);
    while (threads && (thread = readdir(threads))) {
      if (thread->d_name[0] != '.') add_children(o, o->server_pids[i], thread->d_name);
    }
    if (threads) closedir(threads);
    if (o->count_syscalls) syscalls_watch(&o->server_syscalls, o->server_pids[i]);
  }
}

static void parse_protocol(struct options *o, const char *name) {
  if (!strcmp(name, framing_mqtt.name)) o->framing = &framing_mqtt;
  else if (!strcmp(name, framing_http.name)) o->framing = &framing_http;
  else if (!strcmp(name, framing_http_json.name)) o->framing = &framing_http_json;
  else if (!strcmp(name, framing_http_ndjson.name)) o->framing = &framing_http_ndjson;
  else usage("Unknown protocol", name);
}

static bool parse_number(struct options *o, const char *argument) {
  for (size_t i = 0; i < OPTION_NUMBERS_COUNT; i++) {
    const struct option_number *n = &option_numbers[i];
    size_t name_bytes = strlen(n->name);
    if (strncmp(argument, n->name, name_bytes) || argument[name_bytes] != '=') continue;
    char *end;
    uint64_t value = strtoull(argument + name_bytes + 1, &end, 10);
    if (*end || end == argument + name_bytes + 1 || value < n->min || value > n->max) {
      usage("Cannot use", argument);
    }
    memcpy((char *)o + n->at, &value, sizeof value);
    return true;
  }
  return false;
}

static void parse_options(struct options *o, int count, char **arguments) {
  memset(o, 0, sizeof *o);
  o->framing = &framing_mqtt;
  o->prefix = "device";
  o->topic = "fleet/news";
  parse_servers(o, "127.0.0.1:1883");
  for (size_t i = 0; i < OPTION_NUMBERS_COUNT; i++) {
    memcpy((char *)o + option_numbers[i].at, &option_numbers[i].initial, sizeof(uint64_t));
  }
  for (int i = 0; i < count; i++) {
    const char *argument = arguments[i];
    if (!strncmp(argument, "server=", 7)) {
      parse_servers(o, argument + 7);
    } else if (!strncmp(argument, "pids=", 5)) {
      parse_pids(o, argument + 5);
    } else if (!strncmp(argument, "protocol=", 9)) {
      parse_protocol(o, argument + 9);
    } else if (!strncmp(argument, "prefix=", 7)) {
      o->prefix = argument + 7;
    } else if (!strncmp(argument, "topic=", 6)) {
      o->topic = argument + 6;
    } else if (!parse_number(o, argument)) {
      usage("Unknown", argument);
    }
  }
  if (o->batch == 0) o->batch = o->window / 4 ? o->window / 4 : 1;
  if (o->batch > o->window) o->batch = o->window;
  if (o->connect_ms == 0) o->connect_ms = 10000 + o->devices;
  if (strlen(o->topic) >= TOPIC_BYTES_MAX) usage("Cannot use topic: too long", o->topic);
}

/* ------------------------------------------------------------------ messages */

static uint8_t payload_pattern[PAYLOAD_BYTES_MAX];

static void payload_prepare(void) {
  for (size_t i = 0; i < sizeof payload_pattern; i++) payload_pattern[i] = (uint8_t)(i * 31 + 7);
}

static void topic_name(char *out, uint32_t tag, uint32_t index) {
  snprintf(out, TOPIC_BYTES_MAX, "bench/%08x/%07x", tag, index);
}

/* What was wrong with what arrived. */
struct verdict {
  uint64_t deliveries;
  uint64_t lost;
  uint64_t out_of_order;
  uint64_t duplicates; /* marked so by the server: allowed with QoS 1 */
  uint64_t corrupt;
};

/* Checks a message of c. Returns how many before it are missing, or -1 when it does not count. */
static inline int64_t message_check(const struct options *o, struct verdict *v, struct conn *c,
                                    const struct frame *f, uint64_t sent) {
  uint64_t sequence;
  if (f->payload_bytes != o->payload_bytes || f->topic_bytes != strlen(c->topic) ||
      memcmp(f->topic, c->topic, f->topic_bytes) || f->qos != o->qos ||
      memcmp(f->payload + 16, payload_pattern + 16, f->payload_bytes - 16)) {
    v->corrupt++;
    return -1;
  }
  memcpy(&sequence, f->payload, sizeof sequence);
  if (sequence >= sent) {
    v->corrupt++;
    return -1;
  }
  if (sequence < c->sequence) {
    if (f->duplicate) v->duplicates++;
    else v->out_of_order++;
    return -1;
  }
  uint64_t missing = sequence - c->sequence;
  v->lost += missing;
  v->deliveries++;
  c->sequence = sequence + 1;
  return (int64_t)missing;
}

static inline uint64_t message_sent_ns(const struct frame *f) {
  uint64_t sent_ns;
  memcpy(&sent_ns, f->payload + 8, sizeof sent_ns);
  return sent_ns;
}

/* Frames of one publisher on their way into one write. */
struct batch {
  uint8_t payload[PAYLOAD_BYTES_MAX];
  uint8_t frames[PUBLISH_BUFFER_BYTES];
  size_t bytes;
};

static inline void batch_send(struct batch *b, struct client *cl, struct conn *publisher) {
  conn_send(cl, publisher, b->frames, b->bytes);
  b->bytes = 0;
}

/* `number` counts the messages of this publisher, `sequence` those of the topic. */
static inline void batch_add(struct batch *b, const struct options *o, struct client *cl,
                             struct conn *publisher, const char *topic, uint64_t number,
                             uint64_t sequence, uint64_t now_ns) {
  struct frame message = {.qos = (uint8_t)o->qos,
                          .packet_id = (uint16_t)(number % PACKET_IDS + 1),
                          .topic = (const uint8_t *)topic,
                          .topic_bytes = strlen(topic),
                          .payload = b->payload,
                          .payload_bytes = o->payload_bytes};
  memcpy(b->payload, &sequence, sizeof sequence);
  memcpy(b->payload + 8, &now_ns, sizeof now_ns);
  if (b->bytes + FRAME_BYTES_MAX > sizeof b->frames) batch_send(b, cl, publisher);
  b->bytes += cl->framing->publish(b->frames + b->bytes, &message);
}

static struct batch *batch_make(void) {
  struct batch *b = allocate(1, sizeof *b);
  memcpy(b->payload, payload_pattern, sizeof b->payload);
  return b;
}

/* ------------------------------------------------------------------ measuring */

/* The state of everything at one moment; two of them make a result. */
struct sample {
  uint64_t at_ns;
  uint64_t deliveries, messages;
  double generator_cpu_s, server_cpu_s;
  uint64_t server_rss_bytes, server_syscalls;
};

static double own_cpu_s(void) {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

/* CPU time of all threads and resident memory of the server's processes. */
static void sample_server(const struct options *o, struct sample *s) {
  double ticks_per_s = (double)sysconf(_SC_CLK_TCK);
  for (uint32_t i = 0; i < o->server_pids_count; i++) {
    char path[64], line[1024];
    unsigned long long user_ticks, system_ticks, rss_pages;
    snprintf(path, sizeof path, "/proc/%d/stat", o->server_pids[i]);
    FILE *file = fopen(path, "re");
    if (!file) continue;
    size_t size = fread(line, 1, sizeof line - 1, file);
    fclose(file);
    line[size] = 0;
    /* The name may hold anything, even brackets: the numbers start after its last one. */
    const char *rest = strrchr(line, ')');
    if (!rest || sscanf(rest,
                        ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu %*d %*d %*d "
                        "%*d %*d %*d %*u %*u %llu",
                        &user_ticks, &system_ticks, &rss_pages) != 3) {
      continue;
    }
    s->server_cpu_s += (double)(user_ticks + system_ticks) / ticks_per_s;
    s->server_rss_bytes += rss_pages * (uint64_t)sysconf(_SC_PAGESIZE);
  }
}

static struct sample sample_take(const struct options *o, uint64_t deliveries, uint64_t messages) {
  struct sample s = {.deliveries = deliveries, .messages = messages};
  s.generator_cpu_s = own_cpu_s();
  sample_server(o, &s);
  s.server_syscalls = syscalls_sum(&o->server_syscalls);
  s.at_ns = monotonic_ns();
  return s;
}

/* ------------------------------------------------------------------ the report */

/* The first thing that went wrong; empty = nothing did. */
static char problem[160];

static __attribute__((format(printf, 1, 2))) void problem_set(const char *format, ...) {
  va_list arguments;
  if (problem[0]) return;
  va_start(arguments, format);
  vsnprintf(problem, sizeof problem, format, arguments);
  va_end(arguments);
}

static void problems_find(const struct verdict *v, const struct client_counts *n, int last_errno) {
  if (n->refused) problem_set("%llu connections refused", (unsigned long long)n->refused);
  if (n->malformed) problem_set("%llu malformed frames", (unsigned long long)n->malformed);
  if (n->failed) {
    problem_set("%llu connections failed: %s", (unsigned long long)n->failed, strerror(last_errno));
  }
  if (n->closed) {
    problem_set("%llu connections closed: %s", (unsigned long long)n->closed, strerror(last_errno));
  }
  if (v->corrupt) problem_set("%llu messages corrupt", (unsigned long long)v->corrupt);
  if (v->lost) problem_set("%llu messages lost", (unsigned long long)v->lost);
  if (v->out_of_order) {
    problem_set("%llu messages out of order", (unsigned long long)v->out_of_order);
  }
  if (n->acks_out_of_order) {
    problem_set("%llu acknowledgements out of order", (unsigned long long)n->acks_out_of_order);
  }
  if (v->deliveries == 0) problem_set("no message arrived");
}

static void print_number(const char *name, double value) { printf(",\"%s\":%.10g", name, value); }

static void print_counts(const struct verdict *v, const struct client_counts *n) {
  print_number("ready", (double)n->ready);
  print_number("renewed", (double)n->renewed);
  print_number("failed", (double)n->failed);
  print_number("closed", (double)n->closed);
  print_number("refused", (double)n->refused);
  print_number("malformed", (double)n->malformed);
  print_number("deliveries_all", (double)v->deliveries);
  print_number("lost", (double)v->lost);
  print_number("out_of_order", (double)v->out_of_order);
  print_number("duplicates", (double)v->duplicates);
  print_number("corrupt", (double)v->corrupt);
  print_number("acks_out_of_order", (double)n->acks_out_of_order);
  print_number("reads", (double)n->reads);
  print_number("writes", (double)n->writes);
}

static void print_latency(const struct histogram *h) {
  printf(",\"latency_us\":{\"samples\":%llu", (unsigned long long)h->total);
  print_number("mean", h->total ? (double)h->sum_ns / (double)h->total / 1e3 : 0);
  print_number("p50", (double)histogram_percentile_ns(h, 0.5) / 1e3);
  print_number("p90", (double)histogram_percentile_ns(h, 0.9) / 1e3);
  print_number("p99", (double)histogram_percentile_ns(h, 0.99) / 1e3);
  print_number("p999", (double)histogram_percentile_ns(h, 0.999) / 1e3);
  print_number("max", (double)h->max_ns / 1e3);
  printf("}");
}

static void print_rates(const struct sample *from, const struct sample *to) {
  double seconds = (double)(to->at_ns - from->at_ns) / 1e9;
  double deliveries = (double)(to->deliveries - from->deliveries);
  double server_cpu_s = to->server_cpu_s - from->server_cpu_s;
  print_number("seconds", seconds);
  print_number("messages", (double)(to->messages - from->messages));
  print_number("deliveries", deliveries);
  print_number("deliveries_per_s", deliveries / seconds);
  print_number("generator_cpu_s", to->generator_cpu_s - from->generator_cpu_s);
  print_number("server_cpu_s", server_cpu_s);
  print_number("server_cpu_us_per_delivery", deliveries ? server_cpu_s * 1e6 / deliveries : 0);
  if (to->server_syscalls > 0) {
    double syscalls = (double)(to->server_syscalls - from->server_syscalls);
    print_number("server_syscalls_per_delivery", deliveries ? syscalls / deliveries : 0);
  }
}

static void print_begin(const char *mode, const struct options *o) {
  printf("{\"mode\":\"%s\",\"protocol\":\"%s\",\"ok\":%s,\"problem\":\"%s\"", mode,
         o->framing->name, problem[0] ? "false" : "true", problem);
  print_number("qos", (double)o->qos);
  print_number("payload_bytes", (double)o->payload_bytes);
}

/* ------------------------------------------------------------------ fanout, pairs and publish
 *
 * All are streams: a publisher, its topic, the subscribers of that topic. fanout is one stream
 * with many subscribers, pairs are many streams with one, publish is streams without any, where the
 * acknowledgement of a message counts as its delivery. Connection numbers: publishers first, then
 * the subscribers, stream by stream. */

struct stream {
  uint64_t sent;
  uint64_t done;     /* messages that every subscriber has, or has missed */
  uint32_t *pending; /* ring: how many subscribers still wait for message number & ring_mask */
  uint64_t *sent_ns; /* ring: when it was sent; NULL = the message itself says so */
  bool dirty;        /* in the list of those that may have room to publish */
};

struct streams {
  const struct options *o;
  struct client *cl;
  struct stream *all;
  uint32_t count, subscribers_each, ring_mask;
  uint32_t *dirty; /* indices */
  uint32_t dirty_count;
  bool publishing, recording;
  uint64_t messages;
  struct verdict verdict;
  struct histogram latency;
  struct batch *batch;
};

static inline void stream_touch(struct streams *all, uint32_t index) {
  if (all->all[index].dirty) return;
  all->all[index].dirty = true;
  all->dirty[all->dirty_count++] = index;
}

static void streams_on_message(struct client *cl, struct conn *c, const struct frame *f,
                               uint64_t now_ns) {
  struct streams *all = cl->owner;
  struct stream *s = &all->all[c->index];
  int64_t missing = message_check(all->o, &all->verdict, c, f, s->sent);
  if (missing < 0) return;
  /* A lost message is over for this subscriber too: the window goes on, the verdict remembers. */
  for (uint64_t i = c->sequence - 1 - (uint64_t)missing; i < c->sequence; i++) {
    if (--s->pending[i & all->ring_mask] == 0) {
      s->done++;
      stream_touch(all, c->index);
    }
  }
  if (all->recording) histogram_record(&all->latency, now_ns - message_sent_ns(f));
}

static void streams_on_ack(struct client *cl, struct conn *c) {
  struct streams *all = cl->owner;
  struct stream *s = &all->all[c->index];
  stream_touch(all, c->index);
  if (all->subscribers_each > 0) return;
  if (all->recording) {
    histogram_record(&all->latency, monotonic_ns() - s->sent_ns[s->done & all->ring_mask]);
  }
  s->done++;
  all->verdict.deliveries++;
}

static void streams_on_ready(struct client *cl, struct conn *c) {
  struct streams *all = cl->owner;
  if (!c->subscribes && all->publishing) stream_touch(all, c->index);
}

/* Messages that the stream's window has room for. With QoS 1 a message is in flight until every
 * subscriber has it and its publisher has the acknowledgement. */
static inline uint64_t stream_room(const struct streams *all, uint32_t index) {
  const struct stream *s = &all->all[index];
  const struct conn *publisher = &all->cl->conns[index];
  uint64_t oldest = s->done;
  if (all->o->qos && publisher->acked < oldest) oldest = publisher->acked;
  uint64_t in_flight = s->sent - oldest;
  uint64_t room = in_flight < all->o->window ? all->o->window - in_flight : 0;
  if (room < all->o->batch) return 0;
  if (all->o->messages && room > all->o->messages - s->sent) return all->o->messages - s->sent;
  return room;
}

static void stream_publish(struct streams *all, uint32_t index) {
  struct stream *s = &all->all[index];
  struct conn *publisher = &all->cl->conns[index];
  /* Bytes still wait: the stream comes back here when what is in flight arrives. */
  if (publisher->state != CONN_READY || publisher->out_bytes) return;
  uint64_t room = stream_room(all, index);
  uint64_t now_ns = room ? monotonic_ns() : 0;
  for (; room > 0; room--) {
    s->pending[s->sent & all->ring_mask] = all->subscribers_each;
    if (s->sent_ns) s->sent_ns[s->sent & all->ring_mask] = now_ns;
    batch_add(all->batch, all->o, all->cl, publisher, publisher->topic, s->sent, s->sent, now_ns);
    s->sent++;
    all->messages++;
  }
  batch_send(all->batch, all->cl, publisher);
}

/* Once a turn: whoever got room in it publishes with one write. */
static void streams_publish(struct streams *all) {
  for (uint32_t i = 0; i < all->dirty_count; i++) {
    uint32_t index = all->dirty[i];
    all->all[index].dirty = false;
    if (all->publishing) stream_publish(all, index);
  }
  all->dirty_count = 0;
}

static bool streams_drained(const struct streams *all) {
  for (uint32_t i = 0; i < all->count; i++) {
    const struct stream *s = &all->all[i];
    if (s->done < s->sent || (all->o->qos && all->cl->conns[i].acked < s->sent)) return false;
    if (all->o->messages && s->sent < all->o->messages) return false;
  }
  return true;
}

static void client_prepare(struct client *cl, const struct options *o, uint32_t conns_count) {
  struct rlimit files;
  cl->framing = o->framing;
  cl->transport = &LOAD_TRANSPORT;
  cl->servers = o->servers;
  cl->servers_count = o->servers_count;
  cl->source_address = SOURCE_FIRST;
  cl->client_tag = (uint32_t)getpid();
  cl->qos = (uint8_t)o->qos;
  cl->connecting_max = (uint32_t)o->connecting_max;
  cl->conns_count = conns_count;
  cl->conns = allocate(conns_count, sizeof *cl->conns);
  cl->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
}

/* Opens every connection. Those that are not ready in time have failed. */
static void client_connect(struct client *cl, uint64_t connect_ms, void (*turn)(struct client *)) {
  uint64_t deadline_ns = monotonic_ns() + connect_ms * 1000000u;
  while (!client_settled(cl) && monotonic_ns() < deadline_ns) {
    client_turn(cl, 10);
    if (turn) turn(cl);
  }
  if (!client_settled(cl)) cl->last_errno = ETIMEDOUT;
  cl->opened = cl->conns_count;
  cl->counts.failed = cl->conns_count - cl->counts.ready;
}

static struct streams *streams_make(const struct options *o, struct client *cl, uint32_t count,
                                    uint32_t subscribers_each) {
  struct streams *all = allocate(1, sizeof *all);
  uint32_t ring_size = 1;
  while (ring_size < o->window) ring_size *= 2;
  *all = (struct streams){.o = o, .cl = cl, .count = count, .subscribers_each = subscribers_each};
  all->ring_mask = ring_size - 1;
  all->all = allocate(count, sizeof *all->all);
  all->dirty = allocate(count, sizeof *all->dirty);
  all->batch = batch_make();
  client_prepare(cl, o, count * (1 + subscribers_each));
  for (uint32_t i = 0; i < cl->conns_count; i++) {
    struct conn *c = &cl->conns[i];
    c->subscribes = i >= count;
    c->index = c->subscribes ? (i - count) / subscribers_each : i;
    topic_name(c->topic, cl->client_tag, c->index);
  }
  for (uint32_t i = 0; i < count; i++) {
    all->all[i].pending = allocate(ring_size, sizeof *all->all[i].pending);
    if (subscribers_each > 0) continue;
    all->all[i].sent_ns = allocate(ring_size, sizeof *all->all[i].sent_ns);
  }
  cl->owner = all;
  cl->on_message = streams_on_message;
  cl->on_ack = streams_on_ack;
  cl->on_ready = streams_on_ready;
  return all;
}

static struct sample streams_sample(struct streams *all) {
  uint32_t each = all->o->framing->messages_per_frame;
  return sample_take(all->o, all->verdict.deliveries * each, all->messages * each);
}

/* Warms up, measures, drains: from and to are the measured stretch. */
static void streams_run(struct streams *all, struct sample *from, struct sample *to) {
  const struct options *o = all->o;
  uint64_t start_ns = monotonic_ns(), progress_ns = start_ns, progress = 0;
  uint64_t measure_ns = start_ns + (o->messages ? 0 : o->warmup_ms * 1000000u);
  uint64_t end_ns = o->messages ? UINT64_MAX : measure_ns + o->measure_ms * 1000000u;
  all->publishing = true;
  for (uint32_t i = 0; i < all->count; i++) stream_touch(all, i);
  for (;;) {
    uint64_t now_ns = monotonic_ns();
    if (!all->recording && from->at_ns == 0 && now_ns >= measure_ns) {
      *from = streams_sample(all);
      all->recording = true;
    }
    if (all->recording && now_ns >= end_ns) {
      *to = streams_sample(all);
      all->recording = all->publishing = false;
    }
    streams_publish(all);
    if ((!all->publishing || o->messages) && streams_drained(all)) break;
    client_turn(all->cl, 10);
    if (progress != all->verdict.deliveries) {
      progress = all->verdict.deliveries;
      progress_ns = now_ns;
    } else if (now_ns - progress_ns > o->stall_ms * 1000000u) {
      problem_set("stalled with messages in flight");
      break;
    }
    if (all->cl->counts.closed) break;
  }
  if (from->at_ns == 0) *from = streams_sample(all);
  if (to->at_ns == 0) *to = streams_sample(all);
}

/* What subscribers never got, however the run ended. */
static void streams_count_lost(struct streams *all) {
  for (uint32_t i = all->count; i < all->cl->conns_count; i++) {
    const struct conn *c = &all->cl->conns[i];
    all->verdict.lost += all->all[c->index].sent - c->sequence;
  }
}

static int run_streams(const char *mode, const struct options *o, uint32_t count,
                       uint32_t subscribers_each) {
  static struct client cl;
  struct streams *all = streams_make(o, &cl, count, subscribers_each);
  struct sample from = {0}, to = {0};
  uint64_t start_ns = monotonic_ns();
  client_connect(&cl, o->connect_ms, NULL);
  double connect_s = (double)(monotonic_ns() - start_ns) / 1e9;
  uint64_t idle_until_ns = monotonic_ns() + o->hold_ms * 1000000u;
  while (cl.counts.failed == 0 && monotonic_ns() < idle_until_ns) client_turn(&cl, 10);
  if (cl.counts.failed == 0) {
    streams_run(all, &from, &to);
    streams_count_lost(all);
  }
  const struct client_counts counts = cl.counts;
  problems_find(&all->verdict, &counts, cl.last_errno);
  client_leave(&cl, 500);
  print_begin(mode, o);
  print_number("publishers", count);
  print_number("subscribers", (double)count * subscribers_each);
  print_number("window", (double)o->window);
  print_number("batch", (double)o->batch);
  print_number("connect_s", connect_s);
  if (from.at_ns) print_rates(&from, &to);
  print_number("server_rss_bytes", (double)to.server_rss_bytes);
  print_counts(&all->verdict, &counts);
  print_latency(&all->latency);
  printf("}\n");
  return problem[0] ? 1 : 0;
}

static int run_publish(const char *mode, const struct options *o) {
  if (o->qos == 0 && o->framing == &framing_mqtt) {
    usage("Cannot publish without acknowledgements:", "qos=0");
  }
  if (o->framing->messages_per_frame > 1 && o->payload_bytes > HTTP_BATCH_PAYLOAD_BYTES_MAX) {
    usage("Cannot publish batches of such messages:", "payload_bytes");
  }
  return run_streams(mode, o, (uint32_t)o->publishers, 0);
}

/* ------------------------------------------------------------------ hold and steady
 *
 * A fleet: devices with a topic each, in as many processes as descriptors demand. Every process has
 * a publisher of its own for its own devices, so processes share nothing but a board of counters;
 * the parent moves all of them through the phases and samples the server between them. */

enum fleet_phase { FLEET_CONNECT = 0, FLEET_HOLD, FLEET_PUBLISH, FLEET_DRAIN };

/* What one process of the fleet has to say. */
struct fleet_slot {
  atomic_bool settled;  /* every device is ready or has failed */
  atomic_bool finished; /* resume: every device has everything, or never will */
  struct client_counts counts;
  struct verdict verdict;
  struct histogram latency;
  uint64_t messages, late_ns_max;
  double cpu_s; /* while publishing */
  int last_errno;
};

struct fleet_board {
  atomic_int phase;
  struct fleet_slot slots[PROCESSES_MAX];
};

/* One process of it. */
struct fleet {
  const struct options *o;
  struct client cl;
  struct fleet_board *board;
  struct fleet_slot *slot;
  uint64_t *sent; /* messages of each connection's topic */
  uint64_t random;
  uint64_t ping_start_ns, pings_done; /* the wheel: which connection is next */
  uint64_t start_ns, period_ns;       /* of publishing: ticks */
  double rate_per_s;
  struct batch *batch;
};

static uint64_t random_next(uint64_t *state) {
  *state ^= *state >> 12;
  *state ^= *state << 25;
  *state ^= *state >> 27;
  return *state * 2685821657736338717u;
}

static void fleet_on_message(struct client *cl, struct conn *c, const struct frame *f,
                             uint64_t now_ns) {
  struct fleet *fleet = cl->owner;
  uint64_t sent = fleet->sent[c - cl->conns];
  if (message_check(fleet->o, &fleet->slot->verdict, c, f, sent) < 0) return;
  histogram_record(&fleet->slot->latency, now_ns - message_sent_ns(f));
}

/* Connections are pinged round and round, evenly over the keepalive time, so that a million of them
 * make a steady trickle. */
static void fleet_ping(struct client *cl) {
  struct fleet *fleet = cl->owner;
  uint8_t frame[16];
  if (fleet->o->ping_s == 0) return;
  size_t size = cl->framing->ping(frame);
  double elapsed_s = (double)(monotonic_ns() - fleet->ping_start_ns) / 1e9;
  uint64_t due = (uint64_t)(elapsed_s / (double)fleet->o->ping_s * cl->conns_count);
  for (; fleet->pings_done < due; fleet->pings_done++) {
    struct conn *c = &cl->conns[fleet->pings_done % cl->conns_count];
    if (c->state != CONN_READY) continue;
    conn_send(cl, c, frame, size);
    cl->counts.pings++;
  }
}

static struct conn *fleet_choose(struct fleet *fleet) {
  uint32_t devices = fleet->cl.conns_count - 1;
  uint32_t first = (uint32_t)(random_next(&fleet->random) % devices);
  for (uint32_t i = 0; i < devices; i++) {
    struct conn *c = &fleet->cl.conns[1 + (first + i) % devices];
    if (c->state == CONN_READY) return c;
  }
  return NULL;
}

/* Publishes what is due. A message carries the tick at which it should have left, not the time at
 * which it did: when the service or this process stops for a while, the wait is in the latency. */
static void fleet_publish(struct fleet *fleet) {
  struct conn *publisher = &fleet->cl.conns[0], *device;
  uint64_t now_ns = monotonic_ns();
  uint64_t *number = &fleet->slot->messages;
  for (;;) {
    double due_s = (double)*number / fleet->rate_per_s;
    uint64_t tick = (uint64_t)(due_s * 1e9) / fleet->period_ns + 1;
    uint64_t due_ns = fleet->start_ns + tick * fleet->period_ns;
    if (due_ns > now_ns || publisher->state != CONN_READY || publisher->out_bytes) break;
    if (fleet->o->qos && *number - publisher->acked >= PACKET_IDS / 2) break;
    if (!(device = fleet_choose(fleet))) break;
    uint64_t *sent = &fleet->sent[device - fleet->cl.conns];
    batch_add(fleet->batch, fleet->o, &fleet->cl, publisher, device->topic, *number, *sent, due_ns);
    ++*sent;
    ++*number;
    if (now_ns - due_ns > fleet->slot->late_ns_max) fleet->slot->late_ns_max = now_ns - due_ns;
  }
  batch_send(fleet->batch, &fleet->cl, publisher);
}

/* Ticks come from a timer, because a wait in whole milliseconds would be late by up to one. */
static void fleet_publish_phase(struct fleet *fleet) {
  int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
  struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.ptr = NULL};
  fleet->period_ns = 1000000;
  if (fleet->rate_per_s < 1000) fleet->period_ns = (uint64_t)(1e9 / fleet->rate_per_s);
  fleet->start_ns = monotonic_ns();
  uint64_t first_ns = fleet->start_ns + fleet->period_ns;
  struct itimerspec ticks = {
      .it_interval = {(time_t)(fleet->period_ns / 1000000000u),
                      (long)(fleet->period_ns % 1000000000u)},
      .it_value = {(time_t)(first_ns / 1000000000u), (long)(first_ns % 1000000000u)}};
  timerfd_settime(timer, TFD_TIMER_ABSTIME, &ticks, NULL);
  epoll_ctl(fleet->cl.epoll_fd, EPOLL_CTL_ADD, timer, &event);
  while (atomic_load(&fleet->board->phase) == FLEET_PUBLISH) {
    uint64_t ticks_gone;
    fleet_publish(fleet);
    fleet_ping(&fleet->cl);
    client_turn(&fleet->cl, 10);
    /* Until it is read, a periodic timer does not fire again. */
    if (read(timer, &ticks_gone, sizeof ticks_gone) < 0 && errno != EAGAIN) break;
  }
  close(timer);
}

static void fleet_drain(struct fleet *fleet) {
  struct verdict *v = &fleet->slot->verdict;
  const struct client_counts *n = &fleet->cl.counts;
  uint64_t progress_ns = monotonic_ns(), progress = v->deliveries + n->pongs;
  while (v->deliveries + v->lost < fleet->slot->messages || n->pongs < n->pings) {
    client_turn(&fleet->cl, 10);
    if (progress != v->deliveries + n->pongs) {
      progress = v->deliveries + n->pongs;
      progress_ns = monotonic_ns();
    } else if (monotonic_ns() - progress_ns > fleet->o->stall_ms * 1000000u) {
      break;
    }
  }
  v->lost = 0;
  for (uint32_t i = 1; i < fleet->cl.conns_count; i++) v->lost += fleet->sent[i];
  v->lost -= v->deliveries;
}

static void fleet_make(struct fleet *fleet, uint32_t number, uint32_t processes) {
  const struct options *o = fleet->o;
  struct client *cl = &fleet->cl;
  uint32_t devices = (uint32_t)(o->devices / processes + (number < o->devices % processes));
  client_prepare(cl, o, devices + 1);
  uint32_t sources_each = (uint32_t)(o->devices / processes + 2) / CONNECTIONS_PER_SOURCE + 1;
  cl->source_address += number * sources_each;
  cl->keepalive_s = (uint16_t)o->ping_s;
  cl->connecting_max = (uint32_t)(o->connecting_max / processes);
  if (cl->connecting_max == 0) cl->connecting_max = 1;
  for (uint32_t i = 0; i <= devices; i++) {
    cl->conns[i].subscribes = i > 0;
    topic_name(cl->conns[i].topic, cl->client_tag, i);
  }
  cl->owner = fleet;
  cl->on_message = fleet_on_message;
  fleet->slot = &fleet->board->slots[number];
  fleet->sent = allocate(devices + 1, sizeof *fleet->sent);
  fleet->random = o->seed * 2654435761u + number + 1;
  fleet->rate_per_s = (double)o->rate_per_s / processes;
  fleet->batch = batch_make();
}

static void fleet_process(const struct options *o, struct fleet_board *board, uint32_t number,
                          uint32_t processes) {
  static struct fleet fleet;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  fleet = (struct fleet){.o = o, .board = board, .ping_start_ns = monotonic_ns()};
  fleet_make(&fleet, number, processes);
  client_connect(&fleet.cl, o->connect_ms, fleet_ping);
  fleet.slot->counts = fleet.cl.counts;
  atomic_store(&fleet.slot->settled, true);
  while (atomic_load(&board->phase) < FLEET_PUBLISH) {
    client_turn(&fleet.cl, 20);
    fleet_ping(&fleet.cl);
  }
  double cpu_before_s = own_cpu_s();
  fleet_publish_phase(&fleet);
  fleet.slot->cpu_s = own_cpu_s() - cpu_before_s;
  fleet_drain(&fleet);
  fleet.slot->counts = fleet.cl.counts;
  fleet.slot->last_errno = fleet.cl.last_errno;
  client_leave(&fleet.cl, 2000);
  _exit(0);
}

static void fleet_wait(uint64_t ms) {
  struct timespec time = {(time_t)(ms / 1000), (long)(ms % 1000 * 1000000)};
  while (nanosleep(&time, &time) && errno == EINTR) continue;
}

static uint32_t fleet_processes(const struct options *o) {
  struct rlimit files;
  getrlimit(RLIMIT_NOFILE, &files);
  uint64_t each = files.rlim_max - FILES_RESERVED;
  uint64_t count = (o->devices + each - 1) / each;
  if (o->processes > count) count = o->processes;
  if (count > PROCESSES_MAX) usage("Cannot hold so many devices", "devices");
  return (uint32_t)(count < o->devices ? count : o->devices);
}

/* Waits until every process has opened what it can. A process that died is settled too. */
static void fleet_wait_settled(struct fleet_board *board, const pid_t *pids, uint32_t processes) {
  for (uint32_t i = 0; i < processes; i++) {
    while (!atomic_load(&board->slots[i].settled)) {
      siginfo_t info = {0};
      waitid(P_PID, (id_t)pids[i], &info, WEXITED | WNOHANG | WNOWAIT);
      if (info.si_pid) {
        problem_set("process %u of the fleet died while connecting", i);
        break;
      }
      fleet_wait(2);
    }
  }
}

/* Adds up what the processes say. */
static void fleet_sum(const struct fleet_board *board, uint32_t processes, struct fleet_slot *sum) {
  for (uint32_t i = 0; i < processes; i++) {
    const struct fleet_slot *slot = &board->slots[i];
    const uint64_t *from = (const uint64_t *)&slot->counts;
    uint64_t *into = (uint64_t *)&sum->counts;
    for (size_t j = 0; j < sizeof sum->counts / sizeof *into; j++) into[j] += from[j];
    from = (const uint64_t *)&slot->verdict;
    into = (uint64_t *)&sum->verdict;
    for (size_t j = 0; j < sizeof sum->verdict / sizeof *into; j++) into[j] += from[j];
    histogram_merge(&sum->latency, &slot->latency);
    sum->messages += slot->messages;
    sum->cpu_s += slot->cpu_s;
    if (slot->late_ns_max > sum->late_ns_max) sum->late_ns_max = slot->late_ns_max;
    if (slot->last_errno) sum->last_errno = slot->last_errno;
  }
}

static struct fleet_board *fleet_board_make(void) {
  void *board = mmap(NULL, sizeof(struct fleet_board), PROT_READ | PROT_WRITE,
                     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (board == MAP_FAILED) usage("Cannot allocate", "shared memory");
  return board;
}

static void fleet_join(const pid_t *pids, uint32_t processes) {
  for (uint32_t i = 0; i < processes; i++) {
    int status = 0;
    waitpid(pids[i], &status, 0);
    if (status) problem_set("process %u of the fleet ended with status %d", i, status);
  }
}

enum fleet_moment { EMPTY, CONNECTED, HELD, PUBLISHED, FLEET_MOMENTS };

static void fleet_report(const char *mode, const struct options *o, uint32_t processes,
                         const struct sample *at, const struct fleet_slot *sum) {
  double connect_s = (double)(at[CONNECTED].at_ns - at[EMPTY].at_ns) / 1e9;
  double publish_s = (double)(at[PUBLISHED].at_ns - at[HELD].at_ns) / 1e9;
  double held_bytes = (double)at[HELD].server_rss_bytes - (double)at[EMPTY].server_rss_bytes;
  uint64_t ready = sum->counts.ready > processes ? sum->counts.ready - processes : 0;
  print_begin(mode, o);
  print_number("devices", (double)o->devices);
  print_number("processes", processes);
  print_number("seed", (double)o->seed);
  print_number("rate_per_s", (double)o->rate_per_s);
  print_number("connect_s", connect_s);
  print_number("connects_per_s", (double)sum->counts.ready / connect_s);
  print_number("connect_server_cpu_s", at[CONNECTED].server_cpu_s - at[EMPTY].server_cpu_s);
  print_number("server_rss_bytes", (double)at[HELD].server_rss_bytes);
  print_number("server_rss_bytes_per_device", ready ? held_bytes / (double)ready : 0);
  print_number("hold_s", (double)(at[HELD].at_ns - at[CONNECTED].at_ns) / 1e9);
  print_number("hold_server_cpu_s", at[HELD].server_cpu_s - at[CONNECTED].server_cpu_s);
  print_number("pings", (double)sum->counts.pings);
  print_number("pongs", (double)sum->counts.pongs);
  print_number("seconds", publish_s);
  print_number("messages", (double)sum->messages);
  print_number("deliveries", (double)sum->verdict.deliveries);
  print_number("deliveries_per_s", (double)sum->verdict.deliveries / publish_s);
  print_number("server_cpu_s", at[PUBLISHED].server_cpu_s - at[HELD].server_cpu_s);
  print_number("server_cpu_us_per_delivery",
               sum->verdict.deliveries ? (at[PUBLISHED].server_cpu_s - at[HELD].server_cpu_s) *
                                             1e6 / (double)sum->verdict.deliveries
                                       : 0);
  print_number("generator_cpu_s", sum->cpu_s);
  print_number("late_us_max", (double)sum->late_ns_max / 1e3);
  print_counts(&sum->verdict, &sum->counts);
  print_latency(&sum->latency);
  printf("}\n");
}

static int run_fleet(const char *mode, const struct options *o) {
  uint32_t processes = fleet_processes(o);
  struct fleet_board *board = fleet_board_make();
  static pid_t pids[PROCESSES_MAX];
  static struct fleet_slot sum;
  struct sample at[FLEET_MOMENTS];
  at[EMPTY] = sample_take(o, 0, 0);
  for (uint32_t i = 0; i < processes; i++) {
    pids[i] = fork();
    if (pids[i] == 0) fleet_process(o, board, i, processes);
    if (pids[i] < 0) problem_set("cannot fork: %s", strerror(errno));
    if (pids[i] < 0) processes = i;
  }
  fleet_wait_settled(board, pids, processes);
  at[CONNECTED] = sample_take(o, 0, 0);
  atomic_store(&board->phase, FLEET_HOLD);
  fleet_wait(o->hold_ms);
  at[HELD] = sample_take(o, 0, 0);
  /* Whoever started this may look at the server now. */
  fprintf(stderr, "held\n");
  atomic_store(&board->phase, FLEET_PUBLISH);
  fleet_wait(o->measure_ms);
  at[PUBLISHED] = sample_take(o, 0, 0);
  atomic_store(&board->phase, FLEET_DRAIN);
  fleet_join(pids, processes);
  fleet_sum(board, processes, &sum);
  problems_find(&sum.verdict, &sum.counts, sum.last_errno);
  if (sum.counts.pings > sum.counts.pongs + o->devices / 100 + processes) {
    problem_set("%llu pings unanswered", (unsigned long long)(sum.counts.pings - sum.counts.pongs));
  }
  fleet_report(mode, o, processes, at, &sum);
  return problem[0] ? 1 : 0;
}

#include "resume.h"

int main(int argc, char **argv) {
  static struct options o;
  if (argc < 2) usage("Missing mode", "");
  const char *mode = argv[1];
  parse_options(&o, argc - 2, argv + 2);
  payload_prepare();
  signal(SIGPIPE, SIG_IGN);
  setpriority(PRIO_PROCESS, 0, (int)o.nice);
  if (!strcmp(mode, "fanout")) return run_streams(mode, &o, 1, (uint32_t)o.subscribers);
  if (!strcmp(mode, "pairs")) return run_streams(mode, &o, (uint32_t)o.pairs, 1);
  if (!strcmp(mode, "publish")) return run_publish(mode, &o);
  if (!strcmp(mode, "resume")) return run_resume(mode, &o);
  if (!strcmp(mode, "hold") || !strcmp(mode, "steady")) return run_fleet(mode, &o);
  usage("Unknown mode", mode);
}
