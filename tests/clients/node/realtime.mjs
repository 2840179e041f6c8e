// OpenAI's package for Node on the realtime API. Usage: node realtime.mjs BASE_URL KEY FILE (intent|model), where FILE
// holds 16-bit mono at 24 kHz. Prints the first transcript.
import fs from "node:fs";
import OpenAI from "openai";
import { OpenAIRealtimeWS } from "openai/realtime/ws";

const [baseURL, apiKey, file, how] = process.argv.slice(2);
const kind = how === "intent" ? { intent: "transcription" } : { model: "gpt-realtime" };
const connection = new OpenAIRealtimeWS(kind, new OpenAI({ baseURL, apiKey }));
connection.on("error", (error) => {
  console.error(error);
  process.exit(1);
});
connection.on("conversation.item.input_audio_transcription.completed", (event) => {
  console.log(event.transcript);
  connection.close();
});
connection.socket.on("open", () => {
  const session = {
    type: "transcription",
    audio: {
      input: {
        format: { type: "audio/pcm", rate: 24000 },
        transcription: { model: "gpt-4o-transcribe", language: "en" },
        turn_detection: { type: "server_vad", silence_duration_ms: 500 },
      },
    },
  };
  connection.send({ type: "session.update", session });
  const samples = fs.readFileSync(file);
  for (let begin = 0; begin < samples.length; begin += 4800) {
    const audio = samples.subarray(begin, begin + 4800).toString("base64");
    connection.send({ type: "input_audio_buffer.append", audio });
  }
});
