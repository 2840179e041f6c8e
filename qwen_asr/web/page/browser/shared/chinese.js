// The page's words in Chinese, by the English words in the code.

import { CHINESE_FILES } from "../files/chinese_files.js";
import { CHINESE_PHONE } from "../phone/chinese_phone.js";
import { CHINESE_ZERO_GPU } from "../zero_gpu/chinese_zero_gpu.js";
import { CHINESE_RECORDING } from "./chinese_recording.js";
import { CHINESE_SETTINGS } from "./chinese_settings.js";
import { CHINESE_TRANSCRIPT } from "./chinese_transcript.js";

export const CHINESE = {
  ...CHINESE_FILES,
  ...CHINESE_PHONE,
  ...CHINESE_RECORDING,
  ...CHINESE_SETTINGS,
  ...CHINESE_TRANSCRIPT,
  ...CHINESE_ZERO_GPU,
  ".": "。",
  "A content security policy blocks the recorder (it needs blob: in script-src). Use the simple recorder below.":
    "内容安全策略阻止了录音（script-src 需要允许 blob:）。请使用下面的简易录音器。",
  "Browsers allow the microphone only on pages that came over https://. Open the https:// address of this page (the server prints it; it has one when started with --generate-self-signed-cert).":
    "浏览器只允许通过 https:// 打开的页面使用麦克风。请打开本页的 https:// 地址（服务器启动时会显示；使用 --generate-self-signed-cert 启动即可获得）。",
  "Clear": "清空",
  "Copied": "已复制",
  "Copy": "复制",
  "Finishing": "正在完成",
  "Keep speaking: nothing is lost.": "请继续说话：不会丢失任何内容。",
  "Keep this page open: nothing is lost.": "请不要关闭本页：不会丢失任何内容。",
  "Keep this page open: your speech is sent as soon as a place is free.": "请不要关闭本页：一有空位就会发送您的语音。",
  "Listening": "正在聆听",
  "Loading …": "正在加载…",
  "No microphone was found. Plug one in or switch it on, then press Record.": "未找到麦克风。请接好或打开麦克风，然后按“录音”。",
  "No sound came from the simple recorder. Stop it there, allow the microphone, and record again.":
    "简易录音器没有传来声音。请在那里停止录音，允许使用麦克风，然后重新录音。",
  "No sound came from the simple recorder. Try another browser.": "简易录音器没有传来声音。请换一个浏览器。",
  "No sound from the microphone: is it muted?": "麦克风没有声音：是否已静音？",
  "Ready": "就绪",
  "Reconnecting": "正在重新连接",
  "Record": "录音",
  "Recording was stopped: the server has been full for {minutes} minutes. Your speech is kept in this page and is sent as soon as the server has a free place.":
    "录音已停止：服务器已满 {minutes} 分钟。您的语音保存在本页中，服务器一有空位就会发送。",
  "Recording was stopped: the server has been out of reach for {minutes} minutes. Your speech is kept in this page and is sent as soon as the server answers.":
    "录音已停止：已有 {minutes} 分钟无法连接服务器。您的语音保存在本页中，服务器一有应答就会发送。",
  "Selected": "已选中",
  "slanted and underlined": "斜体并带下划线",
  "Stop": "停止",
  "The browser does not let this page use the microphone. Allow it in the site settings beside the address, then press Record.":
    "浏览器不允许本页使用麦克风。请在地址栏旁的网站设置中允许，然后按“录音”。",
  "The browser has delivered less sound than time has passed, so words may be missing.":
    "浏览器提供的声音少于经过的时间，可能会缺少一些字词。",
  "The device has paused the microphone. Tap the page to continue.": "设备已暂停麦克风。请点击页面以继续。",
  "The microphone could not be opened: another program may be using it. Close that program, then press Record.":
    "无法打开麦克风：可能有其他程序正在使用。请关闭该程序，然后按“录音”。",
  "The microphone was unplugged. The text so far is below; plug it in again, then press Record.":
    "麦克风已被拔出。已有的文字在下面；请重新接好，然后按“录音”。",
  "The page failed; reload it. The text stays until then.": "页面出错，请重新加载。在此之前文字会保留。",
  "The server is full. Your speech is kept here and is sent as soon as a place is free.":
    "服务器已满。您的语音保存在这里，一有空位就会发送。",
  "The server is restarting. Keep this page open: nothing is lost.": "服务器正在重启。请不要关闭本页：不会丢失任何内容。",
  "The server lost this recording. Its text stays; record again to continue.":
    "服务器丢失了这段录音。文字会保留；请重新录音以继续。",
  "This browser cannot record here. Use the simple recorder below.": "此浏览器无法在这里录音。请使用下面的简易录音器。",
  "Transcript": "文字记录",
  "Waiting for the microphone …": "正在等待麦克风…",
  "Waiting: you are next": "等待中：下一个就是您",
  "Waiting: {count} before you": "等待中：前面还有 {count} 位",
  "Your login has ended. Log in again in another tab: nothing is lost, and the recording goes on here.":
    "您的登录已失效。请在另一个标签页中重新登录：不会丢失任何内容，录音会在这里继续。",
  "Your words appear here while you speak. Words that may still change are": "您说话时文字会出现在这里。可能还会改变的字词显示为",
  "{seconds} s behind": "落后 {seconds} 秒",
};
