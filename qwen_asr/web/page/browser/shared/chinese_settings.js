// The words of the Settings tab, of the big screen and of Gradio's components in Chinese.

export const CHINESE_SETTINGS = {
  "Applies from the next recording or file on.": "从下一次录音或下一个文件起生效。",
  "As the browser": "跟随浏览器",
  "As the system": "跟随系统",
  "Automatic": "自动",
  "Big screen": "大屏幕",
  "Captions": "字幕",
  "Choices are kept in this browser, and apply at once.": "选择保存在此浏览器中，并立即生效。",
  "Context": "上下文",
  "Dark": "深色",
  "English (英语)": "English (英语)",
  "For your next visit. They are kept in this browser only, as plain text, until you untick this or reset. A context may hold names: leave this off on a shared computer.":
    "供下次使用。它们以明文只保存在此浏览器中，直到您取消勾选或重置。上下文可能包含人名：在公用电脑上请不要勾选。",
  "Huge": "巨大",
  "If Record does not work in this browser, use this simpler recorder. It sends audio every half second, and a poor connection may lose some of it. The text appears above.":
    "如果“录音”在此浏览器中不起作用，请使用这个简易录音器。它每半秒发送一次音频，网络不好时可能会丢失一部分。文字显示在上面。",
  "Language": "语言",
  "Large": "大",
  "Leave": "退出",
  "Light": "浅色",
  "Live": "实时",
  "Log out": "退出登录",
  "Medium": "中",
  "Model": "模型",
  "Names and terms (optional)": "人名和术语（可选）",
  "Of the transcripts in all tabs.": "用于所有标签页中的文字记录。",
  "Of the page itself. What you speak is chosen above, under Language. The buttons of the simple recorder change when the page is opened again.":
    "指本页自身的语言。您说的语言在上方的“语言”中选择。简易录音器的按钮在下次打开本页时才会改变。",
  "Page language": "页面语言",
  "Pause length": "停顿长度",
  "Press Record, speak, and read along.": "按“录音”，说话，同时阅读文字。",
  "Qwen3-ASR live": "Qwen3-ASR 实时转写",
  "Remember the fields above": "记住上面的栏目",
  "Reset settings": "重置设置",
  "Settings": "设置",
  "Silence of this length ends an utterance. A longer pause makes longer paragraphs. Applies from the next sentence on.":
    "静音达到此长度时，一段话结束。停顿越长，段落越长。从下一句话起生效。",
  "Simple recorder": "简易录音器",
  "Small": "小",
  "Text size": "文字大小",
  "Theme": "主题",
  "This browser keeps no settings for this page (private window, or its storage is full or forbidden). They last until the page is closed.":
    "此浏览器不为本页保存设置（无痕窗口，或存储空间已满或被禁止）。设置在关闭本页之前有效。",
  "Trouble with the microphone?": "麦克风有问题？",
  "Use it on a phone": "在手机上使用",
  "Very large": "很大",
  "中文 (Chinese)": "中文 (Chinese)",

  // The languages that can be spoken.
  "Arabic": "阿拉伯语", "Cantonese": "粤语", "Chinese": "汉语", "Czech": "捷克语", "Danish": "丹麦语", "Dutch": "荷兰语",
  "English": "英语",
  "Filipino": "菲律宾语", "Finnish": "芬兰语", "French": "法语", "German": "德语", "Greek": "希腊语", "Hindi": "印地语",
  "Hungarian": "匈牙利语", "Indonesian": "印度尼西亚语", "Italian": "意大利语", "Japanese": "日语", "Korean": "韩语",
  "Macedonian": "马其顿语", "Malay": "马来语", "Persian": "波斯语", "Polish": "波兰语", "Portuguese": "葡萄牙语",
  "Romanian": "罗马尼亚语", "Russian": "俄语", "Spanish": "西班牙语", "Swedish": "瑞典语", "Thai": "泰语",
  "Turkish": "土耳其语", "Vietnamese": "越南语",
};
