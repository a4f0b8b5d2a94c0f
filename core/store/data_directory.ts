/**
 * The data directory: made, locked against a second process, and what is wrong with it in one
 * sentence.
 */

export const database_file = "longwire.db";
const lock_file = "longwire.lock";
const boot_id_file = "/proc/sys/kernel/random/boot_id";

/** Why a data directory cannot be used, in one sentence that names it. */
export class StoreOpenError extends Error {
  override readonly name = "StoreOpenError";
}

/**
 * Makes the directory where there is none and locks it until the answered file is closed or the
 * process ends, however it ends. Throws StoreOpenError.
 */
export function lock_data(data: string): Deno.FsFile {
  let file: Deno.FsFile | undefined;
  try {
    // Payloads and secrets of sessions are nobody else's to read.
    Deno.mkdirSync(data, { recursive: true, mode: 0o700 });
    const path = `${data}/${lock_file}`;
    file = Deno.openSync(path, { read: true, write: true, create: true });
    if (!file.tryLockSync(true)) {
      const owner = Deno.readTextFileSync(path).trim();
      throw new Error(`in use by process ${owner === "" ? "unknown" : owner}`);
    }
    file.truncateSync();
    file.writeSync(new TextEncoder().encode(`${Deno.pid}\n`));
    return file;
  } catch (error) {
    file?.close();
    throw open_error(data, error);
  }
}

/** The path of the database that a directory holds; throws StoreOpenError when there is none. */
export function database_in(data: string): string {
  const path = `${data}/${database_file}`;
  try {
    Deno.statSync(path);
    return path;
  } catch (error) {
    const absent = error instanceof Deno.errors.NotFound;
    throw open_error(data, absent ? new Error(`it has no ${database_file}`) : error);
  }
}

export function open_error(data: string, error: unknown): StoreOpenError {
  return error instanceof StoreOpenError
    ? error
    : new StoreOpenError(`Cannot open data ${data}: ${problem(error)}`);
}

/** What the system says, without the number and the call that only a programmer reads. */
export function problem(error: unknown): string {
  if (error instanceof Deno.errors.NotCapable) {
    return "Deno was not given --allow-read and --allow-write for it";
  }
  if (error instanceof Deno.errors.PermissionDenied) return "permission denied";
  if (error instanceof Deno.errors.AlreadyExists || error instanceof Deno.errors.NotADirectory) {
    return "not a directory";
  }
  const { code, message } = error as { code?: string; message?: string };
  if (code === "EROFS") return "read-only file system";
  if (code === "ENOSPC") return "no space left on the disk";
  return message ?? String(error);
}

/** Names this boot of the machine; "" where the system does not say or Deno may not ask. */
export function boot_id(): string {
  const may = Deno.permissions.querySync({ name: "read", path: boot_id_file });
  if (may.state !== "granted") return "";
  try {
    return Deno.readTextFileSync(boot_id_file).trim();
  } catch {
    return "";
  }
}
