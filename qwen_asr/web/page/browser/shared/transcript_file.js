// The transcript as the server's `download` takes it, and the name of the file. Pure.

const REST_BYTES = 1000; // of the request

// The lines of a model as JSON. Text that may still change stands in the file too; what failed does not. Where the
// request with it would be larger than `maxBytes`, the words are left out: the times of the lines are then shared among
// their characters. Returns null where that is too much as well.
export function linesForFile(lines, maxBytes) {
  for (const withWords of [true, false]) {
    const json = JSON.stringify(lines.filter((line) => !line.failed).map((line) => ({
      start: line.start, end: line.end, text: line.settled + line.tentative, language: line.language,
      words: withWords ? line.words : [],
    })));
    if (bytesIn(JSON.stringify(json)) + REST_BYTES <= maxBytes) return json;
  }
  return null;
}

const bytesIn = (text) => new TextEncoder().encode(text).length;

// "transcript-2026-11-27-051822.srt", in the time of the user's clock.
export function fileName(date, ending) {
  const pad = (value) => String(value).padStart(2, "0");
  const day = [date.getFullYear(), pad(date.getMonth() + 1), pad(date.getDate())].join("-");
  return `transcript-${day}-${[date.getHours(), date.getMinutes(), date.getSeconds()].map(pad).join("")}.${ending}`;
}
