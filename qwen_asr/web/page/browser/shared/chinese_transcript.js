// The words of the transcript in Chinese, by the English words in the code.

export const CHINESE_TRANSCRIPT = {
  "Brings back what was removed last. Possible until more is removed or a new recording begins.":
    "恢复最近移除的文字。在再次移除文字或开始新的录音之前可用。",
  "Cleared. Undo brings the text back.": "已清空。按“撤销”可恢复文字。",
  "corrected": "已更正",
  "Corrected. Before: {before}": "已更正。之前：{before}",
  "Corrected. This was not there before.": "已更正。之前没有这部分。",
  "Download": "下载",
  "Download as JSON": "下载为 JSON",
  "Download as SRT": "下载为 SRT",
  "Download as TXT": "下载为 TXT",
  "Download as VTT": "下载为 VTT",
  "Edit": "编辑",
  "Edit the line at {time}": "编辑 {time} 处的一行",
  "edited": "已编辑",
  "Stop the recording before you log out.": "请先停止录音，再退出登录。",
  "Text of the line. Enter saves, Escape cancels.": "该行的文字。按 Enter 保存，按 Esc 取消。",
  "The file could not be made: the server does not answer. Try again.": "无法生成文件：服务器没有应答。请重试。",
  "The transcript is too long for one file. Copy it instead.": "文字记录太长，无法放入一个文件。请改为复制。",
  "This browser does not keep the text (its storage is full or switched off): download or copy it before you close the page.":
    "此浏览器无法保存文字（其存储空间已满或已关闭）：请在关闭本页之前下载或复制。",
  "This browser keeps the text until you press Clear.": "此浏览器会保留文字，直到您按“清空”。",
  "This browser keeps the text until you press Clear or log out.": "此浏览器会保留文字，直到您按“清空”或退出登录。",
  "Undo": "撤销",
};
