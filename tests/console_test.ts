/** The operations page at /console, in a real browser, against the service that serves it. */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import type { Page } from "playwright-core";
import { History, parse_metrics, quantile } from "../routes/page/console_metrics.js";
import { browser_programs, fits_width, with_page } from "./support/browser.ts";
import { KeyedService } from "./support/keyed_service.ts";
import { MqttClient } from "./support/mqtt_client.ts";
import { test_with } from "./support/process.ts";
import { eventually, Service } from "./support/service.ts";
import { key_pair } from "./support/tokens.ts";

async function open_console(page: Page, service: Service): Promise<void> {
  await page.goto(`${service.http}/console`);
  await page.waitForSelector("html[data-ready=yes]");
}

/** The number that a tile shows. */
async function tile(page: Page, id: string): Promise<number> {
  return parseFloat(await page.locator(`#tile-${id} .value`).innerText());
}

async function points(page: Page): Promise<number> {
  return Number(await page.locator("#chart-messages").getAttribute("data-points"));
}

/** What a chart's canvas shows, as one text: another one = it has moved. */
async function picture(page: Page, id: string): Promise<string> {
  return await page.evaluate(`document.querySelector("#${id} canvas").toDataURL()`);
}

test_with(browser_programs, "console: charts move, a device is found, publish works", async () => {
  await using service = await Service.start();
  const { client } = await MqttClient.connect(service.mqtt, { client_id: "sensor/1" });
  await using device = client;
  await device.subscribe("demo/+", 1);
  await with_page(async (page) => {
    await open_console(page, service);
    const before = await picture(page, "chart-messages");
    await eventually("the chart moves", async () => {
      await service.publish("demo/a", "x", "qos=0");
      return await points(page) >= 2 && await tile(page, "published") > 0 &&
        await tile(page, "connections") === 1;
    });
    assert(before !== await picture(page, "chart-messages"), "the canvas is the same");
    const latency = await page.locator("#chart-latency .plot").getAttribute("aria-label");
    assert(/P99 [\d.]+ (µs|ms|s), P50 [\d.]+ /.test(latency!), latency!);

    // With the keyboard alone: search, list, row.
    await page.locator("#device-search").focus();
    await page.keyboard.type("sensor");
    await page.waitForSelector("#devices .row");
    await page.keyboard.press("Tab");
    assertEquals(await page.evaluate("document.activeElement.id"), "device-list");
    await page.keyboard.press("Tab");
    const row = await page.evaluate("document.activeElement.className");
    if (row !== "row") await page.keyboard.press("Tab"); // a list that scrolls takes the focus, too
    await page.keyboard.press("Enter");
    await page.waitForSelector("#timeline li");
    const timeline = await page.locator("#timeline").innerText();
    assert(/subscribed\s+demo\/\+ · QoS 1\s[^]*connected/.test(timeline), timeline);

    await page.fill("#tail input", "demo/#");
    await page.click("#tail button");
    await page.waitForSelector("#tail button:has-text('Stop')");
    await page.fill("#publish [name=topic]", "demo/b");
    await page.fill("#publish [name=payload]", "<b>from the console</b>");
    await page.click("#publish [type=submit]");
    await page.waitForSelector("#publish .good");
    assertStringIncludes(await page.locator("#publish .good").innerText(), "Stored as 1");
    await page.waitForSelector("#tail li:has-text('<b>from the console</b>')");
    assertEquals(await page.locator("#tail li b").count(), 0);
    await eventually("the device gets it", async () => {
      const packet = await device.next();
      return packet?.type === "publish" && packet.qos === 1;
    });

    await page.click("#device button:has-text('Disconnect')");
    await page.click("#device button:has-text('Close it now')");
    await page.waitForSelector("#timeline li:has-text('disconnected')");
    assertStringIncludes(await page.locator("#timeline").innerText(), "kicked");
    assert(await fits_width(page));
  }, { expected: /status of 404/ }); // its session has gone with it
});

test_with(browser_programs, "console: a phone, in the dark, has all of it", async () => {
  await using service = await Service.start();
  const viewport = { width: 360, height: 740 };
  await with_page(async (page) => {
    await open_console(page, service);
    assert(await fits_width(page), "it must be scrolled sideways");
    for (const part of ["overview", "nodes", "devices", "publish", "tail"]) {
      assert(await page.locator(`#${part}`).isVisible(), part);
    }
    const luminance = async () => {
      const colour = await page.evaluate("getComputedStyle(document.body).backgroundColor");
      return Math.max(...String(colour).match(/\d+/g)!.map(Number));
    };
    assert(await luminance() < 64, "the system is dark, the page is not");
    const dark = await picture(page, "chart-connections");
    await page.selectOption(".choices label:last-child select", "light");
    await eventually("it is light", async () => await luminance() > 200);
    await eventually("charts, too", async () => await picture(page, "chart-connections") !== dark);
  }, { viewport, colorScheme: "dark" });
});

test_with(browser_programs, "console: a token is asked for, and kept in its tab only", async () => {
  const pair = await key_pair("k", "ES256");
  await using keyed = await KeyedService.start([], [pair]);
  const operator = { admin: ["operate", "devices"], publish: ["#"], subscribe: ["#"] };
  const token = await keyed.token(operator);
  await with_page(async (page) => {
    await open_console(page, keyed.service);
    await page.fill("#token input", token);
    await page.click("#token button");
    await page.waitForSelector("#tile-store .value:has-text('well')");
    await page.waitForSelector("#token:not(.wanted)");
    assertEquals(await page.evaluate("[localStorage.length, document.cookie]"), [0, ""]);
    assertEquals(await page.evaluate("sessionStorage.getItem('longwire.token')"), token);
    await page.reload();
    await page.waitForSelector("#tile-store .value:has-text('well')");
  }, { expected: /status of 401/ });
});

Deno.test("console: rates and quantiles come from two scrapes", () => {
  const text = (count: number, sum: number) =>
    parse_metrics(`# TYPE x histogram
longwire_messages_published_total{qos="0"} ${sum}
longwire_messages_published_total{qos="1"} 1
longwire_publish_to_socket_seconds_bucket{le="0.001"} ${count}
longwire_publish_to_socket_seconds_bucket{le="0.002"} ${count * 2}
longwire_publish_to_socket_seconds_bucket{le="+Inf"} ${count * 2}
`);
  const history = new History();
  history.add(text(10, 100), 1);
  assertEquals([history.last("published"), history.last("p50")], [0, null]);
  history.add(text(20, 150), 3);
  assertEquals([history.last("published"), history.last("p50")], [25, 0.001]);
  assertEquals(history.last("p99"), 0.00198);
  history.add(text(0, 5), 5); // the service has begun again
  assertEquals([history.last("published"), history.last("p50")], [0, null]);
  assertEquals(quantile(new Map(), new Map(), 0.5), null);
  const [row] = parse_metrics('a{x="1,\\"}",y="2"} 3').get("a");
  assertEquals(row, { labels: { x: '1,\\"}', y: "2" }, value: 3 });
});
