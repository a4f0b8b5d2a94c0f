/** Makes the docs page of openapi.json: a form for each call that runs it. No library, no build. */

const output_chars_max = 200_000;

/** An element with attributes, listeners (functions) and children. */
function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(key, value);
    else if (value !== undefined && value !== false) element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

function input_for({ name, schema, example, required, description }) {
  const choices = schema.enum ?? (schema.type === "boolean" ? ["true", "false"] : undefined);
  const attributes = { name, required };
  const field = choices === undefined
    ? make("input", { ...attributes, value: required ? example : undefined, placeholder: example })
    : make(
      "select",
      attributes,
      make("option", { value: "" }, "(default)"),
      ...choices.map((choice) => make("option", { value: choice }, String(choice))),
    );
  return make("label", {}, `${name}: `, make("span", { class: "muted" }, description), field);
}

/** Path, query, headers and body that the form says. */
function request_of(call, form) {
  const values = new FormData(form);
  let path = call.path;
  const query = new URLSearchParams();
  const headers = {};
  for (const parameter of call.operation.parameters) {
    const value = values.get(parameter.name);
    if (parameter.in === "path") {
      path = path.replace(`{${parameter.name}}`, encodeURIComponent(value));
    } else if (value !== "" && parameter.in === "query") query.append(parameter.name, value);
    else if (value !== "") headers[parameter.name] = value;
  }
  const token = document.querySelector("#token").value;
  if (token !== "") headers.authorization = `Bearer ${token}`;
  const body = values.get("body");
  const type = values.get("content-type");
  if (body !== null && type !== "*/*") headers["content-type"] = type;
  else if (body !== null) headers["content-type"] = "text/plain";
  const search = query.size > 0 ? `?${query}` : "";
  // Relative, so that the page works behind a proxy that adds a prefix.
  return { url: new URL(`.${path}${search}`, document.baseURI), headers, body };
}

function quoted(text) {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

function curl_of(call, { url, headers, body }) {
  const words = ["curl", quoted(url.href)];
  if (call.method !== "get" && body === null) words.push("-X", call.method.toUpperCase());
  for (const [name, value] of Object.entries(headers)) {
    const shown = name === "authorization" ? "Bearer $TOKEN" : value;
    words.push(
      "-H",
      name === "authorization" ? `"${name}: ${shown}"` : quoted(`${name}: ${shown}`),
    );
  }
  if (body !== null) words.push("-d", quoted(body));
  return words.join(" ");
}

function pretty(text, type) {
  if (!/json(;|$)/.test(type) || /ndjson/.test(type)) return text;
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

/** Sends what the form says and shows the answer as it comes. */
async function run(call, form, output, signal) {
  const request = request_of(call, form);
  const status = make("strong", {}, "...");
  const text = document.createTextNode("");
  output.replaceChildren(`${curl_of(call, request)}\n\n`, status, "\n", text);
  output.hidden = false;
  try {
    const { url, headers, body } = request;
    const method = call.method.toUpperCase();
    const response = await fetch(url, { method, headers, body: body ?? undefined, signal });
    const type = response.headers.get("content-type") ?? "";
    status.textContent = `${response.status} ${response.statusText}`;
    status.className = response.ok ? "good" : "bad";
    const decoder = new TextDecoder();
    let all = "";
    for (const reader = response.body.getReader();;) {
      const { done, value } = await reader.read();
      if (done) break;
      all = (all + decoder.decode(value, { stream: true })).slice(-output_chars_max);
      text.data = all;
    }
    text.data = pretty(all, type);
  } catch (error) {
    if (error.name !== "AbortError") {
      status.textContent = String(error);
      status.className = "bad";
    }
  }
}

function form_of(call) {
  const { operation } = call;
  const output = make("pre", { hidden: "", role: "status" });
  const go = make("button", { type: "submit" }, "Run");
  let running = null;
  const submit = async (event) => {
    event.preventDefault();
    if (running !== null) return running.abort();
    running = new AbortController();
    go.textContent = "Stop";
    await run(call, form, output, running.signal);
    running = null;
    go.textContent = "Run";
  };
  const form = make("form", { submit }, ...operation.parameters.map(input_for));
  const media = Object.entries(operation.requestBody?.content ?? {});
  if (media.length > 0) {
    const { example = "" } = media[0][1];
    const body = make("textarea", { name: "body", spellcheck: "false", "aria-label": "body" });
    body.value = typeof example === "string" ? example : JSON.stringify(example, null, 2);
    const types = media.map(([type]) => make("option", { value: type }, type));
    const type = make("select", { name: "content-type", "aria-label": "content type" }, ...types);
    form.append(make("label", {}, "Body", type), body);
  }
  form.append(go);
  return make("div", {}, form, output);
}

function section_of(call) {
  const { method, path, operation } = call;
  const section = make("section", { id: operation.operationId });
  const answers = Object.entries(operation.responses).map(([status, { description }]) =>
    make("li", {}, make("code", {}, status), ` ${description}`)
  );
  section.append(
    make(
      "h3",
      {},
      make("span", { class: "method" }, method.toUpperCase()),
      " ",
      make("span", { class: "path" }, path),
    ),
    make("p", {}, operation.summary),
  );
  if (operation.description) {
    section.append(make("p", { class: "muted" }, operation.description));
  }
  // A WebSocket cannot be opened by a form.
  if (operation.responses["101"] === undefined) section.append(form_of(call));
  section.append(make("details", {}, make("summary", {}, "Answers"), make("ul", {}, ...answers)));
  return section;
}

async function start() {
  const about = document.querySelector("#about");
  const response = await fetch("openapi.json");
  const api = await response.json();
  about.textContent = `${api.info.version}. ${api.info.description}`;
  const groups = new Map();
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const [tag] = operation.tags;
      if (!groups.has(tag)) groups.set(tag, []);
      groups.get(tag).push({ method, path, operation });
    }
  }
  for (const [tag, calls] of groups) {
    const links = calls.map(({ operation }) =>
      make("li", {}, make("a", { href: `#${operation.operationId}` }, operation.summary))
    );
    document.querySelector("#contents").append(make("strong", {}, tag), make("ul", {}, ...links));
    document.querySelector("#calls").append(make("h2", {}, tag), ...calls.map(section_of));
  }
  document.documentElement.dataset.ready = "yes";
}

start().catch((error) => document.querySelector("#about").textContent = String(error));
