// Which line and which word of a text are heard at a time, and how a line is split into its words. Pure.

// The index of the last of `spans` that starts at `time` or before, by `startOf`; -1 if there is none.
export function lastStarted(spans, time, startOf) {
  let [low, high] = [0, spans.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (startOf(spans[middle]) <= time) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

// {line, word}: the indices of what is heard at `time`, in seconds; -1 for none. A word counts until the next begins.
export function heardAt(lines, time) {
  const line = lastStarted(lines, time, ({ start }) => start);
  if (line < 0 || time >= lines[line].end) return { line: -1, word: -1 };
  return { line, word: lastStarted(lines[line].words, time, ([, start]) => start) };
}

// The text of a line in pieces, [text, index of the word or -1]. Joined they are the text. Without times of its words,
// or with words that do not stand in the text, it is one piece.
export function pieces({ text, words }) {
  const found = [];
  let position = 0;
  for (const [index, [word]] of words.entries()) {
    const start = text.indexOf(word, position);
    if (!word || start < 0) return [[text, -1]];
    if (start > position) found.push([text.slice(position, start), -1]);
    found.push([word, index]);
    position = start + word.length;
  }
  if (position < text.length) found.push([text.slice(position), -1]);
  return found;
}
