// The transcript as the server's `download` takes it, and the name of the file. Pure.

// The lines of a model as JSON. Text that may still change stands in the file too; what failed does not.
export function linesForFile(lines) {
  return JSON.stringify(lines.filter((line) => !line.failed).map((line) => ({
    start: line.start, end: line.end, text: line.settled + line.tentative, language: line.language, words: line.words,
  })));
}

// "transcript-2026-11-27-051822.srt", in the time of the user's clock.
export function fileName(date, ending) {
  const pad = (value) => String(value).padStart(2, "0");
  const day = [date.getFullYear(), pad(date.getMonth() + 1), pad(date.getDate())].join("-");
  return `transcript-${day}-${[date.getHours(), date.getMinutes(), date.getSeconds()].map(pad).join("")}.${ending}`;
}
