/** One chart: its heading with the values under the pointer, and uPlot's canvas below. */
import { h } from "preact";
import { useEffect, useRef } from "preact/hooks";
import htm from "htm";
import uPlot from "uplot";

export const html = htm.bind(h);

const height_px = 168;
const seconds_min = 60;

/** A colour of console.css as the canvas needs it. */
function colour_of(name) {
  const probe = document.createElement("i");
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const { color } = getComputedStyle(probe);
  probe.remove();
  return color;
}

function clock(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString([], { hour12: false });
}

function options_of({ series, format }, width, on_index) {
  const line = colour_of("--line");
  const muted = colour_of("--muted");
  const axis = { stroke: muted, grid: { stroke: line, width: 1 }, ticks: { show: false } };
  const font = "11px system-ui, sans-serif";
  return {
    width,
    height: height_px,
    legend: { show: false },
    cursor: { sync: { key: "longwire" }, drag: { x: false, y: false }, y: false },
    padding: [8, 4, 0, 0],
    scales: { y: { range: (_, __, max) => [0, max > 0 ? max * 1.1 : 1] } },
    axes: [
      {
        ...axis,
        font,
        size: 28,
        space: 70,
        values: (_, splits) => {
          const characters = splits[1] - splits[0] < 60 ? 8 : 5;
          return splits.map((at) => clock(at).slice(0, characters));
        },
      },
      { ...axis, font, size: 58, space: 34, values: (_, splits) => splits.map(format) },
    ],
    series: [
      {},
      ...series.map(({ label, colour }) => ({
        label,
        stroke: colour_of(colour),
        fill: colour_of(colour).replace("rgb(", "rgba(").replace(")", ", 0.10)"),
        width: 2,
        points: { show: false },
      })),
    ],
    hooks: { setCursor: [(plot) => on_index(plot.cursor.idx)] },
  };
}

/**
 * @param series [{ label, colour, values }]
 * @param seconds how far back it shows
 * @param theme changes when colours do
 */
export function Chart({ id, title, series, times, seconds, format, theme }) {
  const place = useRef(null);
  const plot = useRef(null);
  const shown = useRef([]);
  const data = useRef({ series, times });
  data.current = { series, times };
  const show_values = (index) => {
    const { series, times } = data.current;
    const at = index === null || index === undefined ? times.length - 1 : index;
    shown.current.forEach((element, n) => {
      if (element !== null) element.textContent = format(series[n]?.values[at] ?? null);
    });
  };
  useEffect(() => {
    const options = options_of({ series, format }, place.current.clientWidth, show_values);
    const made = new uPlot(options, [[], ...series.map(() => [])], place.current);
    plot.current = made;
    const sizes = new ResizeObserver(([{ contentRect }]) => {
      made.setSize({ width: contentRect.width, height: height_px });
    });
    sizes.observe(place.current);
    return () => {
      sizes.disconnect();
      made.destroy();
    };
  }, [theme]);
  useEffect(() => {
    const now = times.at(-1) ?? Date.now() / 1000;
    plot.current.batch(() => {
      plot.current.setData([times, ...series.map(({ values }) => values)], false);
      // At first it is narrower, so that what there is can be seen.
      const begin = Math.min(times[0] ?? now, now - seconds_min);
      plot.current.setScale("x", { min: Math.max(begin, now - seconds), max: now });
    });
    show_values(plot.current.cursor.idx);
  }, [times.length, times.at(-1), seconds, theme]);
  const spoken = series.map(({ label, values }) => `${label} ${format(values.at(-1) ?? null)}`);
  return html`
    <section class="card chart" id=${id} data-points=${times.length}>
      <header>
        <h3>${title}</h3>
        <ul class="legend">
          ${series.map(({ label, colour }, n) =>
            html`
              <li key=${label}>
                <i class="swatch" style=${{ background: `var(${colour})` }}></i>${label}
                <b ref=${(element) => shown.current[n] = element}></b>
              </li>
            `
          )}
        </ul>
      </header>
      <div class="plot" ref=${place} role="img" aria-label=${`${title}: ${
        spoken.join(", ")
      }`}></div>
    </section>
  `;
}
