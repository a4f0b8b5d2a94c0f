/* The mode `resume` of load.c, and part of it: devices whose sessions outlive their connections
 * come back all at once, and each must get all messages of one topic, in order and once. They are
 * in several processes like those of a fleet, which share nothing but its board of counters. */
#ifndef LONGWIRE_BENCH_RESUME_H
#define LONGWIRE_BENCH_RESUME_H

/* The board's phases, by other names: processes are set up, connect and read, wait, leave. */
enum { RESUME_PREPARE = FLEET_CONNECT, RESUME_GO = FLEET_HOLD, RESUME_LEAVE = FLEET_DRAIN };

struct resume {
  const struct options *o;
  struct client cl;
  struct fleet_board *board;
  struct fleet_slot *slot;
  uint64_t start_ns;
  uint32_t complete; /* devices that have everything */
};

static void resume_on_message(struct client *cl, struct conn *c, const struct frame *f,
                              uint64_t now_ns) {
  struct resume *r = cl->owner;
  if (message_check(r->o, &r->slot->verdict, c, f, r->o->messages) < 0) return;
  if (c->sequence < r->o->messages) return;
  r->complete++;
  histogram_record(&r->slot->latency, now_ns - r->start_ns);
}

static void resume_make(struct resume *r, uint32_t number, uint32_t processes) {
  const struct options *o = r->o;
  struct client *cl = &r->cl;
  uint32_t first = (uint32_t)(o->devices * number / processes);
  uint32_t devices = (uint32_t)(o->devices * (number + 1) / processes) - first;
  client_prepare(cl, o, devices);
  cl->source_address += number * ((uint32_t)(o->devices / processes) / CONNECTIONS_PER_SOURCE + 1);
  cl->connecting_max = (uint32_t)(o->connecting_max / processes) + 1;
  cl->id_prefix = o->prefix;
  cl->id_first = (uint32_t)(o->id_first + first * o->id_step);
  cl->id_step = (uint32_t)o->id_step;
  cl->expects_session = o->present;
  cl->keepalive_s = (uint16_t)o->ping_s;
  for (uint32_t i = 0; i < devices; i++) {
    cl->conns[i].index = i;
    cl->conns[i].subscribes = !o->present;
    snprintf(cl->conns[i].topic, TOPIC_BYTES_MAX, "%s", o->topic);
  }
  cl->owner = r;
  cl->on_message = resume_on_message;
  r->slot = &r->board->slots[number];
}

/* Until every device has everything, or nothing has come for a long time. */
static void resume_run(struct resume *r) {
  const struct options *o = r->o;
  const struct verdict *v = &r->slot->verdict;
  const struct client_counts *n = &r->cl.counts;
  uint64_t progress = 0, progress_ns = r->start_ns, now_ns = r->start_ns;
  uint32_t expected = o->messages ? r->cl.conns_count : 0;
  while (r->complete < expected || !client_settled(&r->cl)) {
    client_turn(&r->cl, 10);
    now_ns = monotonic_ns();
    if (progress != v->deliveries + n->ready) {
      progress = v->deliveries + n->ready;
      progress_ns = now_ns;
    } else if (now_ns - progress_ns > o->stall_ms * 1000000u) {
      break;
    }
    if (n->failed + n->closed > 0) break;
  }
  r->cl.opened = r->cl.conns_count;
  r->cl.counts.failed = r->cl.conns_count - n->ready;
}

static void resume_process(const struct options *o, struct fleet_board *board, uint32_t number,
                           uint32_t processes) {
  static struct resume r;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  r = (struct resume){.o = o, .board = board};
  resume_make(&r, number, processes);
  atomic_store(&r.slot->settled, true);
  while (atomic_load(&board->phase) == RESUME_PREPARE) fleet_wait(1);
  double cpu_before_s = own_cpu_s();
  r.start_ns = monotonic_ns();
  resume_run(&r);
  r.slot->cpu_s = own_cpu_s() - cpu_before_s;
  r.slot->counts = r.cl.counts;
  r.slot->last_errno = r.cl.last_errno;
  for (uint32_t i = 0; i < r.cl.conns_count; i++) {
    r.slot->verdict.lost += o->messages - r.cl.conns[i].sequence;
  }
  r.slot->messages = r.complete;
  atomic_store(&r.slot->finished, true);
  /* Whatever still comes is one too many. */
  while (atomic_load(&board->phase) < RESUME_LEAVE) client_turn(&r.cl, 20);
  r.slot->counts.closed = r.cl.counts.closed;
  client_leave(&r.cl, 2000);
  _exit(0);
}

/* Waits until every process is through. A process that died is through too. */
static void resume_wait_finished(struct fleet_board *board, const pid_t *pids, uint32_t processes) {
  for (uint32_t i = 0; i < processes; i++) {
    while (!atomic_load(&board->slots[i].finished)) {
      siginfo_t info = {0};
      waitid(P_PID, (id_t)pids[i], &info, WEXITED | WNOHANG | WNOWAIT);
      if (info.si_pid) break;
      fleet_wait(1);
    }
  }
}

static void resume_report(const char *mode, const struct options *o, uint32_t processes,
                          struct sample *from, struct sample *to, const struct fleet_slot *sum) {
  to->deliveries = sum->verdict.deliveries;
  to->messages = o->messages;
  to->generator_cpu_s = from->generator_cpu_s + sum->cpu_s;
  print_begin(mode, o);
  print_number("devices", (double)o->devices);
  print_number("processes", processes);
  print_number("complete", (double)sum->messages);
  print_rates(from, to);
  print_number("server_rss_bytes", (double)to->server_rss_bytes);
  print_number("server_rss_bytes_before", (double)from->server_rss_bytes);
  print_counts(&sum->verdict, &sum->counts);
  print_latency(&sum->latency);
  printf("}\n");
}

static int run_resume(const char *mode, const struct options *o) {
  uint32_t processes = fleet_processes(o);
  static pid_t pids[PROCESSES_MAX];
  static struct fleet_slot sum;
  struct fleet_board *board = fleet_board_make();
  for (uint32_t i = 0; i < processes; i++) {
    pids[i] = fork();
    if (pids[i] == 0) resume_process(o, board, i, processes);
    if (pids[i] < 0) problem_set("cannot fork: %s", strerror(errno));
    if (pids[i] < 0) processes = i;
  }
  fleet_wait_settled(board, pids, processes);
  struct sample from = sample_take(o, 0, 0);
  atomic_store(&board->phase, RESUME_GO);
  resume_wait_finished(board, pids, processes);
  struct sample to = sample_take(o, 0, 0);
  fleet_wait(o->quiet_ms);
  atomic_store(&board->phase, RESUME_LEAVE);
  fleet_join(pids, processes);
  fleet_sum(board, processes, &sum);
  if (o->messages == 0) sum.verdict.deliveries = sum.counts.ready; /* nothing was to arrive */
  problems_find(&sum.verdict, &sum.counts, sum.last_errno);
  if (o->messages == 0) sum.verdict.deliveries = 0;
  resume_report(mode, o, processes, &from, &to, &sum);
  return problem[0] ? 1 : 0;
}

#endif
