// The service, as the page sees it.

import { joinNames } from "./names.js";

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

/** Return {base, novel, names, thresholds, limits}: the names of the model and those that can be asked for. */
export const vocabulary = () => call("v1/vocabulary");

/** Detect objects with a score of at least `lowest` in one file; `names` null = the names of the model. */
export async function detect(file, names, lowest) {
  const form = new FormData();
  form.append("image", file);
  form.append("threshold", String(lowest));
  if (names) form.append("vocabulary", joinNames(names));
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
