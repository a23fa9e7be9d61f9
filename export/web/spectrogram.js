// The spectrogram of a clip: time on the x axis, frequency on a logarithmic y axis.
//
// Computed here because the browser's AnalyserNode follows audio in real time only. It can analyse a
// whole file with OfflineAudioContext.suspend(), which Firefox does not have.

const FRAME = 1024;  // samples
const RANGE_DB = 80;
const LOWEST_HZ = 50;

const hann = Float32Array.from({length: FRAME}, (_, i) =>
    0.5 - 0.5 * Math.cos(2 * Math.PI * i / (FRAME - 1)));

/** Computes the Fourier transform in place; the length must be a power of two. */
function fft(real, imaginary) {
  const n = real.length;
  for (let i = 1, j = 0; i < n; i++) {
    let bit = n >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) {
      [real[i], real[j]] = [real[j], real[i]];
      [imaginary[i], imaginary[j]] = [imaginary[j], imaginary[i]];
    }
  }
  for (let size = 2; size <= n; size <<= 1) {
    const angle = -2 * Math.PI / size;
    for (let start = 0; start < n; start += size) {
      for (let k = 0; k < size / 2; k++) {
        const a = start + k, b = a + size / 2;
        const c = Math.cos(angle * k), s = Math.sin(angle * k);
        const x = real[b] * c - imaginary[b] * s, y = real[b] * s + imaginary[b] * c;
        real[b] = real[a] - x; imaginary[b] = imaginary[a] - y;
        real[a] += x; imaginary[a] += y;
      }
    }
  }
}

/** Maps a level from 0 to 1 to a colour: black, violet, orange, pale yellow. */
function colour(level) {
  const red = Math.min(1, 1.6 * level), green = Math.max(0, 1.5 * level - 0.5);
  const blue = level < 0.4 ? 1.4 * level : Math.max(0, 0.56 - (level - 0.4) + 2 * Math.max(0, level - 0.8));
  return [255 * red, 255 * Math.min(1, green), 255 * Math.min(1, blue)];
}

/** Draws the spectrogram of a waveform on the whole canvas. */
export function drawSpectrogram(canvas, waveform, sampleRate) {
  const context = canvas.getContext('2d');
  const {width, height} = canvas;
  const image = context.createImageData(width, height);
  const columns = [];
  let loudest = -Infinity;
  for (let x = 0; x < width; x++) {
    const centre = Math.round((x + 0.5) * waveform.length / width);
    const real = new Float32Array(FRAME), imaginary = new Float32Array(FRAME);
    for (let i = 0; i < FRAME; i++) {
      real[i] = (waveform[centre - FRAME / 2 + i] ?? 0) * hann[i];
    }
    fft(real, imaginary);
    const levels = new Float32Array(FRAME / 2);
    for (let k = 0; k < FRAME / 2; k++) {
      levels[k] = 10 * Math.log10(real[k] ** 2 + imaginary[k] ** 2 + 1e-10);
      loudest = Math.max(loudest, levels[k]);
    }
    columns.push(levels);
  }
  const octaves = Math.log2(sampleRate / 2 / LOWEST_HZ);
  for (let y = 0; y < height; y++) {
    const hertz = LOWEST_HZ * 2 ** (octaves * (1 - y / height));
    const bin = Math.min(FRAME / 2 - 1, Math.round(hertz * FRAME / sampleRate));
    for (let x = 0; x < width; x++) {
      const level = Math.max(0, 1 + (columns[x][bin] - loudest) / RANGE_DB);
      image.data.set([...colour(level), 255], 4 * (y * width + x));
    }
  }
  context.putImageData(image, 0, 0);
}
