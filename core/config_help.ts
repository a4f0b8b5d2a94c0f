/** The table of settings as text: for the help of the command, and for the README. Pure. */
import { commands, setting_names, type SettingName, settings } from "./config.ts";

const help_columns_max = 100;

/** What `help` prints: usage, commands, settings; ends with a newline. */
export function help_text(): string {
  const command_lines = commands.map(({ name, help }) => `  ${name.padEnd(8)}${help}`);
  const setting_lines = setting_names.flatMap((name) => {
    const { help } = settings[name];
    const indent = 30;
    const [first = "", ...more] = wrap(`${help} ${form_text(name)}`, help_columns_max - indent);
    return [`  --${name.padEnd(indent - 4)}${first}`, ...more.map((l) => " ".repeat(indent) + l)];
  });
  return [
    "Longwire: a push service for fleets of devices",
    "",
    "Usage: longwire [command] [--setting value ...]",
    "",
    "Commands:",
    ...command_lines,
    "",
    "Settings of serve:",
    ...setting_lines,
    "",
    "Each setting is a flag (--io_threads 2), a variable (LONGWIRE_IO_THREADS=2) or a member of",
    'the file ("io_threads": 2). The first of them that is there wins; an empty variable is not.',
    "",
  ].join("\n");
}

/** The same table for the README, as Markdown; ends with a newline. */
export function settings_markdown(): string {
  const rows = setting_names.map((name) => {
    const { fallback, help } = settings[name];
    const shown = fallback === "" ? "none" : `\`${fallback}\``;
    return `| \`${name}\` | ${shown} | ${form_of(name)} | ${help} |`;
  });
  return ["| setting | default | value | |", "|---|---|---|---|", ...rows, ""].join("\n");
}

function form_of(name: SettingName): string {
  const { type, unit } = settings[name];
  return unit === undefined ? type.form : `${type.form} ${unit}`;
}

function form_text(name: SettingName): string {
  const { fallback } = settings[name];
  return `(${form_of(name)}${fallback === "" ? "" : `; default ${fallback}`})`;
}

function wrap(text: string, columns_max: number): string[] {
  const lines: string[] = [];
  for (const word of text.split(" ")) {
    const line = lines.at(-1);
    if (line !== undefined && line.length + 1 + word.length <= columns_max) {
      lines[lines.length - 1] = `${line} ${word}`;
    } else {
      lines.push(word);
    }
  }
  return lines;
}
