/** A client of GET /v1/ws, as a browser is one. */
import type { Service } from "./service.ts";
import { Inbox, within } from "./wait.ts";

export type Fields = Record<string, unknown>;

/** A browser's end of a socket. */
export class JsonSocket implements AsyncDisposable {
  readonly inbox = new Inbox<Fields>("WebSocket");

  private constructor(readonly socket: WebSocket) {
    socket.onmessage = ({ data }) => this.inbox.push(JSON.parse(data));
    socket.onclose = () => this.inbox.end();
  }

  /** @param token shown in the query, as browsers do; "" = none */
  static async open(service: Service, token = ""): Promise<JsonSocket> {
    const query = token === "" ? "" : `?access_token=${token}`;
    const socket = new WebSocket(`${service.http.replace("http", "ws")}/v1/ws${query}`);
    const opened = new JsonSocket(socket);
    await within(new Promise((resolve) => socket.onopen = resolve), "an open WebSocket");
    return opened;
  }

  /** Sends one request; answers what comes next. */
  async ask(fields: Fields): Promise<Fields> {
    this.socket.send(JSON.stringify(fields));
    return (await this.inbox.next())!;
  }

  async next(): Promise<Fields | undefined> {
    return await this.inbox.next();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.socket.close();
    while (await this.inbox.next() !== undefined);
  }
}
