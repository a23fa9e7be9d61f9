// Sends the microphone's samples to the page, 16 blocks at a time.

const BLOCK_SAMPLES = 128;  // fixed by the Web Audio API
const NUM_BLOCKS = 16;

class Recorder extends AudioWorkletProcessor {
  constructor() {
    super();
    this.buffer = new Float32Array(NUM_BLOCKS * BLOCK_SAMPLES);
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
