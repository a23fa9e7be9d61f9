// Names sounds with a TFLite file that ast_keras exported, in either of two runtimes.

import {loadAndCompile, loadLiteRt, Tensor} from '@litertjs/core';
import {AudioClassifier} from '@mediapipe/tasks-audio';

import {draw} from './spectrogram.js';

const MODEL = 'model.tflite';
const SHOWN = 6;
const HOP_SECONDS = 1;  // between two results of the microphone

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

function say(text, isError = false) {
  element('status').textContent = text;
  element('status').classList.toggle('error', isError);
}

function show(scores) {
  const order = [...scores.keys()].sort((a, b) => scores[b] - scores[a]).slice(0, SHOWN);
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

/** Classifies a waveform, cut or filled with silence to the model's length, and shows all of it. */
async function classify(waveform) {
  const heard = new Float32Array(about.num_samples);
  heard.set(waveform.subarray(0, about.num_samples));
  draw(element('spectrogram'), heard, about.sample_rate);
  const name = element('engine').value;
  engines[name] ??= await makeEngine(name);
  const start = performance.now();
  const scores = await engines[name](heard);
  const milliseconds = performance.now() - start;
  show(scores);
  const seconds = about.num_samples / about.sample_rate;
  say(`${milliseconds.toFixed(0)} ms for ${seconds.toFixed(2)} s of sound`);
  return {engine: name, scores: [...scores], milliseconds};
}

/** Decodes a file of any rate and number of channels to the model's rate, mono. */
async function decode(file) {
  const context = new OfflineAudioContext(1, 1, about.sample_rate);
  const sound = await context.decodeAudioData(await file.arrayBuffer());
  const mono = new Float32Array(sound.length);
  for (let channel = 0; channel < sound.numberOfChannels; channel++) {
    const samples = sound.getChannelData(channel);
    for (let i = 0; i < mono.length; i++) mono[i] += samples[i] / sound.numberOfChannels;
  }
  return mono;
}

async function hear(file) {
  say(`Listening to ${file.name}…`);
  try {
    return await classify(await decode(file));
  } catch (error) {
    say(`${file.name} cannot be heard: ${error.message}`, true);
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
    say(`No microphone: ${error.message}`, true);
    return;
  }
  const context = new AudioContext({sampleRate: about.sample_rate});
  await context.audioWorklet.addModule('recorder.js');
  const recorder = new AudioWorkletNode(context, 'recorder');
  context.createMediaStreamSource(stream).connect(recorder);
  microphone = {stream, context};
  button.classList.add('on');
  const heard = new Float32Array(about.num_samples);
  let fresh = 0, busy = false;
  recorder.port.onmessage = async ({data}) => {
    heard.copyWithin(0, data.length);
    heard.set(data, heard.length - data.length);
    fresh += data.length;
    // While the model computes, sound goes on coming in; the newest is heard next.
    if (busy || fresh < HOP_SECONDS * about.sample_rate) return;
    fresh = 0;
    busy = true;
    await classify(heard).finally(() => { busy = false; });
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
let last = null;
function run(file) {
  last = file;
  globalThis.answer = hear(file);  // for whoever drives the page
  globalThis.answer.catch(() => {});
}
element('file').addEventListener('change', (event) => run(event.target.files[0]));
element('engine').addEventListener('change', () => last && !microphone && run(last));
element('microphone').addEventListener('click', toggleMicrophone);
say('Ready.');
globalThis.ready = true;
