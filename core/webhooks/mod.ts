/**
 * All webhooks of a node: which there are, which of them it runs, and the events of devices that
 * they want. A set that cannot be used changes nothing. A node without the setting never loads it.
 */
import { Rendezvous, type View } from "../cluster/mod.ts";
import type { Config } from "../config.ts";
import type { Hub } from "../hub.ts";
import { limits } from "../limits.ts";
import type { Log } from "../log.ts";
import type { Router } from "../router.ts";
import { in_slices } from "../dirty.ts";
import { is_longwire, type Session } from "../session.ts";
import type { Sessions } from "../sessions.ts";
import { StartError } from "../startup.ts";
import type { Store, StoredSession } from "../store/mod.ts";
import {
  callbacks_name,
  type Definitions,
  no_definitions,
  parse_definitions,
  WebhooksError,
} from "./definition.ts";
import { Acknowledgements } from "./acknowledgements.ts";
import { Callbacks } from "./callbacks.ts";
import { DeviceEvents, Wanted } from "./device_events.ts";
import { type EndpointCounts, new_counts } from "./endpoint.ts";
import { EventLog } from "./event_log.ts";
import { HookRunner } from "./hook_runner.ts";
import { refusal_of_target, Sender } from "./sender.ts";
import { hook_row, is_hook_row } from "./topics.ts";

/** The nodes of a cluster. */
export interface Nodes {
  readonly view: View;
  on_view: (view: View) => void;
}

export interface WebhookParts {
  readonly router: Router;
  readonly store: Store;
  readonly sessions: Sessions;
  readonly hub: Hub;
  readonly log: Log;
  readonly version: string;
  readonly now_ms: () => number;
  readonly read_file: (path: string) => Promise<string>;
}

/** How often the file is looked at, and cursors are written. */
const file_refresh_ms = 2000;
const flush_ms = 1000;

export class Webhooks {
  readonly events: EventLog;
  readonly sender: Sender;
  definitions: Definitions = no_definitions;
  /** By row. */
  readonly #runners = new Map<string, HookRunner>();
  readonly #counts = new Map<string, EndpointCounts>();
  readonly #wanted = new Wanted();
  readonly #device_events: DeviceEvents;
  readonly #acknowledgements: Acknowledgements;
  readonly callbacks: Callbacks;
  #interrupted: Session[] = [];
  /** Whether this node runs what a row is of: in a cluster one node does. */
  #is_mine: (row: string) => boolean = () => true;
  #text = "";
  /** What is being done to the set of hooks, one after another. */
  #changing: Promise<void> = Promise.resolve();
  #timers: ReturnType<typeof setInterval>[] = [];
  #stopped = false;

  private constructor(readonly config: Config, readonly parts: WebhookParts) {
    const { router, sessions, version, now_ms } = parts;
    this.sender = new Sender(config.webhook_networks, version);
    this.events = new EventLog(router);
    const report = (session: Session) => this.#report_acks(session);
    this.#device_events = new DeviceEvents(this.#wanted, this.events, now_ms, report);
    this.#acknowledgements = new Acknowledgements(this.#wanted, this.events, parts);
    const allowed = config.webhook_networks;
    this.callbacks = new Callbacks({ ...parts, sender: this.sender, allowed });
    this.#counts.set(callbacks_name, this.callbacks.post.counts);
    sessions.on_interrupted = (session) => this.#interrupted.push(session);
  }

  /** Reads the file; before the sessions are read. Throws StartError. */
  static async open(config: Config, parts: WebhookParts): Promise<Webhooks> {
    const webhooks = new Webhooks(config, parts);
    try {
      await webhooks.#read();
    } catch (error) {
      const reason = (error as Error).message.replace(/\.$/, "");
      throw new StartError(`Cannot use webhooks "${config.webhooks}": ${reason}`);
    }
    return webhooks;
  }

  /**
   * The sessions have been read: hooks run from now on, from where they were.
   * @param node null = this node is alone
   */
  async start(node: Nodes | null): Promise<void> {
    this.#device_events.interrupted(this.#interrupted.splice(0));
    const { sessions } = this.parts;
    sessions.on_interrupted = (session) => this.#device_events.interrupted([session]);
    this.callbacks.start();
    if (node !== null) {
      node.on_view = (view) => this.#share(view);
      this.#is_mine = this.#part_in(node.view);
    }
    await this.#apply();
    const { log } = this.parts;
    const look = () => {
      this.#read().then((is_new) => is_new ? this.#apply() : undefined).catch((error) => {
        log.error("cannot use the webhooks", { file: this.config.webhooks, reason: error.message });
      });
    };
    this.#timers = [setInterval(look, file_refresh_ms), setInterval(() => this.#flush(), flush_ms)];
  }

  /** Each hook runs at one node: with those that come and go, few of them move. */
  #part_in({ members }: View): (row: string) => boolean {
    const rendezvous = new Rendezvous(members.keys());
    return (row) => rendezvous.registrar_of(row) === this.config.node_id;
  }

  #share(view: View): void {
    this.#is_mine = this.#part_in(view);
    void this.#apply();
  }

  /** Hooks of a tenant that run here. */
  runners(tenant: string): HookRunner[] {
    return [...this.#runners.values()].filter(({ hook }) => hook.tenant === tenant);
  }

  /** What was counted for each hook since the start, by name. */
  all_counts(): ReadonlyMap<string, EndpointCounts> {
    return this.#counts;
  }

  all(): Iterable<HookRunner> {
    return this.#runners.values();
  }

  /** Sends nothing more and writes where each hook stands. */
  async stop(): Promise<void> {
    this.#stopped = true;
    for (const timer of this.#timers) clearInterval(timer);
    await this.#changing;
    await this.callbacks.stop();
    await Promise.all([...this.#runners.values()].map((runner) => runner.stop()));
    this.sender.close();
  }

  /** Reads the file if it has changed; true = it has. */
  async #read(): Promise<boolean> {
    const text = await this.parts.read_file(this.config.webhooks);
    if (text === this.#text) return false;
    this.#text = text; // said once, also where it is wrong
    if (text.length > limits.webhooks_bytes_max) throw new WebhooksError("it is too large");
    const definitions = parse_definitions(text);
    for (const { name, url } of definitions.hooks) {
      const why = refusal_of_target(url, this.config.webhook_networks);
      if (why !== undefined) throw new WebhooksError(`"${name}" cannot use its "url": ${why}`);
    }
    this.definitions = definitions;
    this.#wanted.use(definitions.hooks);
    this.parts.hub.watcher = this.#device_events;
    this.callbacks.use(definitions);
    this.#watch_acknowledgements();
    return true;
  }

  #watch_acknowledgements(): void {
    const { sessions } = this.parts;
    const is_wanted = this.#wanted.any("acknowledged");
    sessions.acknowledgements = is_wanted ? this.#acknowledgements : null;
    if (!is_wanted) return;
    void in_slices(sessions.all(), (session) => {
      const is_its = this.#wanted.names_for(session.id, "acknowledged") !== undefined;
      if (session.connected && is_its) this.#report_acks(session);
    });
  }

  /** Of sessions that end with their connection the reactor keeps them to itself else. */
  #report_acks(session: Session): void {
    const { router } = this.parts;
    if (is_longwire(session.wire)) return;
    router.reactor.report_acks(session.conn, session.generation);
    router.schedule_turn();
  }

  #apply(): Promise<void> {
    return this.#changing = this.#changing.then(() => this.#change()).catch((error) => {
      this.parts.log.error("cannot change the webhooks", { error: String(error) });
    });
  }

  async #change(): Promise<void> {
    if (this.#stopped) return;
    const { hooks } = this.definitions;
    const wanted = new Map(hooks.map((hook) => [hook_row(hook.tenant, hook.name), hook]));
    for (const [row, runner] of [...this.#runners]) {
      const hook = wanted.get(row);
      const is_kept = hook?.text === runner.hook.text && this.#is_mine(row);
      if (is_kept && !runner.endpoint.is_gone) continue;
      await runner.stop();
      this.#runners.delete(row);
      const { cursor } = runner;
      const { epoch: state } = this.parts.store;
      const record = { id: row, subscriptions: [], cursor, expires_ms: 0, state };
      if (hook !== undefined) this.parts.sessions.own_rows.set(row, record);
      else await this.parts.store.delete_session(row);
    }
    await this.#forget_rows(wanted);
    for (const [row, hook] of wanted) {
      if (this.#runners.has(row) || !this.#is_mine(row)) continue;
      const counts = this.#counts.get(hook.name) ?? new_counts();
      this.#counts.set(hook.name, counts);
      const runner = new HookRunner(hook, { ...this.parts, sender: this.sender }, counts);
      runner.start(await this.#record_of(row));
      this.#runners.set(row, runner);
    }
    const { log } = this.parts;
    log.info("webhooks are in use", { hooks: hooks.length, here: this.#runners.size });
  }

  /** Where a hook stood when it was stopped last. */
  async #record_of(row: string): Promise<StoredSession | undefined> {
    const { store, sessions } = this.parts;
    if (store.shared !== undefined) return await store.shared.session(row);
    const record = sessions.own_rows.get(row);
    sessions.own_rows.delete(row);
    return record;
  }

  /** Hooks that are not in the file any more: one that comes back begins anew. */
  async #forget_rows(wanted: ReadonlyMap<string, unknown>): Promise<void> {
    const { sessions, store } = this.parts;
    for (const row of [...sessions.own_rows.keys()]) {
      if (!is_hook_row(row) || wanted.has(row)) continue;
      sessions.own_rows.delete(row);
      await store.delete_session(row);
    }
  }

  #flush(): void {
    for (const runner of this.#runners.values()) void runner.flush();
  }
}
