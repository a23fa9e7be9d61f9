// Classifies audio with a TFLite file that ast_keras exported, in either of two runtimes.

import {loadAndCompile, loadLiteRt, Tensor} from '@litertjs/core';
import {AudioClassifier} from '@mediapipe/tasks-audio';

import {drawSpectrogram} from './spectrogram.js';

const MODEL = 'model.tflite';
const NUM_SHOWN = 6;  // labels with the highest scores
const HOP_SECONDS = 1;  // time between two results of the microphone

const element = (id) => document.getElementById(id);
const about = await (await fetch('model.tflite.json')).json();  // sample_rate, num_samples, labels
const engines = {litert: null, mediapipe: null};
let microphone = null;

/** Returns a function from a waveform of the model's length to a score for every class. */
async function makeEngine(name) {
  if (name === 'mediapipe') {
    const base = 'node_modules/@mediapipe/tasks-audio/wasm/audio_wasm_internal';
    const files = {wasmLoaderPath: `${base}.js`, wasmBinaryPath: `${base}.wasm`};
    const classifier = await AudioClassifier.createFromOptions(
        files, {baseOptions: {modelAssetPath: MODEL}, maxResults: -1});
    return async (waveform) => {
      const [result] = classifier.classify(waveform, about.sample_rate);
      const scores = new Float32Array(about.labels.length);
      for (const {index, score} of result.classifications[0].categories) scores[index] = score;
      return scores;
    };
  }
  await loadLiteRt('node_modules/@litertjs/core/wasm/');
  const model = await loadAndCompile(MODEL, {accelerator: 'wasm'});
  return async (waveform) => {
    const input = new Tensor(waveform, [1, waveform.length]);
    const [output] = await model.run([input]);
    const scores = Float32Array.from(await output.data());
    input.delete();
    output.delete();
    return scores;
  };
}

function setStatus(text, isError = false) {
  element('status').textContent = text;
  element('status').classList.toggle('error', isError);
}

function showScores(scores) {
  const order = [...scores.keys()].sort((a, b) => scores[b] - scores[a]).slice(0, NUM_SHOWN);
  element('labels').replaceChildren(...order.map((index) => {
    const item = document.createElement('li');
    const name = document.createElement('span');
    const track = document.createElement('span');
    const bar = document.createElement('span');
    const score = document.createElement('span');
    name.textContent = about.labels[index];
    bar.className = 'bar';
    bar.style.display = 'block';
    bar.style.width = `${100 * scores[index]}%`;
    score.className = 'score';
    score.textContent = scores[index].toFixed(3);
    track.append(bar);
    item.append(name, track, score);
    return item;
  }));
}

/** Classifies a waveform, truncated or zero-padded to the model's length, and shows the results. */
async function classify(waveform) {
  const clip = new Float32Array(about.num_samples);
  clip.set(waveform.subarray(0, about.num_samples));
  drawSpectrogram(element('spectrogram'), clip, about.sample_rate);
  const name = element('engine').value;
  engines[name] ??= await makeEngine(name);
  const start = performance.now();
  const scores = await engines[name](clip);
  const milliseconds = performance.now() - start;
  showScores(scores);
  const seconds = about.num_samples / about.sample_rate;
  setStatus(`${milliseconds.toFixed(0)} ms for ${seconds.toFixed(2)} s of audio`);
  return {engine: name, scores: [...scores], milliseconds};
}

/** Decodes a file of any sample rate and number of channels to mono at the model's rate. */
async function decode(file) {
  const context = new OfflineAudioContext(1, 1, about.sample_rate);
  const audio = await context.decodeAudioData(await file.arrayBuffer());
  const mono = new Float32Array(audio.length);
  for (let channel = 0; channel < audio.numberOfChannels; channel++) {
    const samples = audio.getChannelData(channel);
    for (let i = 0; i < mono.length; i++) mono[i] += samples[i] / audio.numberOfChannels;
  }
  return mono;
}

async function classifyFile(file) {
  setStatus(`Classifying ${file.name}…`);
  try {
    return await classify(await decode(file));
  } catch (error) {
    setStatus(`${file.name} cannot be classified: ${error.message}`, true);
    throw error;
  }
}

async function toggleMicrophone() {
  const button = element('microphone');
  if (microphone) {
    microphone.stream.getTracks().forEach((track) => track.stop());
    await microphone.context.close();
    microphone = null;
    button.classList.remove('on');
    return;
  }
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({audio: {channelCount: 1}});
  } catch (error) {
    setStatus(`No microphone: ${error.message}`, true);
    return;
  }
  const context = new AudioContext({sampleRate: about.sample_rate});
  await context.audioWorklet.addModule('recorder.js');
  const recorder = new AudioWorkletNode(context, 'recorder');
  context.createMediaStreamSource(stream).connect(recorder);
  microphone = {stream, context};
  button.classList.add('on');
  const latest = new Float32Array(about.num_samples);
  let numNew = 0, busy = false;
  recorder.port.onmessage = async ({data}) => {
    latest.copyWithin(0, data.length);
    latest.set(data, latest.length - data.length);
    numNew += data.length;
    // Audio that arrives while the model computes is part of the next result.
    if (busy || numNew < HOP_SECONDS * about.sample_rate) return;
    numNew = 0;
    busy = true;
    await classify(latest).finally(() => { busy = false; });
  };
}

const drop = element('drop');
drop.addEventListener('dragover', (event) => {
  event.preventDefault();
  drop.classList.add('over');
});
drop.addEventListener('dragleave', () => drop.classList.remove('over'));
drop.addEventListener('drop', (event) => {
  event.preventDefault();
  drop.classList.remove('over');
  if (event.dataTransfer.files.length) run(event.dataTransfer.files[0]);
});
let lastFile = null;
function run(file) {
  lastFile = file;
  globalThis.answer = classifyFile(file);  // read by tests/clients/browse.mjs
  globalThis.answer.catch(() => {});
}
element('file').addEventListener('change', (event) => run(event.target.files[0]));
element('engine').addEventListener('change', () => lastFile && !microphone && run(lastFile));
element('microphone').addEventListener('click', toggleMicrophone);
setStatus('Ready.');
globalThis.ready = true;
