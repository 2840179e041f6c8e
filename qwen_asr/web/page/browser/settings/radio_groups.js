// Gradio gives each radio button a name of its own and their group no name: the arrow keys do nothing, and a screen
// reader calls each button "1 of 1" and never says what it is a choice of.

function mend(root) {
  for (const label of root.querySelectorAll("fieldset[id] [data-testid=block-info]:not([id])")) {
    const group = label.closest("fieldset");
    label.id = `${group.id}-label`;
    group.setAttribute("role", "radiogroup");
    group.setAttribute("aria-labelledby", label.id);
  }
  for (const radio of root.querySelectorAll("fieldset[id] input[type=radio]")) {
    const { id } = radio.closest("fieldset");
    if (radio.name !== id) radio.name = id;
  }
}

// Mends the groups below `root`, now and whenever Gradio makes others there, or writes its names again: it does so to a
// button that is chosen.
export function followRadioGroups(root) {
  new MutationObserver(() => mend(root)).observe(root, { childList: true, subtree: true, attributeFilter: ["name"] });
  mend(root);
}
