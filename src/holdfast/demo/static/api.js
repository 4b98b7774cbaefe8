// The page's own requests. An error carries the status and the server's words; where no answer came it
// has no status.

export async function ask(path, { body, ...options } = {}) {
  const request = { cache: "no-store", ...options };
  if (body !== undefined) {
    request.method = "POST";
    request.headers = { "Content-Type": "application/json" };
    request.body = JSON.stringify(body);
  }
  const response = await fetch(path, request);
  if (response.status === 204) return null;
  const text = await response.text();
  const json = response.headers.get("content-type")?.includes("json") ? JSON.parse(text) : null;
  if (response.ok) return json;
  const words = json?.detail ?? json?.title ?? (text || response.statusText);
  throw Object.assign(new Error(words), { status: response.status, json });
}
