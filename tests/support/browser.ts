/** A page in Debian's Chromium, for tests of what people see. */
import { assertEquals } from "@std/assert";
import { type Browser, type BrowserContextOptions, chromium, type Page } from "playwright-core";
import { patience_ms } from "./wait.ts";

const path = "/usr/bin/chromium";

/** What a test needs of the machine. */
export const browser_programs = ["chromium"];

export interface PageOptions extends BrowserContextOptions {
  /** Errors in the console that are meant: those that match. */
  readonly expected?: RegExp;
}

/** Runs a test with a page of its own; nothing that goes wrong in the page goes unseen. */
export async function with_page(
  run: (page: Page) => Promise<void>,
  { expected, ...options }: PageOptions = {},
): Promise<void> {
  const args = ["--no-sandbox", "--disable-dev-shm-usage"];
  const browser: Browser = await chromium.launch({ executablePath: path, args });
  try {
    const page = await browser.newPage(options);
    page.setDefaultTimeout(patience_ms);
    const errors: string[] = [];
    page.on("pageerror", (error) => errors.push(String(error)));
    page.on("console", (message) => {
      if (message.type() === "error" && !expected?.test(message.text())) {
        errors.push(message.text());
      }
    });
    await run(page);
    assertEquals(errors, []);
  } finally {
    await browser.close();
  }
}

/** Whether nothing has to be scrolled sideways. */
export async function fits_width(page: Page): Promise<boolean> {
  return await page.evaluate("document.documentElement.scrollWidth <= innerWidth");
}
