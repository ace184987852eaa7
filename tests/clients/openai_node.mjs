// Drives OpenAI's Node client: one scenario a run, its results as lines of JSON on standard output.
//
//     OPENAI_BASE_URL=... OPENAI_API_KEY=... node openai_node.mjs SCENARIO '{"its": "arguments"}'
//
// A scenario that stands at a gate goes on when a line comes on standard input.

import { createHash } from "node:crypto";
import fs from "node:fs";
import readline from "node:readline";
import OpenAI from "openai";

const [scenario, given] = [process.argv[2], JSON.parse(process.argv[3])];
const client = new OpenAI({ maxRetries: given.retries ?? 0, timeout: given.timeout ?? 30_000 });
const chat = { model: given.model, messages: [{ role: "user", content: given.prompt }] };
const tell = (value) => process.stdout.write(JSON.stringify(value) + "\n");
const sha256 = (data) => createHash("sha256").update(data).digest("hex");

async function toldToGoOn() {
  const lines = readline.createInterface({ input: process.stdin });
  await new Promise((resolve) => lines.once("line", resolve));
  lines.close();
}

async function collect(iterable) {
  const items = [];
  for await (const item of iterable) items.push(item);
  return items;
}

const scenarios = {
  async models() {
    tell((await collect(client.models.list())).map((model) => model.id));
    tell((await client.models.retrieve(given.model)).owned_by);
  },

  async chat() {
    tell((await client.chat.completions.create(chat)).choices[0].message.content);
  },

  async chatStream() {
    const pieces = [];
    for await (const chunk of await client.chat.completions.create({ ...chat, stream: true })) {
      if (pieces.length === 0) {
        tell("first");
        await toldToGoOn();
      }
      pieces.push(chunk.choices[0].delta.content ?? "");
    }
    tell(pieces.filter((piece) => piece));
  },

  async response() {
    tell((await client.responses.create({ model: given.model, input: given.prompt })).output_text);
  },

  async responseStream() {
    const stream = client.responses.stream({ model: given.model, input: given.prompt });
    const said = [];
    for await (const event of stream) {
      if (event.type === "response.created") {
        tell(event.type);
        await toldToGoOn();
      }
      if (event.type === "response.output_text.delta") said.push(event.delta);
    }
    tell(said);
    tell((await stream.finalResponse()).output_text);
  },

  async embeddings() {
    for (const more of [{}, { encoding_format: "float" }]) {
      const answer = await client.embeddings.create({ model: given.model, input: given.texts, ...more });
      tell(answer.data.map((item) => item.embedding));
    }
  },

  async upload() {
    const content = fs.readFileSync(given.path);
    for (const file of [new File([content], "Grüße.bin"), fs.createReadStream(given.path)]) {
      const made = await client.files.create({ file, purpose: "assistants" });
      const back = Buffer.from(await (await client.files.content(made.id)).arrayBuffer());
      tell({ id: made.id, bytes: made.bytes, sha256: sha256(back) });
    }
  },

  async pages() {
    const ids = [];
    for (let number = 0; number < 7; number++) {
      ids.push((await client.files.create({ file: new File(["{}"], "a.jsonl"), purpose: "batch" })).id);
    }
    tell(ids);
    tell((await collect(client.files.list({ limit: 3, order: "asc" }))).map((file) => file.id));
    tell((await client.files.delete(ids[0])).deleted);
    await scenarios.failing(() => client.files.retrieve(ids[0]));
  },

  async headers() {
    const options = { headers: { "X-Mine": "kept" }, query: { q: "a b&c" } };
    const { response, request_id } = await client.models.list(options).withResponse();
    tell({ request_id, remaining: response.headers.get("x-ratelimit-remaining-requests") });
  },

  async failing(ask = () => client.chat.completions.create({ ...chat, stream: given.stream ?? false })) {
    try {
      await ask();
      tell("no error");
    } catch (error) {
      const { status, code, message, requestID } = error;
      const is_its_own = error instanceof OpenAI.APIError;
      tell({ kind: error.constructor.name, is_its_own, status, code, message, requestID });
    }
  },

  async cutStream() {
    await scenarios.failing(async () => collect(await client.chat.completions.create({ ...chat, stream: true })));
  },

  async abort() {
    const stream = await client.chat.completions.create({ ...chat, stream: true });
    for await (const chunk of stream) {
      tell(chunk.choices[0].delta.content);
      await toldToGoOn();
      stream.controller.abort();
    }
  },

  async many() {
    const ask = async (number) => {
      const asked = { ...chat, messages: [{ role: "user", content: `number ${number}` }] };
      if (number % 2) return (await client.chat.completions.create(asked)).choices[0].message.content;
      const chunks = await collect(await client.chat.completions.create({ ...asked, stream: true }));
      return chunks.map((chunk) => chunk.choices[0].delta.content ?? "").join("");
    };
    tell(await Promise.all(Array.from({ length: given.count }, (_, number) => ask(number))));
  },
};

await scenarios[scenario]();
