/** The top of the console: how the service is now, how it was in the last minutes, its nodes. */
import { Chart, html } from "./console_charts.js";
import { short_bytes, short_number, short_time, total } from "./console_metrics.js";

function Tile({ id, label, value, note, is_bad }) {
  return html`
    <div class=${`card tile ${is_bad ? "bad" : ""}`} id=${id}>
      <span class="label">${label}</span>
      <span class="value">${value}</span>
      <span class="note">${note}</span>
    </div>
  `;
}

/** Names of longwire_degradation_step. */
const steps = ["normal", "throttling", "shedding", "detached"];

function per_second(value) {
  if (value === null) return "–";
  return `${short_number(value)}/s`;
}

/** closed, open, half_open; undefined = the service has none. */
function breaker_of(series) {
  const rows = series.get("longwire_breaker_state") ?? [];
  return rows.find(({ value }) => value === 1)?.labels.state;
}

export function Tiles({ history }) {
  const { series } = history;
  const last = (name) => history.last(name);
  const is_known = series.size > 0;
  const is_failing = total(series, "longwire_store_failing") > 0;
  const breaker = breaker_of(series);
  const head = total(series, "longwire_log_head_offset");
  const step = steps[total(series, "longwire_degradation_step")];
  const load = total(series, "longwire_load_percent");
  const lost = total(series, "longwire_descriptors_lost");
  const descriptors = total(series, "longwire_descriptors");
  return html`
    <div class="tiles">
      <${Tile} id="tile-connections" label="Connections" value=${short_number(
        last("connections"),
      )} note=${`${short_number(last("sessions"))} sessions`} />
      <${Tile} id="tile-published" label="Published" value=${per_second(last("published"))}
        note=${`${per_second(last("delivered"))} delivered`} />
      <${Tile} id="tile-latency" label="P99 to socket" value=${short_time(last("p99"))}
        note=${`P50 ${short_time(last("p50"))}`} />
      <${Tile} id="tile-dropped" label="Dropped" value=${per_second(last("dropped"))}
        is_bad=${last("dropped") > 0} note=${`${per_second(last("refused"))} refused`} />
      <${Tile} id="tile-queue" label="Waiting to be sent" value=${short_bytes(last("queue_bytes"))}
        note=${`${short_number(descriptors)} descriptors${lost > 0 ? `, ${lost} lost` : ""}`}
        is_bad=${lost > 0} />
      <${Tile} id="tile-store" label="Store" value=${!is_known
        ? "–"
        : is_failing
        ? "failing"
        : "well"}
        is_bad=${is_failing} note=${`at offset ${short_number(head)}`} />
      <${Tile} id="tile-load" label="Load" value=${is_known ? `${short_number(load)} %` : "–"}
        is_bad=${step !== "normal"} note=${step} />
      <${Tile} id="tile-breaker" label="Breaker" value=${is_known
        ? (breaker ?? "none").replace("_", " ")
        : "–"}
        is_bad=${breaker !== undefined && breaker !== "closed"}
        note=${breaker === undefined ? "no Prometheus" : "by Prometheus"} />
    </div>
  `;
}

export function Charts({ history, seconds, theme }) {
  const { times, columns } = history;
  const common = { times, seconds, theme };
  const line = (label, colour, name) => ({ label, colour, values: columns[name] });
  return html`
    <div class="charts">
      <${Chart} ...${common} id="chart-connections" title="Connections" format=${short_number}
        series=${[line("open", "--c1", "connections")]} />
      <${Chart} ...${common} id="chart-messages" title="Messages a second" format=${short_number}
        series=${[
          line("published", "--c1", "published"),
          line("delivered", "--c2", "delivered"),
        ]} />
      <${Chart} ...${common} id="chart-latency" title="Publish to socket" format=${short_time}
        series=${[line("P99", "--c3", "p99"), line("P50", "--c1", "p50")]} />
      <${Chart} ...${common} id="chart-losses" title="Drops and closes a second"
        format=${short_number} series=${[
          line("dropped", "--c4", "dropped"),
          line("refused", "--c3", "refused"),
          line("closed", "--c5", "closed"),
        ]} />
    </div>
  `;
}

/** What a node's load and steps come to. */
function node_state({ draining, degradation, breaker }) {
  if (draining) return ["warn", "draining"];
  if (breaker === "open") return ["bad", "breaker open"];
  if (degradation !== undefined && degradation !== "normal") return ["warn", degradation];
  return ["good", "serving"];
}

function Node({ node }) {
  const { node_id, zone, version, connections, sessions, load_percent, mqtt } = node;
  const [tone, state] = node_state(node);
  return html`
    <tr>
      <th scope="row">${node_id}</th>
      <td><span class=${`pill ${tone}`}>${state}</span></td>
      <td class="number">${load_percent ?? 0} %</td>
      <td class="number">${short_number(connections)}</td>
      <td class="number">${short_number(sessions)}</td>
      <td>${mqtt}</td>
      <td>${[zone, version].filter((text) => text).join(", ")}</td>
    </tr>
  `;
}

export function Nodes({ nodes, problem }) {
  const rows = nodes.map((node) => html`<${Node} key=${node.node_id} node=${node} />`);
  const table = html`
    <div class="scroll" tabindex="0" role="group" aria-label="Table of nodes">
      <table>
        <thead>
          <tr>
            <th scope="col">Node</th>
            <th scope="col">State</th>
            <th scope="col" class="number">Load</th>
            <th scope="col" class="number">Connections</th>
            <th scope="col" class="number">Sessions</th>
            <th scope="col">MQTT</th>
            <th scope="col">Where</th>
          </tr>
        </thead>
        <tbody>${rows}</tbody>
      </table>
    </div>
  `;
  const alone = html`<p class="muted">This node is alone: there is no cluster.</p>`;
  return html`
    <section class="card" id="nodes">
      <header><h2>Nodes</h2></header>
      ${problem ? html`<p class="bad">${problem}</p>` : nodes.length > 0 ? table : alone}
    </section>
  `;
}
