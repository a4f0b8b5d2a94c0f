/**
 * Sample data that the zstd dictionary is trained on: what back ends and devices of several kinds
 * of fleets say to each other, made from a seed, so that the dictionary can be made again.
 */
import { random_of } from "../cases/random.ts";

export interface Sample {
  readonly topic: string;
  readonly payload: string;
}

type Random = () => number;

const whole = (random: Random, from: number, to: number) =>
  from + Math.floor(random() * (to - from + 1));
const decimal = (random: Random, from: number, to: number, digits = 1) =>
  Number((from + random() * (to - from)).toFixed(digits));
const one_of = <T>(random: Random, values: readonly T[]): T =>
  values[Math.floor(random() * values.length)];
const hex = (random: Random, digits: number) =>
  Array.from({ length: digits }, () => Math.floor(random() * 16).toString(16)).join("");
/** Some time of 2026 to 2028. */
const time_ms = (random: Random) => 1_767_225_600_000 + Math.floor(random() * 63_072_000_000);
const time_text = (random: Random) => new Date(time_ms(random)).toISOString();

function device(random: Random): string {
  return one_of(random, [
    () => `device-${whole(random, 1, 99_999)}`,
    () => `dev-${hex(random, 8)}`,
    () => `sensor-${String(whole(random, 1, 9999)).padStart(4, "0")}`,
    () => `gateway-${whole(random, 1, 500)}`,
    () => `${hex(random, 12)}`,
    () => `truck-${whole(random, 1, 999)}`,
  ])();
}

const site = (random: Random) =>
  one_of(random, [
    "berlin",
    "hamburg",
    "madrid",
    "oslo",
    "plant-1",
    "plant-2",
    "site-7",
    "eu-west",
  ]);

/** What one kind of message looks like. */
type Kind = (random: Random) => Sample;

const reports: readonly Kind[] = [
  (r) => ({
    topic: `devices/${device(r)}/telemetry`,
    payload: JSON.stringify({
      device_id: device(r),
      timestamp: time_ms(r),
      temperature: decimal(r, -20, 60),
      humidity: decimal(r, 10, 95),
      battery: whole(r, 0, 100),
    }),
  }),
  (r) => ({
    topic: `sites/${site(r)}/sensors/${device(r)}/data`,
    payload: JSON.stringify({
      id: device(r),
      time: time_text(r),
      type: one_of(r, ["temperature", "humidity", "pressure", "co2", "vibration"]),
      value: decimal(r, 0, 1200, 2),
      unit: one_of(r, ["C", "celsius", "%", "hPa", "ppm", "mm/s"]),
      status: one_of(r, ["ok", "ok", "ok", "warning", "error"]),
    }),
  }),
  (r) => ({
    topic: `fleet/${device(r)}/position`,
    payload: JSON.stringify({
      lat: decimal(r, 36, 60, 5),
      lon: decimal(r, -9, 24, 5),
      speed: decimal(r, 0, 130),
      heading: whole(r, 0, 359),
      altitude: whole(r, 0, 900),
      satellites: whole(r, 4, 14),
      timestamp: time_ms(r),
    }),
  }),
  (r) => ({
    topic: `devices/${device(r)}/status`,
    payload: JSON.stringify({
      status: one_of(r, ["online", "offline", "idle", "charging", "updating"]),
      uptime_s: whole(r, 0, 9_000_000),
      rssi: -whole(r, 40, 110),
      firmware: `${whole(r, 1, 4)}.${whole(r, 0, 20)}.${whole(r, 0, 9)}`,
      free_memory: whole(r, 10_000, 200_000),
      load_percent: whole(r, 0, 100),
    }),
  }),
  (r) => ({
    topic: `chargers/${device(r)}/meter`,
    payload: JSON.stringify({
      connector: whole(r, 1, 2),
      transaction_id: whole(r, 1, 9_999_999),
      energy_wh: whole(r, 0, 80_000),
      power_w: whole(r, 0, 22_000),
      voltage: decimal(r, 225, 242),
      current: decimal(r, 0, 32),
      state: one_of(r, ["available", "preparing", "charging", "finishing", "faulted"]),
    }),
  }),
];

const orders: readonly Kind[] = [
  (r) => ({
    topic: `devices/${device(r)}/commands`,
    payload: JSON.stringify({
      id: crypto_like(r),
      command: one_of(r, ["restart", "update", "set_config", "read", "open", "close", "unlock"]),
      params: { timeout_s: whole(r, 1, 600), force: r() < 0.5 },
      issued_at: time_text(r),
    }),
  }),
  (r) => ({
    topic: `devices/${device(r)}/config`,
    payload: JSON.stringify({
      version: whole(r, 1, 400),
      interval_s: one_of(r, [5, 10, 30, 60, 300, 900]),
      enabled: r() < 0.8,
      threshold: decimal(r, 0, 100),
      mode: one_of(r, ["auto", "manual", "eco", "off"]),
    }),
  }),
  (r) => ({
    topic: `alerts/${site(r)}`,
    payload: JSON.stringify({
      alert: one_of(r, ["temperature_high", "battery_low", "door_open", "offline", "leak"]),
      severity: one_of(r, ["info", "warning", "critical"]),
      device: device(r),
      message: one_of(r, [
        "Temperature is above the limit",
        "Battery is below 20 percent",
        "The door has been open for more than 5 minutes",
        "No data received",
      ]),
      time: time_text(r),
    }),
  }),
  (r) => ({
    topic: one_of(r, ["fleet/news", "fleet/all", "firmware/release"]),
    payload: JSON.stringify({
      title: one_of(r, ["Maintenance", "New firmware", "Notice"]),
      version: `${whole(r, 1, 4)}.${whole(r, 0, 20)}.${whole(r, 0, 9)}`,
      url: `https://updates.example.com/firmware/${hex(r, 16)}.bin`,
      size: whole(r, 100_000, 9_000_000),
      sha256: hex(r, 64),
    }),
  }),
];

/** Names that many fleets use, and what stands behind them. */
const members: Readonly<Record<string, (random: Random) => unknown>> = {
  ts: time_ms,
  time: time_text,
  timestamp: time_text,
  seq: (r) => whole(r, 0, 100_000),
  id: device,
  device: device,
  state: (r) => one_of(r, ["on", "off", "running", "stopped", "idle", "open", "closed", "fault"]),
  running: (r) => r() < 0.5,
  online: (r) => r() < 0.5,
  alarm: (r) => r() < 0.5,
  error: (r) => one_of(r, [null, 0, 17, "timeout", "sensor_fault"]),
  error_code: (r) => whole(r, 0, 99),
  temp: (r) => decimal(r, -20, 90),
  temperature_c: (r) => decimal(r, -20, 90),
  humidity: (r) => decimal(r, 0, 100),
  pressure: (r) => decimal(r, 0, 1100),
  battery: (r) => whole(r, 0, 100),
  battery_v: (r) => decimal(r, 2.4, 14.4, 2),
  voltage: (r) => decimal(r, 2, 420),
  current: (r) => decimal(r, 0, 63, 2),
  power: (r) => decimal(r, 0, 11_000),
  energy_kwh: (r) => decimal(r, 0, 9000, 3),
  frequency: (r) => decimal(r, 49.9, 50.1, 2),
  flow: (r) => decimal(r, 0, 400),
  level: (r) => decimal(r, 0, 100),
  rpm: (r) => whole(r, 0, 6000),
  speed: (r) => decimal(r, 0, 140),
  torque: (r) => decimal(r, 0, 300),
  vibration: (r) => decimal(r, 0, 12, 3),
  co2: (r) => whole(r, 380, 2400),
  rssi: (r) => -whole(r, 40, 118),
  snr: (r) => decimal(r, -10, 12),
  signal: (r) => whole(r, 0, 31),
  uptime: (r) => whole(r, 0, 9_000_000),
  count: (r) => whole(r, 0, 9999),
  value: (r) => decimal(r, 0, 1000, 2),
  unit: (r) => one_of(r, ["C", "V", "A", "W", "kWh", "bar", "l/min", "%"]),
  location: (r) => ({ lat: decimal(r, 36, 60, 5), lng: decimal(r, -9, 24, 5) }),
  version: (r) => `${whole(r, 1, 4)}.${whole(r, 0, 20)}.${whole(r, 0, 9)}`,
  mode: (r) => one_of(r, ["auto", "manual", "eco", "heat", "cool"]),
  setpoint: (r) => decimal(r, 15, 25),
  valve: (r) => whole(r, 0, 100),
  data: (r) => [decimal(r, 0, 99), decimal(r, 0, 99), decimal(r, 0, 99)],
};

/** A report of some members in any order, as one vendor or another writes it. */
function mixed(random: Random): Sample {
  const count = whole(random, 3, 7);
  const names = Array.from({ length: count }, () => one_of(random, Object.keys(members)));
  const pairs = names.map((name) => [name, members[name](random)]);
  const space = random() < 0.2 ? 1 : 0;
  const payload = JSON.stringify(Object.fromEntries(pairs));
  const topic = one_of(random, [
    () => `site/${whole(random, 1, 99)}/line/${whole(random, 1, 9)}/${device(random)}/data`,
    () => `v1/${device(random)}/events`,
    () => `${site(random)}/${device(random)}/state`,
    () => `buildings/${whole(random, 1, 40)}/floors/${whole(random, 0, 9)}/rooms/${device(random)}`,
  ])();
  return { topic, payload: space ? payload.replaceAll(/([:,])"/g, '$1 "') : payload };
}

function crypto_like(random: Random): string {
  return [8, 4, 4, 4, 12].map((digits) => hex(random, digits)).join("-");
}

export function* samples_of(count: number, seed: number): Generator<Sample, void, undefined> {
  const random = random_of(seed);
  const kinds = [...reports, ...orders, mixed, mixed, mixed, mixed];
  for (let i = 0; i < count; i++) yield kinds[i % kinds.length](random);
}
