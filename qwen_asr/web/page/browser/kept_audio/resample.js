// Samples at another rate, by the browser's own resampler.

export async function resample(blob, from, to) {
  const samples = Float32Array.from(new Int16Array(await blob.arrayBuffer()), (sample) => sample / 32768);
  const context = new OfflineAudioContext(1, Math.max(1, Math.round(samples.length * to / from)), to);
  const buffer = context.createBuffer(1, samples.length, from);
  buffer.copyToChannel(samples, 0);
  const source = context.createBufferSource();
  source.buffer = buffer;
  source.connect(context.destination);
  source.start();
  const rendered = (await context.startRendering()).getChannelData(0);
  return new Blob([Int16Array.from(rendered, (value) => Math.max(-32768, Math.min(32767, Math.round(value * 32768))))]);
}
