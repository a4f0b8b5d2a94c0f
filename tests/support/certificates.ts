/** Certificates for tests and benchmarks, made by `openssl` in a directory of theirs. */

/** Files of a certificate and its key. */
export interface CertificateFiles {
  readonly cert: string;
  readonly key: string;
}

export interface CertificateOptions {
  /** Who signs; undefined = it signs itself, and may sign others. */
  readonly issuer?: CertificateFiles;
  /** As in subjectAltName: `DNS:localhost,IP:127.0.0.1`. */
  readonly names?: string;
}

async function openssl(args: readonly string[]): Promise<void> {
  const out = await new Deno.Command("openssl", { args: [...args], stdin: "null" }).output();
  if (out.success) return;
  throw new Error(`openssl ${args[0]}: ${new TextDecoder().decode(out.stderr).trim()}`);
}

/** Makes `directory/name.pem` and `.key` (P-256), valid for a week; answers their paths. */
export async function make_certificate(
  directory: string,
  name: string,
  { issuer, names }: CertificateOptions = {},
): Promise<CertificateFiles> {
  const files = { cert: `${directory}/${name}.pem`, key: `${directory}/${name}.key` };
  await openssl([
    ...["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"],
    ...["-keyout", files.key, "-out", files.cert, "-days", "7", "-subj", `/CN=${name}`],
    ...(names === undefined ? [] : ["-addext", `subjectAltName=${names}`]),
    ...(issuer === undefined ? [] : ["-CA", issuer.cert, "-CAkey", issuer.key]),
    // An end entity must not be taken for an authority.
    ...(issuer === undefined ? [] : ["-addext", "basicConstraints=critical,CA:FALSE"]),
  ]);
  return files;
}
