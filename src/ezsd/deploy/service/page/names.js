// Names as text.

/** Return names in the form in which two that are the same are equal. */
export const key = (name) => name.replace(/\s+/g, " ").toLowerCase();

/** Return the names in a text with commas; a name with a comma is in double quotes, which are doubled in it. */
export function splitNames(text) {
  const parts = [...text.matchAll(/\s*(?:"((?:[^"]|"")*)"([^,]*)|([^,]*))(?:,|$)/g)];
  const names = parts.map(([, quoted, rest, plain]) => quoted === undefined ? plain : quoted.replaceAll('""', '"') + rest);
  return names.map((name) => name.trim()).filter(Boolean);
}

/** Return the text that the service reads as these names. */
export const joinNames = (names) =>
  names.map((name) => (/^"|,/.test(name) ? `"${name.replaceAll('"', '""')}"` : name)).join(",");
