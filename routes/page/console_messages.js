/** Messages: a form that publishes one, and those of a filter as they come. */
import { useRef, useState } from "preact/hooks";
import { ask_json, events_of } from "./console_api.js";
import { html } from "./console_charts.js";

const tail_messages = 100;
/** However many come, the page is drawn so often. */
const draw_ms = 250;
const payload_shown = 500;

export function Publish() {
  const [result, set_result] = useState(null);
  const publish = async (event) => {
    event.preventDefault();
    const values = new FormData(event.target);
    const query = new URLSearchParams({ qos: values.get("qos") });
    if (values.get("retain") !== null) query.set("retain", "true");
    if (values.get("ttl") !== "") query.set("ttl", values.get("ttl"));
    const path = values.get("topic").split("/").map(encodeURIComponent).join("/");
    set_result({ text: "Publishing..." });
    try {
      const headers = { "content-type": "text/plain" };
      const request = { method: "POST", headers, body: values.get("payload") };
      const { id, audience } = await ask_json(`v1/topics/${path}?${query}`, request);
      const stored = id === null ? "Sent" : `Stored as ${id.slice(id.lastIndexOf(":") + 1)}`;
      set_result({ text: `${stored}; sent to ${audience} subscriptions`, tone: "good" });
    } catch (error) {
      set_result({ text: error.message, tone: "bad" });
    }
  };
  return html`
    <section class="card" id="publish">
      <header>
        <h2>Publish</h2>
      </header>
      <form onSubmit=${publish}>
        <label>Topic <input name="topic" required spellcheck="false" autocomplete="off"
          placeholder="demo/greeting" /></label>
        <label>Payload <textarea name="payload" rows="4" spellcheck="false"></textarea></label>
        <div class="pair">
          <label>QoS
            <select name="qos">
              <option value="0">0, at most once</option>
              <option value="1" selected>1, at least once</option>
              <option value="2">2, exactly once</option>
            </select>
          </label>
          <label>Wanted for
            <input name="ttl" placeholder="for ever, or 5m" autocomplete="off" />
          </label>
        </div>
        <label
          class="check"><input type="checkbox" name="retain" /> Keep for those who come later</label>
        <button type="submit" class="primary">Publish</button>
      </form>
      <p role="status" class=${result?.tone ?? "muted"}>${result?.text ?? ""}</p>
    </section>
  `;
}

function payload_text({ payload, payload_base64 }) {
  const text = payload ?? `base64 ${payload_base64}`;
  return text.length > payload_shown ? `${text.slice(0, payload_shown)}...` : text;
}

function Message({ message }) {
  const { topic, qos, time, offset } = message;
  const at = new Date(time).toLocaleTimeString([], { hour12: false });
  return html`
    <li>
      <div><code>${topic}</code> <span class="muted">QoS ${qos}${offset > 0
        ? ` · ${offset}`
        : ""} · ${at}</span></div>
      <pre>${payload_text(message)}</pre>
    </li>
  `;
}

export function Tail() {
  const [rows, set_rows] = useState([]);
  const [state, set_state] = useState({ text: "" });
  const running = useRef(null);
  const stop = () => {
    running.current?.abort();
    running.current = null;
    set_state({ text: "Stopped" });
  };
  const start = async (event) => {
    event.preventDefault();
    if (running.current !== null) return stop();
    const filter = new FormData(event.target).get("filter");
    const controller = running.current = new AbortController();
    set_rows([]);
    set_state({ text: `Listening to ${filter}`, is_on: true });
    let count = 0;
    let fresh = [];
    const draw = setInterval(() => {
      if (fresh.length === 0) return;
      // What is drawn once stays as it is: only what is new is made.
      const rows = fresh.map((message) =>
        html`<${Message} key=${message.key} message=${message} />`
      );
      fresh = [];
      set_rows((before) => [...rows, ...before].slice(0, tail_messages));
    }, draw_ms);
    try {
      const path = `v1/events?topic=${encodeURIComponent(filter)}`;
      for await (const { event, data } of events_of(path, controller.signal)) {
        if (event !== "message") continue;
        fresh.unshift({ ...data, key: ++count });
        if (fresh.length > tail_messages) fresh.pop();
      }
      if (running.current === controller) stop();
    } catch (error) {
      if (error.name === "AbortError") return;
      running.current = null;
      set_state({ text: error.message, is_bad: true });
    } finally {
      clearInterval(draw);
    }
  };
  return html`
    <section class="card" id="tail">
      <header>
        <h2>Live messages</h2>
      </header>
      <form class="inline" onSubmit=${start}>
        <label>Topic filter
          <input name="filter" required spellcheck="false" autocomplete="off" defaultValue="#" />
        </label>
        <button type="submit">${state.is_on ? "Stop" : "Listen"}</button>
      </form>
      <p role="status" class=${state.is_bad ? "bad" : "muted"}>${state.text}</p>
      <ol class="messages" tabindex="0" aria-label="Messages, newest first">
        ${rows}
      </ol>
    </section>
  `;
}
