/**
 * Executed in a node before main.ts: writes down, in the file that LONGWIRE_TEST_HISTORY names,
 * what the node does with sessions, each with the time: milliseconds of a clock that only goes on,
 * the same for all processes of a host as long as nobody sets its wall clock.
 *
 *   grant ID        a connection is let in: CONNACK follows in the same turn
 *   end ID          that connection is gone
 *   write ID        the session's row is written
 *   fence           it owns nothing any more
 *   lease UNTIL     nobody takes its place before that
 */
import { EtcdDirectory } from "../../core/cluster/etcd.ts";
import { act_s } from "../../core/cluster/membership.ts";
import { Sessions } from "../../core/sessions.ts";
import { JetStreamStore } from "../../core/store/jetstream.ts";

const file = Deno.openSync(Deno.env.get("LONGWIRE_TEST_HISTORY")!, { append: true, create: true });
const encoder = new TextEncoder();

function now_ms(): number {
  return performance.timeOrigin + performance.now();
}

function note(what: string, at_ms = now_ms()): void {
  file.writeSync(encoder.encode(`${at_ms.toFixed(3)} ${what}\n`));
}

const { opened, closed, abandon } = Sessions.prototype;
Sessions.prototype.opened = function (session, ...rest) {
  note(`grant ${session.id}`);
  return opened.call(this, session, ...rest);
};
Sessions.prototype.closed = function (session, ...rest) {
  note(`end ${session.id}`);
  return closed.call(this, session, ...rest);
};
Sessions.prototype.abandon = function () {
  note("fence");
  return abandon.call(this);
};

const { put_session, put_cursor } = JetStreamStore.prototype;
JetStreamStore.prototype.put_session = function (session) {
  note(`write ${session.id}`);
  return put_session.call(this, session);
};
JetStreamStore.prototype.put_cursor = function (id, cursor) {
  note(`write ${id}`);
  return put_cursor.call(this, id, cursor);
};

const { grant } = EtcdDirectory.prototype;
EtcdDirectory.prototype.grant = async function (ttl_s) {
  const sent_ms = now_ms();
  const lease = await grant.call(this, ttl_s);
  note(`lease ${(sent_ms + act_s * 1000).toFixed(3)}`);
  const renew = async () => {
    const sent_ms = now_ms();
    const is_alive = await lease.renew();
    if (is_alive) note(`lease ${(sent_ms + act_s * 1000).toFixed(3)}`);
    return is_alive;
  };
  return { ...lease, renew };
};
