// The bytes of a recording that the server may still need, addressed by their offset in the recording.

export class ByteQueue {
  #blocks = [];

  start = 0; // offset of the first byte that is still here
  end = 0;   // offset behind the last byte: the length of the recording so far

  push(bytes) {
    this.#blocks.push(bytes);
    this.end += bytes.length;
  }

  // Drops the blocks that lie entirely before the offset.
  discard(before) {
    while (this.#blocks.length && this.start + this.#blocks[0].length <= before) {
      this.start += this.#blocks.shift().length;
    }
  }

  // A copy of the bytes at [from, from + maxBytes), shorter at the end of the queue.
  read(from, maxBytes) {
    if (from < this.start || from > this.end) {
      throw new RangeError(`Byte ${from} is not in the queue, which holds [${this.start}, ${this.end}).`);
    }
    const bytes = new Uint8Array(Math.min(maxBytes, this.end - from));
    let blockStart = this.start;
    let filled = 0;
    for (const block of this.#blocks) {
      if (filled === bytes.length) break;
      const skipped = Math.max(0, from - blockStart);
      blockStart += block.length;
      if (skipped >= block.length) continue;
      const part = block.subarray(skipped, skipped + bytes.length - filled);
      bytes.set(part, filled);
      filled += part.length;
    }
    return bytes;
  }
}

export function toBase64(bytes) {
  let binary = "";
  // In slices: a call takes a limited number of arguments.
  for (let i = 0; i < bytes.length; i += 0x8000) {
    binary += String.fromCharCode.apply(null, bytes.subarray(i, i + 0x8000));
  }
  return btoa(binary);
}
