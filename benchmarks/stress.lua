-- Requests of benchmarks/stress.py for wrk: one image in a form; a line of JSON with what happened at the end.
local file = assert(io.open(os.getenv("STRESS_IMAGE"), "rb"))
local image = file:read("*all")
file:close()

wrk.method = "POST"
wrk.headers["Content-Type"] = "multipart/form-data; boundary=x"
wrk.body = '--x\r\nContent-Disposition: form-data; name="image"; filename="image.jpg"\r\n'
  .. "Content-Type: image/jpeg\r\n\r\n" .. image .. "\r\n--x--\r\n"

function done(summary, latency)
  local lost = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
  io.write(string.format(
    '{"answered": %d, "refused": %d, "lost": %d, "per_second": %.2f, "p50": %.3f, "p95": %.3f, "p99": %.3f}\n',
    summary.requests - summary.errors.status, summary.errors.status, lost, summary.requests / summary.duration * 1e6,
    latency:percentile(50) / 1e6, latency:percentile(95) / 1e6, latency:percentile(99) / 1e6))
end
