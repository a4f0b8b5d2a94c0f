/**
 * A soak: clients at work against one service, which may be stopped or killed meanwhile; and after
 * each round, when everything has come to rest, the judgement.
 */
import type { Address } from "../../../core/address.ts";
import { random_of } from "../../cases/random.ts";
import { Service } from "../../support/service.ts";
import { patience_ms } from "../../support/wait.ts";
import { Device, type Surroundings } from "./device.ts";
import type { Session } from "./held.ts";
import { GroupJudge, missing, wrong } from "./judge.ts";
import { Ledger, type Message, now } from "./ledger.ts";
import { connect, roles, share_1, share_2, sleep, work } from "./traffic.ts";

/** What happens to the service in the middle of a round. */
export type Interruption = "none" | "stop" | "kill";

/** How long nothing may have come before what is missing is looked at again. */
const rest_ms = 40;

export class World implements Surroundings {
  readonly ledger = new Ledger();
  readonly problems: string[] = [];
  readonly devices: Device[];
  is_restarting = false;
  interrupted = Infinity;
  service_number = 0;
  /** Of services. */
  readonly #killed = new Set<number>();
  #stirred_ms = now();
  readonly #groups: readonly GroupJudge[];
  /** Messages that were judged in an earlier round. */
  readonly #judged = new Set<Message>();

  private constructor(readonly data: string, private service: Service, readonly seed: number) {
    this.devices = roles.map(({ name }, index) => new Device(`${name}${index}`, this));
    const members = (share: string) => () => this.#members(share);
    this.#groups = [
      new GroupJudge(share_1, 1, members(share_1)),
      new GroupJudge(share_2, 2, members(share_2)),
    ];
  }

  static async start(seed: number): Promise<World> {
    const data = await Deno.makeTempDir();
    return new World(data, await Service.start({ data }), seed);
  }

  get mqtt(): Address {
    return this.service.mqtt;
  }

  stirred(): void {
    this.#stirred_ms = now();
  }

  is_killed(service_number: number): boolean {
    return this.#killed.has(service_number);
  }

  has_come(message: Message): boolean {
    return this.devices.some(({ session, past }) => {
      return [...past, ...session === null ? [] : [session]]
        .some(({ deliveries }) => deliveries.has(message));
    });
  }

  /** Only what was killed may have lost a session, and only one that nothing was asked of. */
  may_forget(session: Session): boolean {
    return session.kills > 0 && session.filters().length + session.filters(true).length === 0;
  }

  *#members(share: string): Generator<Session> {
    for (const { session, past } of this.devices) {
      for (const each of session === null ? past : [...past, session]) {
        if (each.subscriptions.some(({ filter }) => filter === share)) yield each;
      }
    }
  }

  /** Lets every client work for a while; then judges. */
  async round(number: number, ms: number, interruption: Interruption): Promise<void> {
    const ends_ms = performance.now() + ms;
    const working = this.devices.map((device, index) => {
      const random = random_of(this.seed + number * 7919 + index * 104_729);
      return work(device, random, roles[index], ends_ms);
    });
    if (interruption !== "none") {
      await sleep(random_of(this.seed + number)() * ms);
      await this.#restart(interruption);
    }
    await Promise.all(working);
    await this.#come_to_rest(number);
    this.#judge();
  }

  async #restart(how: "stop" | "kill"): Promise<void> {
    this.is_restarting = true;
    this.interrupted = now();
    if (how === "kill") {
      this.#killed.add(this.service_number);
      for (const device of this.devices) {
        device.killed();
        if (device.session !== null) device.session.kills++;
      }
    }
    for (const device of this.devices) device.note(`service: ${how}`);
    await this.service[how]();
    this.service = await Service.start({ data: this.data });
    this.service_number++;
    this.is_restarting = false;
    this.interrupted = Infinity;
  }

  /** Every exchange is completed, and everyone has what he must have, or never will. */
  async #come_to_rest(round: number): Promise<void> {
    for (const [index, device] of this.devices.entries()) {
      if (device.link === null) await connect(device, random_of(this.seed + round), roles[index]);
    }
    const last = this.devices.flatMap((device) => {
      return device.publish({ topic: "end", qos: 1, retain: false, size: 1 }) ?? [];
    });
    const is_idle = () =>
      this.devices.every((device) => device.is_idle && last.every((each) => device.has_seen(each)));
    await this.#until(is_idle);
    for (const message of this.ledger.all()) if (message.ended === Infinity) message.ended = now();
    await this.#until(() => this.#missing().length === 0);
    await sleep(rest_ms); // what came too much has had its time, too
  }

  /** Waits until it holds, or for so long after the last that came that it never will. */
  async #until(holds: () => boolean): Promise<void> {
    this.stirred();
    while (!holds()) {
      const still_ms = now() - this.#stirred_ms;
      if (still_ms > patience_ms / 2 || this.problems.length > 0 && still_ms > 1000) return;
      for (const { link } of this.devices) link?.ping(() => {}); // keep alive
      await sleep(rest_ms);
    }
  }

  #missing(): string[] {
    const open = [...this.ledger.all()].filter((message) => !this.#judged.has(message));
    const problems: string[] = [];
    for (const { session, id, outgoing } of this.devices) {
      if (session === null) continue;
      problems.push(...missing(session, open, this.ledger));
      for (const { message } of outgoing.values()) {
        problems.push(`${id}: the exchange of ${message.id} does not end`);
      }
    }
    const stays = this.devices[roles.findIndex(({ stays }) => stays)].session!;
    for (const group of this.#groups) {
      const since = stays.active(group.share)?.granted ?? Infinity;
      problems.push(...group.missing(open, since));
    }
    return problems;
  }

  #judge(): void {
    this.problems.push(...this.#missing());
    for (const { session, past } of this.devices) {
      for (const each of session === null ? past : [...past, session]) {
        this.problems.push(...wrong(each, this.ledger));
      }
    }
    const all = [...this.ledger.all()];
    for (const group of this.#groups) {
      this.problems.push(...group.wrong(all, this.#killed.size > 0));
    }
    for (const message of all) this.#judged.add(message);
    this.problems.push(...this.service.log.filter((line) => /bug|panic|error/i.test(line)));
    if (this.problems.length === 0) return;
    throw new Error(this.#report());
  }

  /** The first problems, and what their clients did and saw of the messages that they are about. */
  #report(): string {
    const first = this.problems.slice(0, 12);
    const words = new Set(first.flatMap((problem) => problem.split(/[\s:]+(?!\d)/)));
    const lines: string[] = [];
    for (const { id, trail } of this.devices) {
      const is_named = words.has(id) || [...words].some((word) => word.startsWith(`${id}+will`));
      const told = trail.filter((line) => {
        const [, what, subject] = line.split(" ");
        const is_message = /^publish$/i.test(what) || what === "again";
        return is_message ? words.has(subject) : is_named;
      });
      if (told.length > 0) lines.push(`--- ${id}`, ...told);
    }
    return `${this.problems.length} problems:\n${first.join("\n")}\n${lines.join("\n")}`;
  }

  /** Messages that were published, and deliveries. */
  get figures(): { published: number; delivered: number; connections: number } {
    const sessions = this.devices.flatMap(({ session, past }) => [...past, session!]);
    return {
      published: this.ledger.count,
      delivered: sessions.reduce((sum, { arrivals }) => sum + arrivals.length, 0),
      connections: sessions.reduce((sum, each) => sum + each.connections, 0),
    };
  }

  async end(): Promise<void> {
    for (const device of this.devices) await device.cut(false);
    await this.service.stop();
    await Deno.remove(this.data, { recursive: true });
  }
}
