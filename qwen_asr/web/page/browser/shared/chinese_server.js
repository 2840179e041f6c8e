// What Python writes with its values in it, in Chinese: sentences of the server that users of the page meet often, and
// labels. A name in braces stands for a number where it is one of NUMBERS, else for any text. The server's other
// sentences stay English.

export const NUMBERS = ["count", "percent", "seconds", "size", "wait"];

export const CHINESE_SERVER = {
  "A small demo that knows everyday sentences of a fixed kind, such as “Turn on the kitchen light.”, “The meeting is on Monday the tenth of May.”, “Wake me up at half past six.”, and nothing else. For real speech start the server with a Qwen3-ASR checkpoint.":
    "这是一个小型演示，只认识固定类型的日常英语句子，例如“Turn on the kitchen light.”、“The meeting is on Monday the tenth of May.”、“Wake me up at half past six.”。要识别真实语音，请用 Qwen3-ASR 模型启动服务器。",
  "As the server ({seconds} s)": "与服务器相同（{seconds} 秒）",
  "Converting the decoder of {name} to int8 …": "正在将 {name} 的解码器转换为 int8…",
  "Fetching {name} from the Hugging Face hub (several GB the first time) …":
    "正在从 Hugging Face 下载 {name}（首次需下载数 GB）…",
  "Fetching {name} from the mirror {host} that HF_ENDPOINT names (several GB the first time) …":
    "正在从 HF_ENDPOINT 指定的镜像 {host} 下载 {name}（首次需下载数 GB）…",
  "Fetching {name}: {percent} % of {size} GB …": "正在下载 {name}：{size} GB 的 {percent} %…",
  "Loading {name} ({size} MB) on {device} in {precision} …": "正在以 {precision} 将 {name}（{size} MB）加载到 {device}…",
  "Model: {name}": "模型：{name}",
  "Models: {names}": "模型：{names}",
  "Moving {name} to {device} …": "正在将 {name} 移到 {device}…",
  "No Qwen3-ASR checkpoint could be loaded (the log says why), so this is the demo instead. {note}":
    "未能加载任何 Qwen3-ASR 模型（原因见日志），因此改用演示模型。{note}",
  "No Qwen3-ASR weights are cached and none can be fetched: using the bundled demo checkpoint …":
    "没有缓存的 Qwen3-ASR 权重，也无法下载：使用自带的演示模型…",
  "Preparing the GPU: {percent} % …": "正在准备 GPU：{percent} %…",
  "The address of {name} is not a public one, and this server fetches only from those that --file-links names: download the file and drop it here.":
    "{name} 的地址不是公共地址，此服务器只从 --file-links 指定的地址获取文件：请下载文件并拖放到这里。",
  "The audio cannot be read as audio ({reason}); expected a recording such as wav, flac, mp3, m4a, ogg, webm or mp4.":
    "无法将文件作为音频读取（{reason}）；需要 wav、flac、mp3、m4a、ogg、webm 或 mp4 等录音。",
  "The device is short of memory for another session: try again a little later.":
    "设备内存不足，无法再开始一个会话：请稍后再试。",
  "The device ran out of memory on this utterance. Fewer sessions or a smaller checkpoint will fit.":
    "处理这句话时设备内存不足。请减少会话数或使用较小的模型。",
  "The recognizer failed on this part; the log says why.": "识别器处理这一部分时出错；原因见日志。",
  "The recognizer failed on this utterance ({error}). The next one goes on.":
    "识别器处理这句话时出错（{error}）。下一句会继续识别。",
  "The file is longer than {seconds} seconds, the most that this server takes: split it.":
    "文件长度超过 {seconds} 秒，这是此服务器允许的最大长度：请拆分文件。",
  "The recognizer was stopped.": "识别器已停止。",
  "The recording has lasted as long as this server allows and was stopped. Press Record to continue.":
    "录音已达到此服务器允许的最长时间，已停止。按“录音”以继续。",
  "The server is restarting: reconnect in a moment to continue.": "服务器正在重启：请稍后重新连接以继续。",
  "This server accepts {count} requests in {seconds} seconds from one sender: try again in {wait} seconds.":
    "此服务器每 {seconds} 秒只接受同一来源的 {count} 个请求：请在 {wait} 秒后重试。",
  "This address leads to a web page, not to a media file: give the file's own.":
    "此地址指向网页，而不是媒体文件：请提供文件本身的地址。",
  "Waiting for an engine: none can be reached now.": "正在等待识别引擎：目前无法连接到任何引擎。",
  "Waiting to load {name} …": "等待加载 {name}…",
  "You are not logged in, or your login has ended: open the page and log in.": "您尚未登录，或登录已失效：请打开本页并登录。",
  "{seconds} s": "{seconds} 秒",
};
