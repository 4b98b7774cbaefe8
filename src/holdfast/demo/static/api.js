// The page's own requests. An error carries the status and the server's words; a network error has status 0.

export async function ask(path, { body, ...options } = {}) {
  const request = { cache: "no-store", ...options };
  if (body !== undefined) {
    request.method = "POST";
    request.headers = { "Content-Type": "application/json" };
    request.body = JSON.stringify(body);
  }
  const response = await fetch(path, request);
  if (response.status === 204) return null;
  if (!response.ok) throw Object.assign(new Error(await words(response)), { status: response.status });
  return response.json();
}

async function words(response) {
  const text = await response.text();
  if (!response.headers.get("content-type")?.includes("json")) return text || response.statusText;
  const problem = JSON.parse(text);
  return problem.detail ?? problem.title ?? response.statusText;
}
