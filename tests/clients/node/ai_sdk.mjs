// The AI SDK of Vercel. Usage: node ai_sdk.mjs BASE_URL KEY FILE; prints its result as JSON.
import fs from "node:fs";
import { createOpenAI } from "@ai-sdk/openai";
import { experimental_transcribe as transcribe } from "ai";

const [baseURL, apiKey, file] = process.argv.slice(2);
const model = createOpenAI({ baseURL, apiKey }).transcription("whisper-1");
const { text, segments, language, durationInSeconds } = await transcribe({ model, audio: fs.readFileSync(file) });
console.log(JSON.stringify({ text, segments, language, durationInSeconds }));
