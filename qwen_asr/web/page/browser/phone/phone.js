// The page on a phone: the QR code of its address, and a button to install it where the browser offers that.

import { preferredLanguage, setLanguage, t, translate } from "../shared/text.js";

const unreachable = () => t("The server did not answer. Close this section and open it again.");

export async function start(element, props, server) {
  setLanguage(preferredLanguage(null, navigator.languages));
  translate(element);
  const find = (selector) => element.querySelector(selector);
  const install = find(".install");
  const showOffer = () => { install.hidden = !document.installOffer; };
  install.addEventListener("click", () => document.installOffer.prompt());
  document.addEventListener("qwen-asr-installable", showOffer);
  showOffer();
  addEventListener("appinstalled", () => { install.hidden = true; });
  const address = location.href.replace(/[?#].*/, "");
  const reply = await server.phone_code({ address }).catch(() => undefined);
  find(".note").textContent = reply ? t(reply.note) : unreachable();
  find(".lead").hidden = !reply?.address;
  find(".code").innerHTML = reply?.code ?? ""; // an SVG of our own server, made of its own address and of nothing else
  Object.assign(find(".address"), { textContent: reply?.address ?? "", href: reply?.address ?? "" });
}
