// The Chinese words of the microphone's choices, the time, the lag and the kept audio.

export const CHINESE_RECORDING = {
  "Alt+R on the keyboard": "键盘快捷键：Alt+R",
  "Automatic level": "自动音量",
  "Can remove parts of words with the noise. Try it if a fan or traffic is loud.":
    "可能会把部分字词连同噪声一起去掉。风扇或车流声很大时可以试试。",
  "Changes here count from the next press of Record on. Alt+R presses Record and Stop.":
    "这里的更改从下次按“录音”起生效。Alt+R 可按下“录音”和“停止”。",
  "Download as WAV": "下载为 WAV",
  "Echo cancellation": "回声消除",
  "It is quiet.": "现在很安静。",
  "Keep the audio": "保留录音",
  "Kept in this browser: {time}.": "已保存在此浏览器中：{time}。",
  "Kept until this page is closed: {time}. This browser allows no storage.":
    "保留到本页关闭为止：{time}。此浏览器不允许存储。",
  "Level of the microphone": "麦克风音量",
  "Makes a quiet voice louder. Good for most microphones.": "把较小的声音放大。适合大多数麦克风。",
  "Microphone": "麦克风",
  "Microphone to use": "使用的麦克风",
  "Noise suppression": "噪声抑制",
  "Paused by a call, a locked screen or another app. The recording goes on by itself afterwards.":
    "因来电、锁屏或其他应用而暂停。之后录音会自动继续。",
  "Removes what the loudspeaker plays. Only useful in a call or with music; on a phone it lowers the quality of the sound.":
    "去掉扬声器播放的声音。只在通话或播放音乐时有用；在手机上会降低音质。",
  "Stores up to two hours in this browser, until Clear, at most for a day. Nothing stays on the server. The button WAV saves it as a file.":
    "在此浏览器中最多保存两小时，直到“清空”，最长一天。服务器上不保留任何内容。用“WAV”按钮存为文件。",
  "The browser cannot keep the audio. The recording goes on.": "浏览器无法保留音频。录音会继续。",
  "The browser's default": "浏览器默认",
  "The browser's storage is full: the audio is no longer kept. The recording goes on.":
    "浏览器的存储空间已满：不再保留音频。录音会继续。",
  "The chosen microphone": "所选的麦克风",
  "The chosen microphone is not connected: the browser's default is used.": "所选的麦克风未连接：使用浏览器默认的麦克风。",
  "The language is recognized by itself from the next sentence on.": "从下一句起自动识别语言。",
  "The microphone hears you.": "麦克风能听到您。",
  "The microphone was paused at {time} for {seconds} s. What was said then is missing.":
    "麦克风在 {time} 暂停了 {seconds} 秒。其间所说的内容缺失。",
  "The names of the microphones appear here after the first recording.": "第一次录音后，这里会显示麦克风的名称。",
  "The new context holds from the next sentence on.": "新的上下文从下一句起生效。",
  "The new pause length holds from the next sentence on.": "新的停顿时长从下一句起生效。",
  "The page keeps at most {time} of audio: what follows is not kept. The recording goes on.":
    "本页最多保留 {time} 的音频：之后的不再保留。录音会继续。",
  "This recording ends in less than 5 minutes. Its text stays; press Record then to go on.":
    "这段录音将在 5 分钟内结束。文字会保留；届时按“录音”继续。",
  "This recording ends in less than a minute. Its text stays; press Record then to go on.":
    "这段录音将在一分钟内结束。文字会保留；届时按“录音”继续。",
  "Too loud: move away from the microphone.": "声音太大：请离麦克风远一些。",
  "less than 1 min left": "剩余不到 1 分钟",
  "“{name}” is not connected: the browser's default is used.": "“{name}”未连接：使用浏览器默认的麦克风。",
  "{language} from the next sentence on.": "从下一句起使用{language}。",
  "{level} dB": "{level} 分贝",
  "{minutes} min left": "剩余 {minutes} 分钟",
  "{seconds} s behind: catching up ({speed} × real time)": "落后 {seconds} 秒：正在赶上（实时的 {speed} 倍）",
  "{seconds} s behind: keeping up": "落后 {seconds} 秒：跟得上",
  "{seconds} s behind: this server is slower than you speak ({speed} × real time)":
    "落后 {seconds} 秒：这台服务器比您说话慢（实时的 {speed} 倍）",
  "{seconds} s behind: your speech is on its way to the server": "落后 {seconds} 秒：您的语音正在传往服务器",
};
