/** A device that is let in by its certificate alone is the one that it names, and no other. */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { make_certificate } from "./support/certificates.ts";
import { MqttJs } from "./support/mqtt_js.ts";
import { test_with } from "./support/process.ts";
import { TlsSite } from "./support/tls_site.ts";
import { all_claims, key_set, make_token, secret_key } from "./support/tokens.ts";

test_with(["openssl"], "a certificate says which device it is, where it may", async () => {
  await using site = await TlsSite.make();
  const { directory, ca } = site;
  const key = secret_key("k");
  await Deno.writeTextFile(`${directory}/keys.json`, key_set(key));
  await using service = await site.start([
    ...["--tls_client_ca", ca.cert, "--tls_client_auth", "optional"],
    ...["--keys", `${directory}/keys.json`, "--certificate_devices", "common_name"],
  ]);
  const pair = await make_certificate(directory, "device-1", { issuer: ca });
  const shown = {
    cert: Deno.readTextFileSync(pair.cert),
    key: Deno.readTextFileSync(pair.key),
  };
  const options = { protocol: "mqtts", ca: site.ca_pem, protocolVersion: 5 } as const;
  const own = { ...options, ...shown, clientId: "device-1" };
  const device = await MqttJs.connect(service.mqtts, own);
  assertEquals(await device.subscribe("devices/device-1/#", 1), 1);
  for (const filter of ["devices/+/#", "devices/device-2/#", "#"]) {
    assertEquals(await device.subscribe(filter, 1).catch(() => 0x87), 0x87, filter);
  }
  await device.publish("devices/device-1/up", "x", 1);
  assertEquals((await device.messages.next())?.payload, "x");
  await assertRejects(() => device.publish("devices/device-2/up", "x", 1));
  await device.end();

  // Another's name, no name, and a token of another device beside the certificate
  const other = { ...own, clientId: "device-2" };
  await assertRejects(() => MqttJs.connect(service.mqtts, other));
  await assertRejects(() => MqttJs.connect(service.mqtts, { ...options, clientId: "device-1" }));
  const token = await make_token(key, { ...all_claims, device_id: "device-2" });
  const both = { ...own, username: "x", password: token };
  await assertRejects(() => MqttJs.connect(service.mqtts, both));
  const wide = await make_token(key, all_claims);
  const allowed = await MqttJs.connect(service.mqtts, { ...both, password: wide });
  assertEquals(await allowed.subscribe("#", 1), 1); // what the token allows, as its own device
  await assertRejects(() => MqttJs.connect(service.mqtts, { ...other, password: wide }));
  await allowed.end();
  assert(service.log.every((line) => !line.includes(wide)));
});
