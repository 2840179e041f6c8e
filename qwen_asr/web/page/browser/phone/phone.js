// The page on a phone: the QR code of its address, and a button to install it where the browser offers that.

import { OFFERED } from "../live/install.js";
import { Settings, browserStorage } from "../shared/settings.js";
import { followLanguage, t } from "../shared/text.js";

const unreachable = () => t("The server did not answer. Close this section and open it again.");

export async function start(element, props, server) {
  const find = (selector) => element.querySelector(selector);
  let reply = null; // undefined: none came
  const showNote = () => {
    if (reply !== null) find(".note").textContent = reply ? t(reply.note) : unreachable();
  };
  followLanguage(element, new Settings(browserStorage(), document), navigator.languages, showNote);
  const install = find(".install");
  const showOffer = () => { install.hidden = !document.installOffer; };
  install.addEventListener("click", () => document.installOffer.prompt());
  document.addEventListener(OFFERED, showOffer);
  showOffer();
  addEventListener("appinstalled", () => { install.hidden = true; });
  const address = location.href.replace(/[?#].*/, "");
  reply = await server.phone_code({ address }).catch(() => undefined);
  showNote();
  find(".lead").hidden = !reply?.address;
  find(".code").innerHTML = reply?.code ?? ""; // an SVG of our own server, made of its own address and of nothing else
  Object.assign(find(".address"), { textContent: reply?.address ?? "", href: reply?.address ?? "" });
}
