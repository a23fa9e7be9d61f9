// Hands the microphone's samples to the page, some blocks at a time.

const BLOCKS = 16;  // of 128 samples

class Recorder extends AudioWorkletProcessor {
  constructor() {
    super();
    this.buffer = new Float32Array(BLOCKS * 128);
    this.filled = 0;
  }

  process([[channel]]) {
    if (!channel) return true;
    this.buffer.set(channel, this.filled);
    this.filled += channel.length;
    if (this.filled === this.buffer.length) {
      this.port.postMessage(this.buffer.slice());
      this.filled = 0;
    }
    return true;
  }
}

registerProcessor('recorder', Recorder);
