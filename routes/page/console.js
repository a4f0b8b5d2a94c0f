/** The operations page: asks the public API every two seconds, and draws what it says. */
import { render } from "preact";
import { useEffect, useReducer, useRef, useState } from "preact/hooks";
import { ask, ask_json, set_token, token } from "./console_api.js";
import { html } from "./console_charts.js";
import { Devices } from "./console_devices.js";
import { Publish, Tail } from "./console_messages.js";
import { History, parse_metrics } from "./console_metrics.js";
import { Charts, Nodes, Tiles } from "./console_overview.js";

const poll_ms = 2000;
const windows = { 300: "5 min", 900: "15 min", 1800: "30 min" };
const themes = { "light dark": "System", light: "Light", dark: "Dark" };

/** Asks for everything that the overview shows; a part that is denied does not hide the others. */
async function load(history) {
  const said = { nodes: [], nodes_problem: "", problem: null, is_ready: true, ready: "ready" };
  const metrics = ask("metrics").then((response) => response.text()).then((text) => {
    history.add(parse_metrics(text), Date.now() / 1000);
  });
  const nodes = ask_json("v1/nodes").then((view) => said.nodes = view.nodes);
  const ready = ask_json("readyz");
  const results = await Promise.allSettled([metrics, nodes, ready]);
  if (results[0].status === "rejected") said.problem = results[0].reason;
  if (results[1].status === "rejected") said.nodes_problem = results[1].reason.message;
  if (results[2].status === "rejected") {
    said.is_ready = false;
    said.ready = results[2].reason.message;
  }
  return said;
}

function Token({ is_wanted, on_change }) {
  const [text, set_text] = useState(token());
  const use = (event) => {
    event.preventDefault();
    set_token(text.trim());
    on_change();
  };
  return html`
    <form class=${`inline token ${is_wanted ? "card wanted" : ""}`} id="token" onSubmit=${use}>
      <label>Token
        <input type="password" autocomplete="off" value=${text}
          placeholder="kept in this tab only" onInput=${(event) => set_text(event.target.value)} />
      </label>
      <button type="submit">Use</button>
    </form>
  `;
}

function Select({ label, value, choices, on_change }) {
  return html`
    <label class="select">
      <span class="hidden">${label}</span>
      <select value=${value} onChange=${(event) => on_change(event.target.value)}>
        ${Object.entries(choices).map(([key, text]) =>
          html`<option key=${key} value=${key}>${text}</option>`
        )}
      </select>
    </label>
  `;
}

function Top({ said, version, theme, set_theme, seconds, set_seconds }) {
  const state = said === null ? "asking" : said.problem?.status === 0 ? "no answer" : said.ready;
  const tone = said === null ? "" : said.is_ready ? "good" : "bad";
  return html`
    <header class="top">
      <h1>Longwire</h1>
      <span class=${`pill ${tone}`} id="state" role="status">${state}</span>
      <span class="muted version">${version}</span>
      <nav aria-label="Sections">
        <a href="#overview">Overview</a><a href="#devices">Devices</a>
        <a href="#publish">Publish</a><a href="./">API</a>
      </nav>
      <span class="choices">
        <${Select} label="How far back" value=${seconds} choices=${windows}
          on_change=${(value) => set_seconds(Number(value))} />
        <${Select} label="Colours" value=${theme} choices=${themes} on_change=${set_theme} />
      </span>
    </header>
  `;
}

/** What the page remembers in this tab besides the token. */
function use_theme() {
  const [theme, set] = useState(sessionStorage.getItem("longwire.theme") ?? "light dark");
  const [system, set_system] = useState("");
  useEffect(() => {
    const query = matchMedia("(prefers-color-scheme: dark)");
    const note = () => set_system(query.matches ? "dark" : "light");
    note();
    query.addEventListener("change", note);
    return () => query.removeEventListener("change", note);
  }, []);
  document.documentElement.style.colorScheme = theme;
  const choose = (value) => {
    sessionStorage.setItem("longwire.theme", value);
    set(value);
  };
  return [theme, choose, `${theme} ${system}`];
}

function App() {
  const history = useRef(new History());
  const [said, set_said] = useState(null);
  const [tick, next_tick] = useReducer((count) => count + 1, 0);
  const [seconds, set_seconds] = useState(300);
  const [theme, set_theme, colours] = use_theme();
  useEffect(() => {
    let timer = 0;
    let is_over = false;
    const poll = async () => {
      if (!document.hidden) {
        const answer = await load(history.current);
        if (is_over) return;
        set_said(answer);
        document.documentElement.dataset.ready = "yes";
      }
      timer = setTimeout(poll, poll_ms);
    };
    poll();
    return () => {
      is_over = true;
      clearTimeout(timer);
    };
  }, [tick]);
  const { series } = history.current;
  const version = series.get("longwire_info")?.[0]?.labels.version ?? "";
  const problem = said?.problem;
  const is_denied = problem?.is_denied === true;
  const top = { said, version, theme, set_theme, seconds, set_seconds };
  return html`
    <${Top} ...${top} />
    <main>
      ${(is_denied || token() !== "") && html`
        <${Token} is_wanted=${is_denied} on_change=${next_tick} />
      `}
      ${problem && html`<p class="card bad" role="alert">${problem.message}</p>`}
      <section id="overview" aria-label="Overview">
        <${Tiles} history=${history.current} />
        <${Charts} history=${history.current} seconds=${seconds} theme=${colours} />
      </section>
      <${Nodes} nodes=${said?.nodes ?? []} problem=${said?.nodes_problem} />
      <${Devices} tick=${tick} />
      <div class="two"><${Publish} /><${Tail} /></div>
    </main>
  `;
}

render(html`<${App} />`, document.body);
