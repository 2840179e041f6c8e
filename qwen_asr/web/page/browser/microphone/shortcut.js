// The key that presses Record and Stop: Alt+R. Pure.
//
// No browser and no screen reader takes it, and with Ctrl or Meta it would reload the page. In a text field on a Mac it
// types "®", and a text field keeps its keys.

export function pressesRecord(event) {
  if (!event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return false;
  if (event.repeat || event.isComposing) return false;
  if (event.getModifierState?.("AltGraph")) return false;
  if (event.key.toLowerCase() === "r") return true;
  // A keyboard of another script, or a Mac: there the key with the letter R types something else.
  return event.code === "KeyR" && !/^[a-z]$/i.test(event.key) && !isTextField(event.target);
}

function isTextField(node) {
  return Boolean(node?.isContentEditable) || ["INPUT", "TEXTAREA", "SELECT"].includes(node?.tagName);
}
