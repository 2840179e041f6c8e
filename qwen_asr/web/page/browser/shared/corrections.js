// Which words of a text are not those that stood there before. Pure.

// A word with the white space before it; in scripts without spaces a character. The same as `split_units` in
// live/transcript.py, which decides what settles.
const UNSPACED = "\\u0e00-\\u0eff\\u1000-\\u109f\\u1780-\\u17ff\\u3000-\\u30ff\\u31f0-\\u31ff\\u3400-\\u4dbf\\u4e00-\\u9fff" +
  "\\uf900-\\ufaff\\uff01-\\uff9f\\u{20000}-\\u{323af}";
const UNIT = new RegExp(`\\s*(?:[${UNSPACED}]\\p{M}*|[^\\s${UNSPACED}]+)`, "gu");

// [[from, to, before], …]: `after.slice(from, to)` stands where `before` stood. `before` was only the beginning of the
// text: what follows it in `after` is new, and no correction. Where words are gone, the word beside them is named.
export function corrections(before, after) {
  const [old, units] = [split(before), split(after)];
  const found = [];
  const add = (oldFrom, oldTo, from, to) => {
    if (oldFrom === oldTo && from === to) return;
    if (from === to) { // words are gone
      if (to < units.length) [to, oldTo] = [to + 1, oldTo + 1];
      else if (from > 0) [from, oldFrom] = [from - 1, oldFrom - 1];
      else return;
    }
    const was = old.slice(oldFrom, oldTo).map(({ text }) => text).join("").trim();
    const last = found.at(-1);
    // The only word that is left of several: it is named once.
    if (last && last[1] > units[from].from) last[2] += old.slice(oldFrom + 1, oldTo).map(({ text }) => text).join("");
    else found.push([units[from].from, units[to - 1].to, was]);
  };
  let [oldEnd, end] = [0, 0]; // of the last words that are in both
  for (const [oldIndex, index] of common(old, units)) {
    add(oldEnd, oldIndex, end, index);
    [oldEnd, end] = [oldIndex + 1, index + 1];
  }
  add(oldEnd, old.length, end, Math.min(units.length, end + old.length - oldEnd));
  return found;
}

function split(text) {
  return [...text.matchAll(UNIT)].map(({ 0: unit, index }) => {
    const word = unit.trimStart();
    return { text: unit, word, from: index + unit.length - word.length, to: index + unit.length };
  });
}

// The longest common subsequence, as pairs of indices.
function common(old, units) {
  const rows = Array.from({ length: old.length + 1 }, () => new Uint16Array(units.length + 1));
  for (let a = old.length - 1; a >= 0; a--) {
    for (let b = units.length - 1; b >= 0; b--) {
      rows[a][b] = old[a].word === units[b].word ? rows[a + 1][b + 1] + 1 : Math.max(rows[a + 1][b], rows[a][b + 1]);
    }
  }
  const pairs = [];
  for (let a = 0, b = 0; a < old.length && b < units.length;) {
    if (old[a].word === units[b].word) pairs.push([a++, b++]);
    else if (rows[a + 1][b] >= rows[a][b + 1]) a++;
    else b++;
  }
  return pairs;
}
