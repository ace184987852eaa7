// The comparison: a plain node:http server.
// /bytes/N answers N bytes of JSON made once; /stream opens an event stream and keeps it.
"use strict";
const http = require("node:http");

const bodies = new Map();

function body(size) {
  if (!bodies.has(size)) bodies.set(size, Buffer.from(JSON.stringify("x".repeat(Math.max(0, size - 2)))));
  return bodies.get(size);
}

const server = http.createServer((request, response) => {
  if (request.url === "/stream") {
    response.writeHead(200, { "Content-Type": "text/event-stream", "Cache-Control": "no-store" });
    response.write("retry: 1000\n\nevent: session.ready\ndata: {}\n\n");
    return;
  }
  const data = body(Number(request.url.slice("/bytes/".length)));
  response.writeHead(200, { "Content-Type": "application/json", "Content-Length": data.length });
  response.end(data);
});

server.listen(Number(process.argv[2]), "127.0.0.1");
