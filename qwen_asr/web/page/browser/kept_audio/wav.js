// WAV files of one channel of int16. Pure.

const HEADER_BYTES = 44;
export const MAX_DATA_BYTES = 0xffffffff - HEADER_BYTES; // the format counts in 32 bits

// The header of a file with `bytes` of samples, as Microsoft's RIFF WAVE describes it (format 1: PCM).
export function wavHeader(bytes, rate) {
  const view = new DataView(new ArrayBuffer(HEADER_BYTES));
  const text = (at, letters) => [...letters].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, HEADER_BYTES - 8 + bytes, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);       // bytes of the format that follows
  view.setUint16(20, 1, true);        // PCM
  view.setUint16(22, 1, true);        // channels
  view.setUint32(24, rate, true);
  view.setUint32(28, rate * 2, true); // bytes a second
  view.setUint16(32, 2, true);        // bytes of a sample of all channels
  view.setUint16(34, 16, true);       // bits of a sample
  text(36, "data");
  view.setUint32(40, bytes, true);
  return new Uint8Array(view.buffer);
}
