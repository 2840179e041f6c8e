// OpenAI's package for Node over REST. Usage: node rest.mjs BASE_URL KEY FILE; prints what it got as JSON.
import fs from "node:fs";
import OpenAI from "openai";

const [baseURL, apiKey, file] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const create = (options) =>
  client.audio.transcriptions.create({ model: "gpt-4o-transcribe", file: fs.createReadStream(file), ...options });

const json = await create({});
const verbose = await create({ response_format: "verbose_json", language: "en" });
const srt = await create({ response_format: "srt" });
let streamed = "";
for await (const event of await create({ stream: true })) {
  if (event.type === "transcript.text.delta") {
    streamed += event.delta;
  }
}
console.log(JSON.stringify({ json, verbose, srt, streamed }));
