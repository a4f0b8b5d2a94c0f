/**
 * A real browser: the docs page runs its example, EventSource and WebSocket go on across a restart
 * of the service. Debian's Chromium; skipped, with its reason, where there is none.
 */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { browser_programs, fits_width, with_page } from "./support/browser.ts";
import { test_with } from "./support/process.ts";
import { Service } from "./support/service.ts";

test_with(browser_programs, "the docs page shows every call and runs one", async () => {
  await using service = await Service.start();
  await with_page(async (page) => {
    await page.goto(`${service.http}/`);
    await page.waitForSelector("html[data-ready=yes]");
    const sections = await page.locator("section").count();
    assert(sections >= 8, `${sections} calls`);
    await page.locator("#publish button").click();
    await page.waitForSelector("#publish pre .good");
    assertStringIncludes(await page.locator("#publish pre").innerText(), '"offset": 1');
    await page.setViewportSize({ width: 360, height: 740 });
    assert(await fits_width(page), "the page is wider than a phone");
  });
});

test_with(browser_programs, "EventSource and WebSocket miss nothing across a restart", async () => {
  const data = await Deno.makeTempDir();
  try {
    const first = await Service.start({ data });
    const port = new URL(first.http).port;
    await with_page(async (page) => {
      await page.goto(`${first.http}/docs/docs.css`);
      await page.evaluate(`
        window.sse = [];
        window.ws = [];
        const source = new EventSource("/v1/events?topic=live/%23");
        source.addEventListener("message", ({ data }) => sse.push(JSON.parse(data).payload));
        let after;
        const open = () => {
          const socket = new WebSocket("ws://" + location.host + "/v1/ws");
          const request = { type: "subscribe", id: 1, topics: ["live/#"], after };
          socket.onopen = () => socket.send(JSON.stringify(request));
          socket.onmessage = ({ data }) => {
            const said = JSON.parse(data);
            if (said.type === "subscribed") window.after = after ??= said.cursor;
            if (said.type !== "message") return;
            after = said.id;
            ws.push(said.payload);
          };
          socket.onclose = () => setTimeout(open, 100);
        };
        open();
        source.onopen = () => window.is_open = true;
      `);
      await page.waitForFunction("window.is_open && window.after");
      const both = (list: string) =>
        page.waitForFunction(`sse.join() === "${list}" && ws.join() === "${list}"`);
      await first.publish("live/1", "a");
      await both("a");
      assertEquals(await first.stop(), 0);
      await using second = await Service.start({ data, http: `127.0.0.1:${port}` });
      await second.publish("live/2", "b");
      await second.publish("live/3", "c");
      await both("a,b,c");
      // waitForFunction() needs eval in the page; while the service is away, nobody answers.
    }, { bypassCSP: true, expected: /Failed to load resource|WebSocket connection/ });
  } finally {
    await Deno.remove(data, { recursive: true });
  }
});
