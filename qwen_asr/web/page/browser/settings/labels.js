// The words and values of Gradio's components, as updates that Gradio applies: its own way to change a component from a
// script. Pure.

import { t } from "../shared/text.js";

// One update for each of `fields`, which are
//   {texts: {label, info, placeholder, value}, choices: [[words, value]], setting, value}
// `texts` and `choices` are the English ones. `setting` names what the component's value is kept as, and `value` is its
// first value. `values` says which values come along: "all", "changed" for those that are not the first, or "none".
// The others are left alone: the user may be typing there, even before the page has loaded.
export function updates(fields, settings, values) {
  return fields.map(({ texts, choices, setting, value }) => {
    const update = { __type__: "update" };
    for (const [name, english] of Object.entries(texts)) update[name] = t(english);
    if (choices) update.choices = choices.map(([words, choice]) => [t(words), choice]);
    if (setting && values !== "none") {
      const kept = keptValue(settings.get(setting), choices, value);
      if (values === "all" || kept !== value) update.value = kept;
    }
    return update;
  });
}

// What was kept, unless it cannot be this component's: the storage may hold what another version has written.
function keptValue(kept, choices, otherwise) {
  if (kept === null) return otherwise;
  const fits = choices ? choices.some(([, choice]) => choice === kept) : typeof kept === typeof otherwise;
  return fits ? kept : otherwise;
}
