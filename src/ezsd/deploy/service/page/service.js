// The service, as the page sees it.

const LOWEST = 0.05; // the slider starts here, so that it needs no new request
let token = sessionStorage.getItem("ezsd-token") ?? "";

/** A refusal of the service; `status` is 0 when the service cannot be reached. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export function useToken(text) {
  token = text;
  sessionStorage.setItem("ezsd-token", text);
}

/** Return the names of the model and the limits: {base, novel, limits}. */
export const vocabulary = () => call("v1/vocabulary");

/** Return a name as a part of a text that is split at commas. */
const quoted = (name) => (/^"|,/.test(name) ? `"${name.replaceAll('"', '""')}"` : name);

/** Detect objects in one file; `names` null = the names of the model. */
export async function detect(file, names) {
  const form = new FormData();
  form.append("image", file);
  form.append("threshold", String(LOWEST));
  if (names) form.append("vocabulary", names.map(quoted).join(","));
  return (await call("v1/detect", { method: "POST", body: form })).images[0];
}

async function call(path, options = {}) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch {
    throw new Refused(0, "The service cannot be reached. Is it running?");
  }
  const content = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refused(response.status, content.detail ?? `The service answered ${response.status}.`);
  return content;
}
