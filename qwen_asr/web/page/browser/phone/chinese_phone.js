// The words about the page on a phone, in Chinese.

export const CHINESE_PHONE = {
  "A phone's browser allows the microphone only over https: start the server with --generate-self-signed-cert.":
    "手机浏览器只允许通过 https 使用麦克风：请使用 --generate-self-signed-cert 启动服务器。",
  "Install this page as an app": "将本页安装为应用",
  "QR code of this page's address": "本页地址的二维码",
  "Scan the code with the phone's camera, or type the address:": "用手机相机扫描二维码，或输入地址：",
  "The server did not answer. Close this section and open it again.": "服务器没有应答。请关闭此部分后重新打开。",
  "This server answers this computer only: start it with --host 0.0.0.0.": "此服务器只响应本机：请使用 --host 0.0.0.0 启动。",
  "To have it like an app, choose Install, or Add to Home Screen, in the browser's menu.":
    "要像应用一样使用，请在浏览器菜单中选择“安装”或“添加到主屏幕”。",
};
