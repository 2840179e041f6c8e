// The words of the page of a Space with ZeroGPU, in Chinese.

export const CHINESE_ZERO_GPU = {
  "Audio or video file": "音频或视频文件",
  "Hugging Face gives each visitor some minutes of GPU time a day. A clip asks for some of it in advance, the longer the more; only what it uses counts.":
    "Hugging Face 每天给每位访客几分钟 GPU 时间。转写时会预先申请一部分，音频越长申请越多；只计实际使用的时间。",
  "Live recording is not offered here.": "此处不提供实时录音。",
  "Record or choose a file, then read what was said.": "录音或选择文件，然后阅读文字。",
  "Recording": "录音",
  "This Space runs on ZeroGPU, which lends a GPU for one call at a time, so the words cannot appear while you speak. On a Space with a CPU or a GPU of its own they do.":
    "此 Space 使用 ZeroGPU，每次调用才借用 GPU，因此无法边说边显示文字。使用 CPU 或独占 GPU 的 Space 则可以。",
  "Transcribe the file": "转写文件",
  "Transcribe the recording": "转写录音",
};
