// What makes the page one that a phone or a computer can install like an app.

// The document keeps the browser's offer as `installOffer`, and gets this event when it comes: the section that shows
// the button exists only once it is opened.
export const OFFERED = "qwen-asr-installable";

export function prepareInstall() {
  // Gradio's own link leads to the top of the host, where the page need not be.
  document.querySelector("link[rel=manifest]")?.setAttribute("href", "manifest.json");
  for (const [rel, href] of [["icon", "icons/48.png"], ["apple-touch-icon", "icons/180.png"]]) {
    document.head.append(Object.assign(document.createElement("link"), { rel, href }));
  }
  addEventListener("beforeinstallprompt", (event) => {
    event.preventDefault();
    document.installOffer = event;
    document.dispatchEvent(new Event(OFFERED));
  });
}
