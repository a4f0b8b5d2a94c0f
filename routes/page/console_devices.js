/** Devices: search, those that are worst off, one with its subscriptions and its timeline. */
import { useEffect, useState } from "preact/hooks";
import { ask_json } from "./console_api.js";
import { html } from "./console_charts.js";
import { short_bytes, short_number } from "./console_metrics.js";

const wait_ms = 250;
const page_devices = 50;
const refresh_ms = 5000;

const lists = {
  all: "All, by id",
  connected: "Connected, by id",
  queue_bytes: "Most bytes waiting",
  heartbeat_misses: "Most heartbeats missed",
  replay_lag: "Furthest behind",
};

/** What a list says of a device besides what it is. */
function state_of(device, list) {
  if (list === "queue_bytes") return `${short_bytes(device.queue_bytes)} wait`;
  if (list === "heartbeat_misses") return `${device.heartbeat_misses.toFixed(1)} missed`;
  if (list === "replay_lag") return `${short_number(device.replay_lag)} behind`;
  return device.connected ? device.address : "away";
}

async function find(prefix, list) {
  const query = new URLSearchParams({ limit: page_devices });
  if (list === "connected") query.set("connected", "true");
  else if (list !== "all") query.set("sort", list);
  if (prefix !== "" && !query.has("sort")) query.set("prefix", prefix);
  const found = await ask_json(`v1/devices?${query}`);
  // Those that are worst off are looked for among all; what was typed narrows what is shown.
  const devices = found.devices.filter(({ device_id }) => device_id.startsWith(prefix));
  return { ...found, devices };
}

function describe(event) {
  const { reason, filter, topic, qos, protocol, resumed, offset, queue_bytes } = event;
  const parts = [
    reason,
    protocol,
    resumed === undefined ? undefined : resumed ? "resumed" : "new session",
    filter ?? topic,
    qos === undefined ? undefined : `QoS ${qos}`,
    offset === undefined ? undefined : `at offset ${offset}`,
    queue_bytes === undefined ? undefined : `${short_bytes(queue_bytes)} wait`,
  ];
  return parts.filter((part) => part !== undefined).join(" · ");
}

const tones = { connected: "good", caught_up: "good", subscribed: "calm", unsubscribed: "calm" };

function Timeline({ timeline }) {
  const { events, since, missing } = timeline;
  if (events.length === 0) return html`<p class="muted">Nothing is remembered of it.</p>`;
  return html`
    <ol class="timeline" id="timeline">
      ${events.map((event, index) =>
        html`
          <li key=${event.time + index} class=${tones[event.event] ?? "warn"}>
            <time datetime=${event.time}>${new Date(event.time).toLocaleTimeString([], {
              hour12: false,
            })}</time>
            <strong>${event.event.replace("_", " ")}</strong>
            <span class="muted">${describe(event)}</span>
          </li>
        `
      )}
    </ol>
    ${since && html`<p class="muted">Known since ${new Date(since).toLocaleString()}.</p>`}
    ${missing.length > 0 && html`<p class="bad">No answer from ${missing.join(", ")}.</p>`}
  `;
}

function Detail({ id, on_close }) {
  const [shown, set_shown] = useState(null);
  const [problem, set_problem] = useState("");
  const [asked, set_asked] = useState(0);
  const [is_sure, set_sure] = useState(false);
  const place = `v1/devices/${encodeURIComponent(id)}`;
  useEffect(() => {
    let is_over = false;
    const load = async () => {
      try {
        const [device, timeline] = await Promise.all([
          ask_json(place).catch((error) => {
            if (error.status === 404) return null;
            throw error;
          }),
          ask_json(`${place}/timeline`),
        ]);
        if (is_over) return;
        set_shown({ device, timeline });
        set_problem("");
      } catch (error) {
        if (!is_over) set_problem(error.message);
      }
    };
    load();
    const timer = setInterval(load, refresh_ms);
    return () => {
      is_over = true;
      clearInterval(timer);
    };
  }, [id, asked]);
  const kick = async () => {
    if (!is_sure) return set_sure(true);
    set_sure(false);
    try {
      await ask_json(place, { method: "DELETE" });
    } catch (error) {
      set_problem(error.message);
    }
    set_asked(asked + 1);
  };
  const device = shown?.device;
  return html`
    <article class="detail" id="device" aria-label=${`Device ${id}`}>
      <header>
        <h3><code>${id}</code></h3>
        <span class="buttons">
          ${device?.connected && html`
            <button type="button" class=${is_sure ? "danger" : ""} onClick=${kick}
              onBlur=${() => set_sure(false)}>${is_sure ? "Close it now" : "Disconnect"}</button>
          `}
          <button type="button" onClick=${on_close}>Back</button>
        </span>
      </header>
      ${problem && html`<p class="bad" role="alert">${problem}</p>`}
      ${device && html`
        <dl>
          <dt>State</dt>
          <dd><span class=${`pill ${device.connected ? "good" : ""}`}>${device.connected
            ? "connected"
            : "away"}</span></dd>
          <dt>Protocol</dt>
          <dd>${device.protocol}</dd>
          <dt>Address</dt>
          <dd>${device.address ?? "–"}</dd>
          <dt>Node</dt>
          <dd>${device.node}</dd>
          <dt>In flight</dt>
          <dd>${device.inflight}</dd>
          <dt>Filters</dt>
          <dd>${device.filters.length === 0 ? "none" : device.filters.map(({ filter, qos }) =>
            html`
              <code key=${filter}>${filter}</code> <span class="muted">QoS ${qos}</span>
            `
          )}</dd>
        </dl>
      `}
      <h4>Timeline</h4>
      ${shown && html`<${Timeline} timeline=${shown.timeline} />`}
    </article>
  `;
}

function Row({ device, list, is_chosen, on_choose }) {
  const { device_id, connected, protocol } = device;
  return html`
    <li>
      <button type="button" class="row" aria-pressed=${is_chosen} onClick=${on_choose}>
        <i class=${`dot ${connected ? "good" : ""}`}></i>
        <code>${device_id}</code>
        <span class="muted">${protocol}</span>
        <span class="muted state">${state_of(device, list)}</span>
      </button>
    </li>
  `;
}

/** @param tick changes when a token does */
export function Devices({ tick }) {
  const [prefix, set_prefix] = useState("");
  const [list, set_list] = useState("all");
  const [found, set_found] = useState(null);
  const [problem, set_problem] = useState("");
  const [chosen, set_chosen] = useState("");
  useEffect(() => {
    let is_over = false;
    const load = async () => {
      try {
        const page = await find(prefix, list);
        if (is_over) return;
        set_found({ ...page, list });
        set_problem("");
      } catch (error) {
        if (!is_over) set_problem(error.message);
      }
    };
    const first = setTimeout(load, wait_ms);
    const timer = setInterval(load, refresh_ms);
    return () => {
      is_over = true;
      clearTimeout(first);
      clearInterval(timer);
    };
  }, [prefix, list, tick]);
  const rows = found === null ? [] : found.devices.map((device) =>
    html`
      <${Row} key=${device.device_id} device=${device} list=${found.list}
        is_chosen=${chosen === device.device_id} on_choose=${() => set_chosen(device.device_id)} />
    `
  );
  const empty = list === "all" || list === "connected"
    ? "No device fits."
    : "All of them are well.";
  return html`
    <section class=${`card devices ${chosen ? "has-detail" : ""}`} id="devices">
      <div class="finder">
        <header><h2>Devices</h2></header>
        <form class="pair" role="search" onSubmit=${(event) => event.preventDefault()}>
          <label>Id begins with
            <input id="device-search" type="search" spellcheck="false" autocomplete="off"
              value=${prefix} onInput=${(event) => set_prefix(event.target.value)} />
          </label>
          <label>Show
            <select id="device-list" value=${list}
              onChange=${(event) => set_list(event.target.value)}>
              ${Object.entries(lists).map(([key, text]) =>
                html`<option key=${key} value=${key}>${text}</option>`
              )}
            </select>
          </label>
        </form>
        ${problem && html`<p class="bad" role="alert">${problem}</p>`}
        ${found !== null && rows.length === 0 && html`<p class="muted">${empty}</p>`}
        <ul class="rows">${rows}</ul>
        ${found?.next && html`<p class="muted">The first ${page_devices}; type more of the id.</p>`}
        ${found?.missing.length > 0 &&
          html`<p class="bad">No answer from ${found.missing.join(", ")}.</p>`}
      </div>
      ${chosen && html`<${Detail} key=${chosen} id=${chosen} on_close=${() => set_chosen("")} />`}
    </section>
  `;
}
